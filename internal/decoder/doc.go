// Package decoder is a decoder-only transformer without its weights: what its
// configuration says, its blocks as programs (package program), the names and
// shapes of its tensors, and what stands before the first block and behind the last,
// embedding and output head. It knows nothing of quantization and of files.
//
// A Model comes from arch.ParseConfig, package arch beside this one, which has the
// architectures. Fit then finds out under which names a file has the tensors,
// CheckShapes whether they are all there.
package decoder
