"""Trains the mixture of this folder: Qwen3-MoE's architecture, 2 blocks with 32 experts of which 2 are taken, on nothing
that balances the experts, so that some are rare. A few minutes of one core.

    python train.py SHARED_TEXT TOKENIZER_FOLDER OUT [MINUTES]     (torch 2.15, transformers 5.24)
"""
import os
import sys
import time

import torch
import transformers

texts, tokenizer, out = sys.argv[1:4]
minutes = float(sys.argv[4]) if len(sys.argv) > 4 else 7
torch.manual_seed(5)
torch.set_num_threads(1)


def read(path, n=None):
    with open(os.path.join(texts, path), encoding="utf-8") as f:
        return f.read()[:n]


tok = transformers.AutoTokenizer.from_pretrained(tokenizer)
text = read("wikitext2/wiki.test.raw", 1_000_000) + read("real/real_heldout.txt") + read("tinyllama-2m/calibration.txt")
ids = []
for i in range(0, len(text), 10_000):  # the tokenizer is slow on long texts
    ids += tok(text[i : i + 10_000]).input_ids
ids = torch.tensor(ids)
print(len(ids), "tokens")
config = transformers.Qwen3MoeConfig(
    vocab_size=1024, hidden_size=128, intermediate_size=256, moe_intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, num_experts=32, num_experts_per_tok=2, decoder_sparse_step=1, norm_topk_prob=True,
    max_position_embeddings=256, tie_word_embeddings=True, router_aux_loss_coef=0.0, output_router_logits=False,
    bos_token_id=1023, eos_token_id=1023, pad_token_id=None, mlp_only_layers=[],
)
model = transformers.Qwen3MoeForCausalLM(config).float()
print(sum(p.numel() for p in model.parameters()), "parameters")
steps, length, batch = None, 128, 16
opt = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.05)
start, n, mean = time.time(), 0, None
while (part := (time.time() - start) / 60 / minutes) < 1:
    for g in opt.param_groups:
        g["lr"] = 4e-3 * min(1, (n + 1) / 50) * max(0.02, 1 - part)
    at = torch.randint(0, len(ids) - length, (batch,))
    x = torch.stack([ids[a : a + length] for a in at])
    loss = model(x, labels=x).loss
    opt.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    n += 1
    mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
    if n % 50 == 0:
        print(n, f"{mean:.3f} {time.time() - start:.0f} s", flush=True)
model.bfloat16().save_pretrained(out)
