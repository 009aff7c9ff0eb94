"""Writes values.safetensors beside it (mlx 0.32.4, mlx-cpu 0.32.4): matrices quantized by
mx.quantize, and what mx.dequantize makes of them in float32."""
import os
import mlx.core as mx

mx.random.seed(1)
out = {}
for mode, group, bits, kind in [("affine", 32, b, mx.float16) for b in (1, 2, 3, 4, 5, 6, 8)] + [
        ("affine", 64, 4, mx.bfloat16), ("affine", 128, 3, mx.float32), ("mxfp4", 32, 4, None), ("nvfp4", 16, 4, None), ("mxfp8", 32, 8, None)]:
    w = mx.random.normal((2, 128))
    q = mx.quantize(w if kind is None else w.astype(kind), group_size=group, bits=bits, mode=mode)
    wide = [q[0]] + [t.astype(mx.float32) if mode == "affine" else t for t in q[1:]]
    key = f"{mode}-{bits}-{group}"
    for name, t in zip(("weight", "scales", "biases"), q):
        out[f"{key}.{name}"] = t
    out[key] = mx.dequantize(*wide, group_size=group, bits=bits, mode=mode).astype(mx.float32)
mx.save_safetensors(os.path.join(os.path.dirname(os.path.abspath(__file__)), "values.safetensors"), out)
