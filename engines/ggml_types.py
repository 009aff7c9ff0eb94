"""A GGUF file's quantized tensors quantized again by libggml, to the same types.

    python ggml_types.py NODE_MODULES_PARENT SOURCE.gguf MODEL.gguf OUT.gguf [IMATRIX.gguf]

OUT is MODEL byte for byte but for the tensors that are quantized there: they are ggml_quantize_chunk's of those in
SOURCE, a file of the same model in float32, with the importance matrix if there is one. So docs/gguf.md compares
divergences in the same bytes. The library is the one that node-llama-cpp ships.
"""
import ctypes
import glob
import os
import shutil
import sys

FLOATS = {0: "F32", 1: "F16", 30: "BF16"}  # enum ggml_type of ggml.h


class Init(ctypes.Structure):
    """struct gguf_init_params."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("context", ctypes.POINTER(ctypes.c_void_p))]


class Tensor(ctypes.Structure):
    """The beginning of struct ggml_tensor."""

    _fields_ = [("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4)]


def library(parent):
    [path] = glob.glob(os.path.join(parent, "node_modules", "@node-llama-cpp", "linux-x64", "bins", "linux-x64", "libggml-base.so"))
    ggml = ctypes.CDLL(path)
    p, i64 = ctypes.c_void_p, ctypes.c_int64
    for name, result, args in (
        ("gguf_init_from_file", p, [ctypes.c_char_p, Init]), ("gguf_get_n_tensors", i64, [p]), ("gguf_get_tensor_name", ctypes.c_char_p, [p, i64]),
        ("gguf_get_tensor_type", ctypes.c_int, [p, i64]), ("gguf_get_tensor_offset", ctypes.c_size_t, [p, i64]), ("gguf_get_tensor_size", ctypes.c_size_t, [p, i64]),
        ("gguf_get_data_offset", ctypes.c_size_t, [p]), ("ggml_get_tensor", ctypes.POINTER(Tensor), [p, ctypes.c_char_p]),
        ("ggml_quantize_chunk", ctypes.c_size_t, [ctypes.c_int, p, p, i64, i64, i64, p]),
    ):
        function = getattr(ggml, name)
        function.restype, function.argtypes = result, args
    return ggml


class File:
    """The tensors of a GGUF file: NAME -> (type, offset in the file, bytes, columns, rows)."""

    def __init__(self, ggml, path):
        context = ctypes.c_void_p()
        f = ggml.gguf_init_from_file(path.encode(), Init(True, ctypes.pointer(context)))
        if not f:
            raise SystemExit(f"{path}: libggml does not read it")
        self.path, self.tensors = path, {}
        for i in range(ggml.gguf_get_n_tensors(f)):
            name = ggml.gguf_get_tensor_name(f, i)
            ne = ggml.ggml_get_tensor(context, name).contents.ne
            self.tensors[name.decode()] = (
                ggml.gguf_get_tensor_type(f, i), ggml.gguf_get_data_offset(f) + ggml.gguf_get_tensor_offset(f, i),
                ggml.gguf_get_tensor_size(f, i), ne[0], ne[1] * ne[2] * ne[3],
            )

    def floats(self, name):
        """A tensor of float32, None if there is none of the name."""
        if name not in self.tensors:
            return None
        kind, offset, size, _, _ = self.tensors[name]
        if kind != 0:
            raise SystemExit(f"{self.path}: {name} is of type {kind}, want float32")
        with open(self.path, "rb") as f:
            f.seek(offset)
            return (ctypes.c_float * (size // 4)).from_buffer_copy(f.read(size))


def importance(matrix, name):
    """The mean squares of a tensor's inputs, None where nobody has them."""
    if matrix is None or (sums := matrix.floats(name + ".in_sum2")) is None:
        return None
    count = matrix.floats(name + ".counts")[0]
    return (ctypes.c_float * len(sums))(*[s / count for s in sums])


def main(parent, source, model, out, imatrix=None):
    ggml = library(parent)
    source, model, matrix = File(ggml, source), File(ggml, model), imatrix and File(ggml, imatrix)
    shutil.copyfile(model.path, out)
    count, alone = 0, []
    with open(out, "r+b") as f:
        for name, (kind, offset, size, cols, rows) in model.tensors.items():
            if kind in FLOATS:
                continue
            weights = importance(matrix, name)
            if matrix and weights is None:
                alone.append(name)
            data, packed = source.floats(name), (ctypes.c_uint8 * size)()
            if ggml.ggml_quantize_chunk(kind, data, packed, 0, rows, cols, weights) != size:
                raise SystemExit(f"{name}: libggml wrote no {size} bytes")
            f.seek(offset)
            f.write(packed)
            count += 1
    print(f"{count} tensors of {out}" + (f", without importance {alone}" if alone else ""))


main(*sys.argv[1:])
