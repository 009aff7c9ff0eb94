// Package safetensors reads and writes the safetensors format: single files and
// folders of shards with an index. It knows nothing of models.
//
// A file is a header and the tensors' bytes, back to back:
//
//	offset  size  content
//	0       8     n, the header's length, uint64 little-endian, at most 100,000,000
//	8       n     one JSON object, padded with trailing spaces:
//	              {"__metadata__": {"format": "pt"},
//	               "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
//	8+n     ...   the data; data_offsets are [begin, end) counted from here.
//	              Row-major, little-endian, no hole, no overlap, nothing after the last
//
// A sharded folder holds model-00001-of-0000N.safetensors and so on, and
// model.safetensors.index.json:
//
//	{"metadata": {"total_size": 12}, "weight_map": {"a": "model-00001-of-00002.safetensors", ...}}
//
// Everything a file claims is checked when it is opened, before any tensor is
// read; an error names the file and the tensor and wraps [ErrInvalid].
//
// Source: https://github.com/huggingface/safetensors, README, "Format", and the
// file layout of transformers' sharded checkpoints.
package safetensors
