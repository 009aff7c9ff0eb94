// Package product is how linear layers are multiplied in another way than in float32.
package product

import "github.com/golowbit/lowbit/tensor"

// Product is y = x Wᵀ for a weight W [out, in] that it knows.
type Product interface {
	// Times sets dst [rows, out] to the product with x [rows, in], or adds it.
	Times(dst, x *tensor.Matrix, add bool, workers int)
}

// Source is implemented by weights of which some layers are multiplied in a way of their own.
type Source interface {
	// Product is how a layer, named without ".weight", is multiplied; nil in float32.
	Product(layer string) (Product, error)
}

// Of is how a layer of weights is multiplied; nil in float32.
func Of(weights any, layer string) (Product, error) {
	if s, ok := weights.(Source); ok {
		return s.Product(layer)
	}
	return nil, nil
}
