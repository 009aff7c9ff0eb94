"""Hugging Face transformers, with whatever it finds installed for the format."""
import json
import os

import common
import torch
import transformers
from importlib.util import find_spec

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


def run(folder, dtype, ids):
    dtype, _, inputs = dtype.partition(", ")  # "float32, inputs in 8 bits" for bitsandbytes
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    # Plain attention knows every option; but that of Falcon adds the bias of ALiBi twice.
    attention = "sdpa" if config.get("model_type") == "falcon" else "eager"
    pictures = config["architectures"][0].endswith("ForConditionalGeneration")
    auto = transformers.AutoModelForImageTextToText if pictures else transformers.AutoModelForCausalLM
    more = {} if transformers.__version__ < "5" else dict(experts_implementation="eager")  # the other takes widths by 16 only
    model, info = auto.from_pretrained(
        folder, dtype=getattr(torch, dtype), device_map="cpu", attn_implementation=attention, output_loading_info=True, **more
    )
    int8 = config.get("quantization_config", {}).get("quant_method") == "bitsandbytes"  # what is no weight of its has the file's type
    model.eval()
    for m in model.modules() if int8 and not inputs else ():
        if type(m).__name__ == "Linear8bitLt":
            m.train()  # on a CPU it then multiplies by the dequantized weight
    for p in model.parameters():
        if p.dim() == 3 or int8 and p.is_floating_point():  # experts are dequantized to the type of their scales whatever was asked for
            p.data = p.data.to(getattr(torch, dtype))
    with torch.no_grad():
        logits = model(torch.tensor(ids), use_cache=False).logits
    mismatched = [str(m) for m in info.get("mismatched_keys") or ()]
    return logits.float().numpy(), common.keys(list(info["missing_keys"]) + mismatched, info["unexpected_keys"])


helpers = {"compressed-tensors": "compressed_tensors", "hqq": "hqq", "bitsandbytes": "bitsandbytes", "optimum": "optimum", "gptqmodel": "gptqmodel"}
common.main(run, "transformers", "torch", *(p for p, module in helpers.items() if find_spec(module)))
