"""mlx-lm's own files."""
import pathlib

import common
import mlx.core as mx
import numpy as np
from mlx_lm.convert import convert
from mlx_lm.utils import load_model

mx.set_default_device(mx.cpu)


def make(model, text):
    for bits, group in ((4, 64), (3, 32), (8, 128)):

        def save(folder, bits=bits, group=group):
            convert(model, folder, quantize=True, q_bits=bits, q_group_size=group)

        def run(folder, ids):
            m, _ = load_model(pathlib.Path(folder), strict=True)
            m.set_dtype(mx.float32)
            weights = {
                name: np.array(mx.dequantize(q["weight"], q["scales"], q["biases"], q.group_size, q.bits))
                for name, q in m.named_modules()
                if "scales" in q
            }
            return np.array(m(mx.array(ids)).astype(mx.float32)), weights

        yield f"{bits}-bits-{group}", save, run


common.peers(make, "mlx-lm", "mlx")
