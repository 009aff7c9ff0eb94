"""GPTQModel with its plain torch kernel, the one that runs on every CPU."""
import os

os.environ.setdefault("PYTHON_GIL", "1")
import common
import torch
from gptqmodel import BACKEND, GPTQModel

torch.set_num_threads(1)


def run(folder, dtype, ids):
    model = GPTQModel.load(folder, device="cpu", backend=BACKEND.TORCH, dtype=getattr(torch, dtype)).model
    with torch.no_grad():
        logits = model.eval()(torch.tensor(ids), use_cache=False).logits
    # It does not tell what it did not find: the linears that are quantized in the folder against those of the model.
    files = common.stored(folder)
    quantized = {n.removesuffix(".qweight") for n in files if n.endswith(".qweight")}
    loaded = {n for n, m in model.named_modules() if hasattr(m, "qweight")}
    return logits.float().numpy(), common.keys(loaded - quantized, quantized - loaded)


common.main(run, "gptqmodel", "torch", "transformers")
