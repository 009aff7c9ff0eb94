"""Writes NAME/ beside it: adapters that PEFT saved, with the base they were made for and
what merge_and_unload makes of it (torch 2.13.0, transformers 5.24.0, peft 0.21.2)."""
import json, os, shutil
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from peft import LoraConfig, get_peft_model

here = os.path.dirname(os.path.abspath(__file__))


def case(name, model, **options):
    torch.manual_seed(1)
    out = os.path.join(here, name)
    shutil.rmtree(out, ignore_errors=True)
    base = {k: v.clone() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        base.pop("lm_head.weight")
    m = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    for n, p in m.named_parameters():
        if p.requires_grad:
            p.data = torch.randn_like(p) * 0.3
    m.save_pretrained(out)
    os.remove(os.path.join(out, "README.md"))
    merged = {k: v for k, v in m.merge_and_unload().state_dict().items() if k in base}
    changed = {k: v for k, v in merged.items() if not torch.equal(v, base[k])}
    # Of the base only what is changed and one that is not; of what is not changed the name.
    same = [k for k in base if k not in changed][0]
    save_file({k: v.contiguous() for k, v in base.items() if k in changed or k == same}, os.path.join(out, "base.safetensors"))
    save_file({k: v.contiguous() for k, v in changed.items()}, os.path.join(out, "merged.safetensors"))


llama = lambda **k: LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                                                 num_key_value_heads=1, vocab_size=20, **k))
case("llama", llama(), r=3, lora_alpha=7, target_modules=["q_proj", "down_proj"],
     rank_pattern={"layers.1.self_attn.q_proj": 2, "down_proj": 4}, alpha_pattern={"^model.layers.0.mlp.down_proj": 5})
case("llama-rs", llama(), r=4, lora_alpha=8, target_modules=["k_proj", "embed_tokens"], use_rslora=True, modules_to_save=["lm_head"])
case("gpt2", GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=8, vocab_size=20)), r=2, lora_alpha=4,
     target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, bias="lora_only")
