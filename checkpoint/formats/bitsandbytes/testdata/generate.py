"""A layer as Linear8bitLt saves itself: linear8bit.safetensors, its weight before as float32 as "before", dequantized
as "want", and the quantization_config that transformers writes in the metadata.

    python generate.py      (torch 2.15, transformers 5.24, bitsandbytes 0.50, on a CPU)
"""
import json
import os

import bitsandbytes as bnb
import torch
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig

torch.manual_seed(5)
here = os.path.dirname(os.path.abspath(__file__))
w = torch.randn(24, 40) * torch.exp(torch.randn(24, 1)) * 0.05
w[3] = 0
linear = bnb.nn.Linear8bitLt(40, 24, bias=True, has_fp16_weights=False, threshold=6.0)
linear.weight = bnb.nn.Int8Params(w.clone(), requires_grad=False, has_fp16_weights=False)
linear = linear.to("cpu")
out = {f"model.layers.0.q.{k}": v for k, v in linear.state_dict().items()}
out["want"] = bnb.functional.int8_vectorwise_dequant(out["model.layers.0.q.weight"], out["model.layers.0.q.SCB"])
out["before"] = w
config = BitsAndBytesConfig(load_in_8bit=True).to_dict()
save_file({k: v.clone().contiguous() for k, v in out.items()}, os.path.join(here, "linear8bit.safetensors"), dict(quantization_config=json.dumps(config)))
