"""How long ggml_quantize_chunk takes a weight without an importance matrix, one thread, processor time.

    python time_llamacpp.py NODE_MODULES_PARENT

The library is the one that node-llama-cpp ships. Beside it: go test -run xxx -bench Encode ./internal/kquant
"""
import ctypes
import glob
import os
import random
import statistics
import sys
import time

# enum ggml_type of ggml.h
TYPES = dict(Q2_K=10, Q3_K=11, Q4_K=12, Q5_K=13, Q6_K=14, IQ4_XS=23, IQ4_NL=20, MXFP4=39, NVFP4=40)
ROWS, COLS = 8, 4096


def main(parent):
    [path] = glob.glob(os.path.join(parent, "node_modules", "@node-llama-cpp", "linux-x64", "bins", "linux-x64", "libggml-base.so"))
    quantize = ctypes.CDLL(path).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    rng = random.Random(1)
    x = (ctypes.c_float * (ROWS * COLS))(*[rng.gauss(0, 0.02) for _ in range(ROWS * COLS)])
    out = (ctypes.c_uint8 * (ROWS * COLS * 4))()
    for name, number in TYPES.items():
        times = []
        for _ in range(9):
            start = time.process_time()
            quantize(number, x, out, 0, ROWS, COLS, None)
            times.append((time.process_time() - start) / (ROWS * COLS) * 1e9)
        print(f"{name}: {statistics.median(times):.1f} ns a weight")


main(*sys.argv[1:])
