"""GPTQModel's own files."""
import os

os.environ.setdefault("PYTHON_GIL", "1")
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # which its loader insists on
import common
import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

torch.set_num_threads(1)


def make(model, text):
    samples = [text[i : i + 600] for i in range(0, 48 * 600, 600)]

    def run(folder, ids):
        m = GPTQModel.load(folder, device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model.eval()
        with torch.no_grad():
            return m(torch.tensor(ids), use_cache=False).logits.float().numpy(), common.linears(m, torch.float16)

    for name, options in {
        "default-order": dict(bits=4, sym=True),
        "symmetric": dict(bits=4, sym=True, desc_act=False, act_group_aware=False),
        "asymmetric": dict(bits=4, sym=False, desc_act=False),
        "act-order": dict(bits=4, sym=True, desc_act=True),
        "asymmetric-act-order": dict(bits=4, sym=False, desc_act=True),
        "three-bits": dict(bits=3, sym=True, desc_act=False),
    }.items():

        def save(folder, options=options):
            m = GPTQModel.load(model, QuantizeConfig(group_size=64, device="cpu", **options), dtype=torch.float16)
            m.quantize(samples, batch_size=1)
            m.save(folder)

        yield name, save, run


common.peers(make, "gptqmodel", "torch", "transformers")
