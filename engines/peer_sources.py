"""Models in FP8, INT8, MXFP4 and the types of bitsandbytes. The libraries' own functions make the codes and dequantize
them; the logits are transformers' with those weights in float32."""
import json
import os

import bitsandbytes.functional as bnb
import common
import torch
import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

torch.set_num_threads(1)
torch.manual_seed(11)


def blocks(dtype, size=128):
    """transformers' FP8."""

    def code(w):
        rows, cols = w.shape[0] // size, w.shape[1] // size
        most = torch.finfo(dtype).max
        scale = w.reshape(rows, size, cols, size).abs().amax(dim=(1, 3)) / most
        q = (w.reshape(rows, size, cols, size) / scale[:, None, :, None]).reshape(w.shape).to(dtype)
        want = Fp8Dequantize(None)._dequantize_one(q, scale, torch.float32)
        return {".weight": q, ".weight_scale_inv": scale}, want

    return dict(quant_method="fp8", weight_block_size=[size, size], activation_scheme="dynamic"), code


def compressed(kind, **args):
    args = QuantizationArgs(num_bits=8, **args)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=kind)
    library = BaseCompressor.get_value_from_registry(kind)

    def code(w):
        most = 448 if args.type == "float" else 127
        amax = w.abs().amax().reshape(1) if str(args.strategy).endswith("tensor") else w.abs().amax(dim=1, keepdim=True)
        state = library.compress(dict(weight=w, weight_scale=amax / most), scheme)
        return {"." + n: t for n, t in state.items()}, library.decompress(dict(state), scheme)["weight"]

    group = dict(targets=["Linear"], weights=json.loads(args.model_dump_json()), format=kind, input_activations=dict(num_bits=8, type=args.type, dynamic=True))
    return dict(quant_method="compressed-tensors", format=kind, config_groups=dict(group_0=group), ignore=["lm_head"]), code


def four_bits(kind, nested):
    def code(w):
        q, state = bnb.quantize_4bit(w, quant_type=kind, compress_statistics=nested)
        parts = {".weight." + n: t for n, t in state.as_dict(packed=True).items()}
        return {".weight": q, **parts}, bnb.dequantize_4bit(q, state)

    return dict(quant_method="bitsandbytes", load_in_4bit=True), code


def eight_bits():
    def code(w):
        q, scb, _ = bnb.int8_vectorwise_quant(w.half())
        return {".weight": q, ".SCB": scb}, bnb.int8_vectorwise_dequant(q, scb)

    return dict(quant_method="bitsandbytes", load_in_8bit=True), code


def write(folder, model, state, config):
    os.makedirs(folder)
    state = {n: t.clone().contiguous() for n, t in state.items()}
    save_file(state, os.path.join(folder, "model.safetensors"), dict(format="pt"))
    c = json.loads(model.config.to_json_string()) | dict(quantization_config=config, architectures=[type(model).__name__])
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(c, f)


def linears(model, config, code):
    """Codes for the linears of a model's blocks, which get what they stand for."""
    state = {n: t for n, t in model.state_dict().items() if not (n == "lm_head.weight" and model.config.tie_word_embeddings)}
    wanted = {}
    for name, m in model.named_modules():
        if ".layers." in name and name.endswith("_proj"):
            parts, want = code(m.weight.data)
            del state[name + ".weight"]
            state |= {name + end: t for end, t in parts.items()}
            m.weight.data = wanted[name] = want.float()
    return state, wanted


def gpt_oss():
    config = transformers.GptOssConfig(
        vocab_size=1024, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=512, sliding_window=16, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )
    return transformers.GptOssForCausalLM(config).float()


def mxfp4(model):
    state, wanted = model.state_dict(), {}
    for name, m in model.named_modules():
        if not name.endswith(".experts"):
            continue
        for which in ("gate_up_proj", "down_proj"):
            experts, inputs, outputs = getattr(m, which).shape
            codes = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            scales = torch.randint(118, 123, (experts, outputs, inputs // 32), dtype=torch.uint8)
            getattr(m, which).data = convert_moe_packed_tensors(codes, scales, dtype=torch.float32)
            del state[f"{name}.{which}"]
            state |= {f"{name}.{which}_blocks": codes, f"{name}.{which}_scales": scales}
    return state, {n: m.weight.data for n, m in model.named_modules() if n.endswith("o_proj")}


def make(path, text):
    kinds = dict(
        {"fp8-e4m3": blocks(torch.float8_e4m3fn), "fp8-e5m2": blocks(torch.float8_e5m2), "int8": eight_bits()},
        **{"ct-fp8-channel": compressed("float-quantized", type="float", strategy="channel"), "ct-fp8-tensor": compressed("float-quantized", type="float", strategy="tensor")},
        **{"ct-int8": compressed("int-quantized", type="int", strategy="channel")},
        **{kind + ("-nested" if nested else ""): four_bits(kind, nested) for kind in ("nf4", "fp4") for nested in (False, True)},
    )
    for name in [*kinds, "gpt-oss-mxfp4"]:
        made = {}

        def save(folder, name=name, made=made):
            if name in kinds:
                config, code = kinds[name]
                made["model"] = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
                state, made["weights"] = linears(made["model"], config, code)
            else:
                config = dict(quant_method="mxfp4")
                made["model"] = gpt_oss()
                state, made["weights"] = mxfp4(made["model"])
            write(folder, made["model"], state, config)

        def run(folder, ids, made=made):
            with torch.no_grad():
                return made["model"].eval()(torch.tensor(ids), use_cache=False).logits.float().numpy(), made["weights"]

        yield name, save, run


common.peers(make, "transformers", "compressed-tensors", "bitsandbytes", "torch")
