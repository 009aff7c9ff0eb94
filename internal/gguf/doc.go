// Package gguf reads and writes GGUF, the file format of llama.cpp: typed
// metadata followed by tensors, some of them in blocks of 32 or 256 quantized
// values.
// It knows nothing of models.
//
// A file, little-endian (ggml's docs/gguf.md and src/gguf.cpp):
//
//	"GGUF"  u32 version  i64 tensors  i64 keys
//	keys:    string key, u32 value type, value
//	tensors: string name, u32 dimensions, i64 each (the contiguous one first),
//	         u32 type, u64 offset of the data
//	padding to the alignment
//	data:    each tensor padded to the alignment
//
// A string is a u64 length and its bytes. An array is a u32 element type, a
// u64 count and the elements; arrays of arrays do not exist in practice.
// Versions 2 and 3 are the same for little-endian files.
//
// A reader trusts nothing: what llama.cpp refuses (duplicate names, offsets
// that are not the running sum of the padded sizes, rows that are no whole
// number of blocks, numbers that overflow) is refused here, with the reason,
// and nothing is allocated by a number that has not been compared with what
// is left of the file.
package gguf
