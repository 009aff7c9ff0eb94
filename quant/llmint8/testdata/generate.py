"""What bitsandbytes' own functions make of weights and activations: bitsandbytes.safetensors.

    python generate.py      (torch 2.15, bitsandbytes 0.50, on a CPU)

weight.N [out, in] is quantized as Int8Params does, to codes.N and scb.N, and dequantized to values.N. x.N [tokens, in],
half floats, is multiplied by it at threshold 6 and 0, to y6.N and y0.N [tokens, out].
"""
import os

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState
from safetensors.torch import save_file

torch.manual_seed(3)
out = {}
for n, (rows, cols, dtype) in enumerate(((24, 40, torch.float32), (33, 96, torch.bfloat16), (8, 1100, torch.float16))):
    w = (torch.randn(rows, cols) * torch.exp(torch.randn(rows, 1)) * 0.05).to(dtype)
    if n == 0:
        w[3] *= 1e-6  # subnormal half floats
        w[5, 1:] = 0
        w[7] = torch.arange(cols) * 0.5 - 10  # ties
    codes, scb, _ = bnb.int8_vectorwise_quant(w.to(torch.float16))
    x = torch.randn(11, cols).half()
    x[:, 7] *= 9
    x[2, 20] = -6
    x[4] = 0
    out |= {f"weight.{n}": w, f"codes.{n}": codes, f"scb.{n}": scb, f"values.{n}": bnb.int8_vectorwise_dequant(codes, scb), f"x.{n}": x}
    for threshold in (6.0, 0.0):
        state = MatmulLtState()
        state.CB, state.SCB, state.has_fp16_weights, state.threshold = codes, scb, False, threshold
        x[4, 0] = 1  # it divides by the largest magnitude of a token
        out[f"y{threshold:.0f}.{n}"] = MatMul8bitLt.apply(x.float(), codes, None, None, state)
    out[f"x.{n}"] = x
save_file({k: v.clone().contiguous() for k, v in out.items()}, os.path.join(os.path.dirname(os.path.abspath(__file__)), "bitsandbytes.safetensors"))
