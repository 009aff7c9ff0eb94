"""Files NAME.safetensors: tensors of codes and scales as each library stores them, and beside every tensor X the values
that the library makes of it in float32, as want/X. The quantization_config is in the metadata.

    python generate.py      (torch, transformers 5.24, compressed-tensors 0.20, bitsandbytes 0.50)
"""
import json
import os

import bitsandbytes.functional as bnb
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

torch.manual_seed(7)
here = os.path.dirname(os.path.abspath(__file__))


def random(*shape):
    w = torch.randn(*shape) * torch.exp(torch.randn(*shape[:-1], 1)) * 0.05
    w[..., 0] = 0
    return w


def save(name, config, tensors):
    tensors = {n: t.clone().contiguous() for n, t in tensors.items()}
    save_file(tensors, os.path.join(here, name + ".safetensors"), dict(quantization_config=json.dumps(config)))


def blocks(v, h, w, shape):
    """A grid spread over a matrix, the last blocks cut."""
    return v.repeat_interleave(h, -2).repeat_interleave(w, -1)[..., : shape[-2], : shape[-1]]


def fp8(w, h, wd, dtype):
    most = torch.finfo(dtype).max
    rows, cols = w.shape[-2:]
    pad = torch.nn.functional.pad(w, (0, -cols % wd, 0, -rows % h))
    r, c = pad.shape[-2] // h, pad.shape[-1] // wd
    amax = pad.reshape(*w.shape[:-2], r, h, c, wd).abs().amax(dim=(-3, -1)).clamp(min=1e-6)
    scale = amax / most
    return (w / blocks(scale, h, wd, w.shape)).to(dtype), scale


def reference(q, scale):
    return Fp8Dequantize(None)._dequantize_one(q, scale, torch.float32)


e4m3, e5m2 = torch.float8_e4m3fn, torch.float8_e5m2
every = torch.arange(256, dtype=torch.uint8).reshape(8, 32)
finite, finite5 = (torch.where(every.view(t).float().isfinite(), every, 0).view(t) for t in (e4m3, e5m2))

out = {}
for name, dtype in (("a", e4m3), ("b", e5m2)):
    q, s = fp8(random(48, 64), 16, 32, dtype)
    out |= {name + ".weight": q, name + ".weight_scale_inv": s, f"want/{name}.weight": reference(q, s)}
    q, s = fp8(random(41, 75), 16, 32, dtype)  # the library has no cut blocks: DeepSeek's rule
    out |= {name + ".cut.weight": q, name + ".cut.weight_scale_inv": s, f"want/{name}.cut.weight": q.float() * blocks(s, 16, 32, q.shape)}
q, s = fp8(random(3, 32, 64), 16, 32, e4m3)
want = torch.stack([reference(a, b) for a, b in zip(q, s)])
out |= {"experts.gate_up_proj": q, "experts.gate_up_proj_scale_inv": s, "want/experts.gate_up_proj": want}
for name, q, scale in (
    ("codes", finite, torch.tensor(0.3)), ("codes5", finite5, torch.tensor([0.7])),
    ("rows", finite, torch.rand(8, 1)), ("vector", finite, torch.rand(8)), ("half", finite, torch.rand(8, 1).bfloat16()),
):
    out |= {name + ".weight": q, name + ".weight_scale": scale, name + ".input_scale": torch.ones(1)}
    out[f"want/{name}.weight"] = q.float() * scale.float().reshape(-1, 1)
powers = torch.randint(110, 130, (2, 1), dtype=torch.uint8)
for name, scale in (("e8m0", powers.view(torch.float8_e8m0fnu)), ("bytes", powers), ("powers", powers.view(torch.float8_e8m0fnu).float())):
    out |= {name + ".weight": finite, name + ".weight_scale_inv": scale, f"want/{name}.weight": reference(finite, scale)}
save("fp8", dict(quant_method="fp8", weight_block_size=[16, 32]), out)

