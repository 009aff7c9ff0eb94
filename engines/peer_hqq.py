"""hqq's files, as transformers 4 saves them."""
import common
import torch
import transformers

torch.set_num_threads(1)


def make(model, text):
    for name, options in {
        "four-bits": dict(nbits=4, group_size=64, axis=1),
        "three-bits": dict(nbits=3, group_size=64, axis=1),
        "two-bits-inside-inputs": dict(nbits=2, group_size=64, axis=0),
    }.items():

        def save(folder, options=options):
            transformers.AutoModelForCausalLM.from_pretrained(
                model, dtype=torch.float32, device_map="cpu", quantization_config=transformers.HqqConfig(**options)
            ).save_pretrained(folder)

        def run(folder, ids):
            m = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu").eval()
            with torch.no_grad():
                return m(torch.tensor(ids), use_cache=False).logits.float().numpy(), common.linears(m, torch.float32)

        yield name, save, run


common.peers(make, "hqq", "transformers", "torch")
