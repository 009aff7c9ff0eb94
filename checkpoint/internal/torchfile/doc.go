// Package torchfile reads the tensors of files that torch.save wrote: the zip
// container of PyTorch 1.6 and later, the stream of pickles before it, and
// folders of such files (pytorch_model.bin, or shards with an index).
//
// A pickle is a program. The reader here runs none: it knows the opcodes that
// build plain data, and of the callables it may name only those that describe
// tensors (see globals.go). Any other is an error that wraps ErrGlobal and
// names it. The size of a pickle, the number of objects it makes and the
// length of its names are limited.
//
//	zip container, every entry stored:          stream of pickles:
//	  NAME/data.pkl     the object, pickled       magic number, protocol, machine (a pickle each)
//	  NAME/data/KEY     one storage's bytes       the object, pickled
//	  NAME/byteorder    "little" or "big"         the list of storage keys, pickled
//	  NAME/version …                              per storage: int64 element count, the bytes
//
// A tensor is a view of a storage: offset, shape and strides in elements.
// Several may share one. Bytes are read from the file on each call, those of a
// tensor that is not contiguous are gathered into row-major order.
//
// Sources: torch/serialization.py (_save, _legacy_save, _load, _legacy_load),
// torch/_utils.py, torch/_weights_only_unpickler.py, and Python's pickletools.
package torchfile
