// Package kernel holds the inner loops under tensor, quant, gptq and llama:
// float32 products and factorizations, half floats, and the row operations of
// quantizers and transformers.
//
// Every operation has a plain-Go twin that defines it. On amd64 and arm64
// assembly takes its place where the CPU has what it needs; the build tag
// purego leaves all assembly out, and the environment variable LOWBIT_CPU
// caps the level (see Level).
//
// Three promises hold everywhere:
//
//   - Results do not depend on the number of workers.
//   - Quantization kernels (min/max, codes, dequantization, packing, half
//     floats, PowErr) give the same bits at every level.
//   - An element of a product depends on its row, its column and the order of
//     k alone, not on the shape around it, so products may be cut into panels
//     freely. Between levels products differ by rounding.
//
// Slices that are too short for the shapes given are bugs of the caller and
// panic.
package kernel

//go:generate go run ./gen
