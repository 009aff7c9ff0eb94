"""Writes the files beside it (torch 2.13.0, numpy, safetensors): NAME.pt or .bin as
torch saves them and NAME.safetensors with the same tensors, contiguous."""
import collections, os, sys, json
import torch
from safetensors.torch import save_file

here = os.path.dirname(os.path.abspath(__file__))
torch.manual_seed(1)


def both(name, saved, tensors=None, ext="pt", **how):
    torch.save(saved, os.path.join(here, f"{name}.{ext}"), **how)
    tensors = tensors or {k: v for k, v in saved.items() if torch.is_tensor(v)}
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, os.path.join(here, name + ".safetensors"))


types = {}
for t in ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
          "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]:
    types[t] = (torch.randn(3, 5) * 10).abs().to(getattr(torch, t))
old = [t for t in types if "8_" not in t and t not in ("uint16", "uint32", "uint64")]
both("types", types)
both("types-legacy", {t: types[t] for t in old}, _use_new_zipfile_serialization=False)

base = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
wide = torch.randn(6, 300)
views = collections.OrderedDict(
    whole=base, slice=base[1, :, 1:3], transposed=wide.T, permuted=base.permute(3, 1, 0, 2), step=wide[::2, 1::3],
    column=wide[:, 3], expanded=wide[:, :1].expand(6, 4), scalar=torch.tensor(2.5), empty=torch.empty(0, 3),
    one=wide[2:3, 5:6], same=base)
both("views", views)
both("views-legacy", views, _use_new_zipfile_serialization=False)

m = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
m[0].weight.note = "an attribute"
state = m.state_dict()
params = dict(m.named_parameters())
both("parameters", {"w": params["0.weight"], "b": params["0.bias"], "epoch": 3, "name": "x", "none": None, "lr": 1e-3})
both("training", {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "step": torch.tensor(1)}, state)
shard = {"a.weight": torch.randn(2, 3), "b.weight": torch.randn(3, 2)}
for i, (k, v) in enumerate(shard.items(), 1):
    torch.save({k: v}, os.path.join(here, "sharded", f"pytorch_model-0000{i}-of-00002.bin"))
json.dump({"metadata": {"total_size": 48}, "weight_map": {k: f"pytorch_model-0000{i}-of-00002.bin" for i, k in enumerate(shard, 1)}},
          open(os.path.join(here, "sharded", "pytorch_model.bin.index.json"), "w"), indent=1)
save_file(shard, os.path.join(here, "sharded.safetensors"))
torch.save(m, os.path.join(here, "module.pt"))
