"""llama.cpp's own quantization (llama-quantize), called in the shared library that node-llama-cpp ships.

    python peer_llamacpp.py NODE_MODULES_PARENT MODEL.gguf OUT

OUT gets TYPE.gguf for each file type, and wide/TYPE.gguf, the same in float32 by llama.cpp's dequantization.
"""
import ctypes
import glob
import os
import sys

# enum llama_ftype of llama.h
TYPES = dict(
    Q4_0=2, Q4_1=3, Q8_0=7, Q5_0=8, Q5_1=9, Q2_K=10, Q3_K_S=11, Q3_K_M=12, Q3_K_L=13, Q4_K_S=14, Q4_K_M=15, Q5_K_S=16,
    Q5_K_M=17, Q6_K=18, IQ4_NL=25, IQ4_XS=30, TQ1_0=36, TQ2_0=37, Q1_0=40,
)
F32 = 0


class Parameters(ctypes.Structure):
    """The beginning of llama_model_quantize_params, which stays as it is; the library fills in the rest."""

    _fields_ = [
        ("threads", ctypes.c_int32), ("ftype", ctypes.c_int32), ("output_type", ctypes.c_int32), ("embedding_type", ctypes.c_int32),
        ("allow_requantize", ctypes.c_bool), ("rest", ctypes.c_byte * 1007),
    ]


def library(parent):
    [folder] = glob.glob(os.path.join(parent, "node_modules", "@node-llama-cpp", "linux-x64", "bins", "linux-x64"))
    for pattern in ("libggml-base.so", "libggml.*so", "libllama.*so"):
        [path] = glob.glob(os.path.join(folder, pattern))
        loaded = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    loaded.llama_model_quantize_default_params.restype = Parameters
    loaded.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Parameters)]
    loaded.llama_backend_init()
    return loaded


def quantize(llama, source, out, ftype):
    p = llama.llama_model_quantize_default_params()
    if p.ftype != TYPES["Q8_0"] or p.threads != 0:  # its default
        raise SystemExit(f"llama_model_quantize_params begins with {p.threads}, {p.ftype}: not as it did")
    p.threads, p.ftype, p.allow_requantize = 1, ftype, True
    if llama.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(p)) != 0:
        raise SystemExit(f"llama.cpp does not quantize {source} to type {ftype}")


def main(parent, source, out):
    llama = library(parent)
    os.mkdir(os.path.join(out, "wide"))
    for name, ftype in TYPES.items():
        file = os.path.join(out, name + ".gguf")
        quantize(llama, source, file, ftype)
        quantize(llama, file, os.path.join(out, "wide", name + ".gguf"), F32)


main(*sys.argv[1:])
