"""mlx-lm on mlx's CPU backend. Its loader stops at a tensor without a partner, in either direction."""
import pathlib

import common
import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model

mx.set_default_device(mx.cpu)


def run(folder, dtype, ids):
    model, _ = load_model(pathlib.Path(folder), strict=True)
    if dtype == "float32":
        model.set_dtype(mx.float32)
    logits = model(mx.array(ids)).astype(mx.float32)
    return np.array(logits), common.keys([], [])


common.main(run, "mlx-lm", "mlx")
