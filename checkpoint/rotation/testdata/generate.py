# Makes klt.safetensors: a batch of numbers without mean, and what get_llm_act_klt of the public code of
# MambaQuant (github.com/xzktx003/mambaquant-master, 029fba1, quantize/get_klt_matrix.py beside this file) makes of it.
# Needs torch, transformers and safetensors.
import sys, types, torch, numpy as np
from torch import nn
# Classes of the repository that the models here do not have.
for name, cls in (("quantize.normalized_modules","MatMul"),("quantize.int_matmul","QuantMatMul"),("quantize.int_linear","QuantLinear")):
    m = types.ModuleType(name); setattr(m, cls, type(cls, (nn.Module,), {})); sys.modules[name] = m
sys.modules["quantize"] = types.ModuleType("quantize")
import get_klt_matrix as public
from safetensors.torch import save_file
torch.manual_seed(1)
n, tokens = 24, 512
mix = torch.randn(n, n, dtype=torch.float64)
x = (torch.randn(tokens, n, dtype=torch.float64) * torch.exp(torch.arange(n) / 6.0)) @ mix
x = (x - x.mean(0)).float()
model = nn.Sequential(nn.Linear(n, 4))
k = public.get_llm_act_klt(model, [(x[None],)])["0"]
save_file({"x": x.contiguous(), "k": k.contiguous()}, "klt.safetensors")
print(k.shape, (k.T @ k - torch.eye(n)).abs().max())
