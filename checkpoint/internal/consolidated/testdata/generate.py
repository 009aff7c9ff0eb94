"""Writes NAME/ beside it: tiny models as Mistral and Meta publish them, and hf.safetensors,
the same as transformers' models with the same logits (torch 2.13.0, transformers 5.24.0).
The forward pass of the published form is written out here, with rotary embeddings of
neighbouring pairs as complex numbers; it must agree with transformers on hf.safetensors."""
import json, os, shutil
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

here = os.path.dirname(os.path.abspath(__file__))


def forward(p, w, ids):
    d, hd, h, kv = p["dim"], p.get("head_dim") or p["dim"] // p["n_heads"], p["n_heads"], p["n_kv_heads"]
    norm = lambda x, g: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + p["norm_eps"]) * g
    x, T = w["tok_embeddings.weight"][ids], len(ids)
    angle = torch.outer(torch.arange(T).double(), p.get("rope_theta", 10000.0) ** (-torch.arange(0, hd, 2).double() / hd))
    turn = torch.polar(torch.ones_like(angle), angle)

    def rope(t):
        c = torch.view_as_complex(t.reshape(T, -1, hd // 2, 2))
        return torch.view_as_real(c * turn[:, None]).reshape(T, -1, hd)

    for i in range(p["n_layers"]):
        g = lambda n: w[f"layers.{i}.{n}.weight"]
        y = norm(x, g("attention_norm"))
        q, k, v = (y @ g(f"attention.w{n}").T for n in "qkv")
        q, k = rope(q.reshape(T, h, hd)), rope(k.reshape(T, kv, hd))
        k, v = (t.reshape(T, kv, hd).repeat_interleave(h // kv, 1) for t in (k, v))
        s = torch.einsum("ahd,bhd->hab", q, k) / hd ** 0.5 + torch.full((T, T), -torch.inf).triu(1)
        x = x + torch.einsum("hab,bhd->ahd", s.softmax(-1), v).reshape(T, -1) @ g("attention.wo").T
        y = norm(x, g("ffn_norm"))
        x = x + (torch.nn.functional.silu(y @ g("feed_forward.w1").T) * (y @ g("feed_forward.w3").T)) @ g("feed_forward.w2").T
    return norm(x, w["norm.weight"]) @ w["output.weight"].T


def case(name, params, model, parts=0):
    torch.manual_seed(1)
    out = os.path.join(here, name)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    hd = params.get("head_dim") or params["dim"] // params["n_heads"]
    c = model.config
    hf = {k: torch.randn_like(v) * 0.2 for k, v in model.state_dict().items()}
    model.load_state_dict(hf)
    back = lambda t: t.reshape(-1, 2, hd // 2, t.shape[1]).transpose(1, 2).reshape(t.shape)
    w = {"tok_embeddings.weight": hf["model.embed_tokens.weight"], "norm.weight": hf["model.norm.weight"], "output.weight": hf["lm_head.weight"]}
    for i in range(params["n_layers"]):
        a, b = f"model.layers.{i}.", f"layers.{i}."
        for new, old in [("input_layernorm", "attention_norm"), ("post_attention_layernorm", "ffn_norm"), ("self_attn.q_proj", "attention.wq"),
                         ("self_attn.k_proj", "attention.wk"), ("self_attn.v_proj", "attention.wv"), ("self_attn.o_proj", "attention.wo"),
                         ("mlp.gate_proj", "feed_forward.w1"), ("mlp.down_proj", "feed_forward.w2"), ("mlp.up_proj", "feed_forward.w3")]:
            t = hf[f"{a}{new}.weight"]
            w[f"{b}{old}.weight"] = back(t) if new[-6:] in ("q_proj", "k_proj") else t
    ids = torch.randint(0, c.vocab_size, (9,))
    want = model.double()(ids[None]).logits[0]
    got = forward(params, {k: v.double() for k, v in w.items()}, ids)
    assert (got - want).abs().max() < 1e-6 * want.std(), (got - want).abs().max()
    json.dump(params, open(os.path.join(out, "params.json"), "w"))
    save_file({k: v.contiguous() for k, v in hf.items()}, os.path.join(out, "hf.safetensors"))
    if not parts:
        return save_file({k: v.contiguous() for k, v in w.items()}, os.path.join(out, "consolidated.safetensors"))
    for i in range(parts):
        cut = lambda k, t: t if t.dim() == 1 else t.chunk(parts, 1 if k[-9:-7] in ("wo", "w2") or k[:4] == "tok_" else 0)[i].clone()
        torch.save({**{k: cut(k, v) for k, v in w.items()}, "rope.freqs": torch.ones(hd // 2)}, os.path.join(out, f"consolidated.0{i}.pth"))


small = dict(num_hidden_layers=1, vocab_size=20)
case("mistral", dict(dim=16, n_layers=1, head_dim=6, hidden_dim=24, n_heads=4, n_kv_heads=2, norm_eps=1e-5, vocab_size=20, rope_theta=1e4),
     MistralForCausalLM(MistralConfig(hidden_size=16, head_dim=6, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, sliding_window=None, **small)))
case("llama", dict(dim=16, n_layers=1, multiple_of=8, n_heads=4, n_kv_heads=2, norm_eps=1e-6, vocab_size=-1),
     LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, **small)), 2)
