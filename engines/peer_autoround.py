"""auto-round's exports, tuned lightly: what matters here is how they are stored."""
import os

os.environ.setdefault("PYTHON_GIL", "1")
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # which its loader insists on
import common
import torch
import transformers
from auto_round import AutoRound
from gptqmodel import BACKEND, GPTQModel

torch.set_num_threads(1)


def make(model, text):
    for name, form, options in (
        ("gptq", "auto_gptq", dict(sym=True)),
        ("awq", "auto_awq", dict(sym=False)),
        ("own", "auto_round", dict(sym=True)),
        ("own-asymmetric", "auto_round", dict(sym=False)),
    ):

        def save(folder, form=form, options=options):
            tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            samples = [torch.tensor([tokenizer(text[i : i + 900]).input_ids[:128]]) for i in range(0, 4 * 900, 900)]
            m = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
            AutoRound(
                m, tokenizer, bits=4, group_size=64, iters=2, nsamples=len(samples), seqlen=128, batch_size=4,
                dataset=samples, device_map="cpu", **options,
            ).quantize_and_save(folder, format=form)
            [inside] = os.listdir(folder)  # named after the model and the scheme
            for file in os.listdir(os.path.join(folder, inside)):
                os.rename(os.path.join(folder, inside, file), os.path.join(folder, file))

        def run(folder, ids, form=form):
            if form == "auto_round":
                m = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, device_map="cpu").eval()
            else:  # transformers' kernel for these rounds scales to bfloat16
                m = GPTQModel.load(folder, device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model.eval()
            with torch.no_grad():
                return m(torch.tensor(ids), use_cache=False).logits.float().numpy(), common.linears(m, torch.float16)

        yield name, save, run


common.peers(make, "auto-round", "transformers", "torch")
