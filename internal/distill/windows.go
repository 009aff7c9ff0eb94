package distill

import "github.com/golowbit/lowbit/internal/decoder"

// HeldOut is which part of the windows nothing is fitted to.
const HeldOut = 8

// Split takes every eighth window out.
func Split(windows [][]int32) (train, held [][]int32) {
	for i, ids := range windows {
		if i%HeldOut == HeldOut/2 {
			held = append(held, ids)
		} else {
			train = append(train, ids)
		}
	}
	return train, held
}

// Products is about how many multiplications and additions Run takes for a text: the
// unquantized model once, and in every step the quantized one forward twice and back
// for inputs and for weights.
func Products(m *decoder.Model, tokens, steps int) float64 {
	weights := float64(m.Vocab) * float64(m.Hidden)
	for _, l := range m.Linears() {
		weights += float64(l.Out) * float64(l.In)
	}
	return weights * (float64(tokens) + 4*BatchTokens*float64(steps))
}