out, groups = {}, {}
for name, kind, args in (
    ("tensor", "float-quantized", dict(num_bits=8, type="float", strategy="tensor")),
    ("channel", "float-quantized", dict(num_bits=8, type="float", strategy="channel")),
    ("block", "float-quantized", dict(num_bits=8, type="float", strategy="block", block_structure=[16, 32])),
    ("int", "int-quantized", dict(num_bits=8, type="int", strategy="channel")),
    ("group", "int-quantized", dict(num_bits=8, type="int", strategy="group", group_size=16)),
    ("zeros", "int-quantized", dict(num_bits=8, type="int", strategy="channel", symmetric=False)),
):
    args = QuantizationArgs(**args)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=kind)
    w = random(48, 64)
    shape = dict(tensor=(1,), channel=(48, 1), block=(3, 2), group=(48, 4))[str(getattr(args.strategy, "value", args.strategy))]
    state = dict(weight=w, weight_scale=torch.rand(shape) * 0.002 + 0.001)
    if not args.symmetric:
        state["weight_zero_point"] = torch.randint(-40, 40, shape, dtype=torch.int8)
    library = BaseCompressor.get_value_from_registry(kind)
    state = library.compress(state, scheme)
    want = library.decompress(dict(state), scheme)["weight"]
    out |= {f"{name}.{k}": v for k, v in state.items()}
    out[f"want/{name}.weight"] = want.float()
    groups[name] = dict(targets=[f"re:^{name}$"], format=kind, input_activations=dict(num_bits=8), weights=dict(num_bits=8, type=args.type))
save("compressed-tensors", {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups}, out)

blk, sc = torch.randint(0, 256, (2, 24, 3, 16), dtype=torch.uint8), torch.randint(100, 130, (2, 24, 3), dtype=torch.uint8)
sc[0, 0, 0] = 0
want = convert_moe_packed_tensors(blk, sc, dtype=torch.float32)
save("mxfp4", dict(quant_method="mxfp4"), {
    "experts.down_proj_blocks": blk, "experts.down_proj_scales": sc, "want/experts.down_proj": want,
})

lut = torch.tensor(Fp8Dequantize._FP4_E2M1_LUT)
out = {}
for name, whole in (("a", torch.tensor(0.0123)), ("b", torch.tensor(0.25)), ("c", torch.tensor([0.5, 0.3]))):
    packed = torch.randint(0, 256, (2, 8, 24) if name == "c" else (8, 24), dtype=torch.uint8)
    small = torch.rand(*packed.shape[:-1], 3).mul(448).to(e4m3)
    # modelopt: NVFP4QTensor.dequantize multiplies the scales in float32, and the values with that
    values = torch.stack([lut[(packed & 15).long()], lut[(packed >> 4).long()]], -1).reshape(*packed.shape[:-1], 3, 16)
    each = small.float() * (whole.reshape(-1, 1, 1) if name == "c" else whole)
    out |= {name + ".weight": packed, name + ".weight_scale": small, name + ".weight_scale_2": whole, name + ".input_scale": torch.ones(1)}
    out[f"want/{name}.weight"] = (values * each.unsqueeze(-1)).reshape(*packed.shape[:-1], 48)
save("modelopt", dict(quant_method="modelopt", quant_algo="NVFP4"), out)

out = {}
for name, kind, nested, shape, block in (
    ("nf4", "nf4", False, (24, 40), 64), ("fp4", "fp4", False, (24, 40), 64), ("nf4-nested", "nf4", True, (160, 130), 64), ("fp4-nested", "fp4", True, (10, 256), 128),
):
    w = random(*shape)
    q, state = bnb.quantize_4bit(w, blocksize=block, quant_type=kind, compress_statistics=nested)
    out[name + ".weight"] = q
    out |= {f"{name}.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    out[f"want/{name}.weight"] = bnb.dequantize_4bit(q, state)
save("bitsandbytes", dict(quant_method="bitsandbytes", load_in_4bit=True), out)
