// Package decoder describes decoder-only transformers as data and runs them in
// float32. It knows nothing of quantization and of files.
//
// A model is a list of blocks. A block is a Program: operations on registers,
// in computing order. Register 0 is the residual stream [rows, hidden]; the
// others hold what is computed from it. Of Llama's block:
//
//	h = norm(x)                        stage 0: read by q, k, v
//	q, k, v = linear(h); rotate q, k
//	a = attention(q, k, v)             stage 1: read by o
//	x += linear(a)
//	h = norm(x)                        stage 2: read by gate, up
//	g, u = linear(h)
//	g = silu(g) * u                    stage 3: read by down
//	x += linear(g)
//
// A Stage is a register that linear layers read: it says which, how wide it is,
// which tokens it holds (all, or those routed to an expert), and what a scale of
// its channels folds into. Stages are found in the program, not written down.
// Whoever calibrates, quantizes or measures stops at stages (package walk) and
// may exchange the weights of linears between them.
//
// An architecture is one file: its names in config.json, the keys it reads, and
// the program of a block, put together with a Builder (see llama.go). Where
// llama.cpp has the architecture the same file has its names there.
//
// Rows are tokens: a batch is any number of whole windows of seqLen tokens, one
// after the other; each window is a sequence of its own with positions 0 to
// seqLen-1. Nothing computed here depends on the number of workers.
package decoder
