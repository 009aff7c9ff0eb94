"""Writes gradients.safetensors beside it (transformers 5.24.0, torch 2.15.0): of
tinyllama-2m, the gradients of a sum of negative log-likelihoods at the outputs of all
linears, in float64, stored as float32."""
import os
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

here = os.path.dirname(os.path.abspath(__file__))
torch.manual_seed(1)
model = AutoModelForCausalLM.from_pretrained(
    os.path.join(here, "../../../testdata/tinyllama-2m"), dtype=torch.float64, attn_implementation="eager")
ids, labels = torch.randint(0, 1024, (2, 1, 12))
outputs = {}


def keep(name):
    def hook(module, args, out):
        out.retain_grad()
        outputs[name] = out
    return hook


for name, module in model.named_modules():
    if isinstance(module, torch.nn.Linear) and name != "lm_head":
        module.register_forward_hook(keep(name))
logits = model(ids).logits
torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, :-1], reduction="sum").backward()
tensors = {name: out.grad[0].float().contiguous() for name, out in outputs.items()}
tensors["ids"], tensors["labels"] = ids[0].int(), labels[0].int()
save_file(tensors, os.path.join(here, "gradients.safetensors"))
