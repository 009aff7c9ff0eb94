// Package kernel holds the inner loops under tensor, quant, gptq and the
// decoder: float32 products and factorizations, half floats, and the row
// operations of quantizers and transformers.
//
// Every operation has a plain-Go twin that defines it. On amd64 and arm64
// assembly takes its place where the CPU has what it needs; the build tag
// purego leaves all assembly out, and the environment variable LOWBIT_CPU
// caps the level (see Level).
//
// Three promises hold everywhere:
//
//   - Results do not depend on the number of workers.
//   - Quantization kernels (MinMax, AllFinite, codes, Dequant, PackBits, half
//     floats, RTN4, PowErr, SquareErr, Trials, ErrorCols, MulAdd,
//     Scale) give the same bits at
//     every level.
//   - An element of a product depends on its row, its column and the order of
//     k alone, not on the shape around it, so products may be cut into panels
//     freely. Between levels products differ by rounding.
//
// Slices that are too short for the shapes given are bugs of the caller and
// panic.
//
// # Adding a kernel
//
// Four files, besides those that go generate writes:
//
//   - x.go: the exported function, which chooses a body by level, and its twin
//     xGo. It has no build tags: where a platform has no assembly the bodies
//     are generated as stubs, and their levels are never reached.
//   - gen/x.go: the assembly, a function named x<level> for each level.
//   - gen/main.go: one line, for a new file of assembly.
//   - twins_test.go: one entry, which TestTwins and FuzzTwins run at every
//     level of the machine against the twin. TestEveryBodyRuns fails if it is
//     missing.
package kernel

//go:generate go run ./gen
