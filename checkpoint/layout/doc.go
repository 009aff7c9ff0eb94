// Package layout is the vocabulary of checkpoint formats: what a format
// answers ([Format], [Folder], [Reader], [File]), what it is told ([Layer],
// [Contents], [Source], [Origin]), and helpers to write tensors and to read
// those of strangers. It knows no format.
package layout
