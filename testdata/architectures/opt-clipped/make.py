# Draws the tiny OPTs of opt-clipped, opt-clipped-alpha and opt-gated*: their attention is that of
# github.com/Qualcomm-AI-research/outlier-free-transformers
# (OPTAttentionWithExtras), in transformers 5.24. Usage: make.py FOLDER-OF-THAT FOLDER
import json, os, sys, types
sys.path.insert(0, sys.argv[1])
# quantization.utils wants nothing but an enumeration here
import enum
q = types.ModuleType("quantization"); u = types.ModuleType("quantization.utils")
class BaseEnumOptions(enum.Flag):
    pass
u.BaseEnumOptions = BaseEnumOptions
sys.modules["quantization"], sys.modules["quantization.utils"] = q, u
import torch, transformers
from safetensors.torch import save_file
from transformers import OPTConfig, OPTForCausalLM
from transformers_language.models.opt_attention import OPTAttentionWithExtras
from transformers_language.models.bert_attention import AttentionGateType
from transformers_language.models.softmax import SOFTMAX_MAPPING

class Attention(OPTAttentionWithExtras):
    def forward(self, hidden_states, attention_mask=None, **kw):
        m = attention_mask
        if m is None:
            n = hidden_states.shape[1]
            m = torch.full((n, n), torch.finfo(hidden_states.dtype).min, dtype=hidden_states.dtype).triu(1)[None, None].expand(hidden_states.shape[0], 1, n, n)
        else:
            m = m.expand(hidden_states.shape[0], 1, -1, -1)
        out, w, _ = super().forward(hidden_states, attention_mask=m)
        return out, w

cases = {
  "opt-clipped": ({"attn_softmax": "clipped(-.1:1.1)"}, True),
  "opt-clipped-alpha": ({"alpha": 4.0, "max_seq_length": 36}, True),
  "opt-gated": ({"attn_gate_type": "conditional_per_token", "attn_gate_init": 0.25}, True),
  "opt-gated-mlp": ({"attn_gate_type": "conditional_per_token", "attn_gate_mlp": True, "attn_softmax": "clipped(-.03:1)"}, False),
  "opt-gated-mlp2": ({"attn_gate_type": "conditional_per_token", "attn_gate_mlp2": True, "attn_gate_init": 0.25, "fine_tuning": True}, True),
  "opt-gated-all": ({"attn_gate_type": "conditional_per_token", "attn_gate_linear_all_features": True}, True),
  "opt-gated-head": ({"attn_gate_type": "unconditional_per_head"}, True),
}
for seed, (name, (keys, before)) in enumerate(cases.items()):
    torch.manual_seed(662 + seed)
    cfg = OPTConfig(vocab_size=97, hidden_size=32, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=48,
        word_embed_proj_dim=32, dropout=0.0, attention_dropout=0.0, do_layer_norm_before=before, attn_implementation="eager")
    model = OPTForCausalLM(cfg).eval()
    kw = dict(keys)
    if "attn_softmax" in kw: kw["softmax_fn"] = SOFTMAX_MAPPING[kw.pop("attn_softmax")]
    if "attn_gate_type" in kw: kw["attn_gate_type"] = AttentionGateType[kw["attn_gate_type"]]
    for l in model.model.decoder.layers:
        l.self_attn = Attention(embed_dim=32, num_heads=4, is_decoder=True, **kw)
    with torch.no_grad():
        for n, p in model.named_parameters():
            base = 1.0 if n.endswith("norm.weight") else 0.0
            s = 0.2 if "norm" in n or n.endswith("bias") else (1.0 if "embed" in n else 0.35)
            if ".alpha" in n: s = 0.8
            p.copy_((base + s * torch.randn_like(p)).to(torch.bfloat16).float())
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 97, (2, 36), generator=g)
    with torch.no_grad():
        out = model(ids, use_cache=False).logits
    d = os.path.join(sys.argv[2], name); os.makedirs(d, exist_ok=True)
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(state, os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
    save_file({"logits": out.contiguous()}, os.path.join(d, "logits.safetensors"))
    c = cfg.to_dict(); c["architectures"] = ["OPTForCausalLM"]; c["dtype"] = "bfloat16"
    want = {"_remove_final_layer_norm", "activation_function", "architectures", "do_layer_norm_before", "dtype", "enable_bias", "ffn_dim", "hidden_size",
      "layer_norm_elementwise_affine", "max_position_embeddings", "model_type", "num_attention_heads", "num_hidden_layers", "tie_word_embeddings", "vocab_size", "word_embed_proj_dim"}
    c = {k: v for k, v in c.items() if k in want}; c.update(keys)
    json.dump(c, open(os.path.join(d, "config.json"), "w"), indent=2, sort_keys=True); open(os.path.join(d, "config.json"), "a").write("\n")
    gates = [l.self_attn.last_gate_avg_prob for l in model.model.decoder.layers]
    json.dump({"architecture": "opt", "class": "OPTForCausalLM", "model_type": "opt",
      "attention": "OPTAttentionWithExtras of github.com/Qualcomm-AI-research/outlier-free-transformers, in the place of transformers' self_attn",
      "transformers": transformers.__version__, "torch": torch.__version__, "seed": 662 + seed, "weights_dtype": "bfloat16",
      "arithmetic": "float32, eager attention, no cache, no padding", "input_ids": ids.tolist(), "logits_file": "logits.safetensors", "short_length": None,
      "logits_std": round(out.std().item(), 4), "parameters": sum(p.numel() for p in model.parameters())}, open(os.path.join(d, "reference.json"), "w"))
    print(name, out.std().item(), gates[0])
