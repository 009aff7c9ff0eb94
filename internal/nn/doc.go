// Package nn has the functions that blocks of models are made of, on rows and small
// matrices, each with its way back: norms, activations, causal attention, the choice of
// experts. It knows nothing of registers, weights and names; package program puts them
// together.
//
// The way back of a function f at x turns dy, the gradient of a loss at f(x), into the
// gradient at x: the product of dy with the Jacobian of f. Gradients are added to what
// is there where it is said so.
package nn
