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

        def logits(folder, ids):
            m, _ = load_model(pathlib.Path(folder), strict=True)
            m.set_dtype(mx.float32)
            return np.array(m(mx.array(ids)).astype(mx.float32))

        yield f"{bits}-bits-{group}", save, logits


common.peers(make, "mlx-lm", "mlx")
