"""auto-round's exports, tuned lightly: what matters here is how they are stored."""
import common
import torch
import transformers
from auto_round import AutoRound

torch.set_num_threads(1)


def make(model, text):
    for name, form, options in (
        ("gptq", "auto_gptq", dict(sym=True)),
        ("awq", "auto_awq", dict(sym=False)),
        ("own", "auto_round", dict(sym=True)),
    ):

        def save(folder, form=form, options=options):
            tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            samples = [torch.tensor([tokenizer(text[i : i + 900]).input_ids[:128]]) for i in range(0, 16 * 900, 900)]
            m = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
            AutoRound(
                m, tokenizer, bits=4, group_size=64, iters=4, nsamples=len(samples), seqlen=128, batch_size=4,
                dataset=samples, device_map="cpu", **options,
            ).quantize_and_save(folder, format=form)

        def logits(folder, ids):
            m = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
            with torch.no_grad():
                return m.eval()(torch.tensor(ids), use_cache=False).logits.float().numpy()

        yield name, save, logits


common.peers(make, "auto-round", "transformers", "torch")
