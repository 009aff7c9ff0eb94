"""What the scripts of this folder share.

    python check_X.py JOBS.json REPLIES.jsonl

JOBS.json is a list of {"model": folder, "dtype": name, "ids": [[token, ...], ...], "logits": file}. For each job the
engine's logits on the ids go to the file as little-endian float32 [sequences, tokens, vocabulary], and one JSON line to
the replies: {"versions": {package: version}, "missing": n, "unexpected": n, "names": [some of them], "error": text}.
Missing are tensors that the engine's model has and the folder has not, unexpected the other way round.
"""
import json
import os
import shutil
import sys
import traceback

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from importlib.metadata import version


def keys(missing, unexpected):
    """The part of a reply about tensors that found no partner."""
    missing, unexpected = sorted(missing), sorted(unexpected)
    return dict(missing=len(missing), unexpected=len(unexpected), names=missing[:2] + unexpected[:2])


def stored(folder):
    """Names of all tensors in a folder."""
    from safetensors import safe_open

    names = set()
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors"):
            with safe_open(os.path.join(folder, file), "np") as f:
                names.update(f.keys())
    return names


def told(e):
    """What a reply says of an exception, and where it was raised. Inside its handler."""
    if os.environ.get("TRACE"):
        traceback.print_exc()
    at = traceback.extract_tb(e.__traceback__)[-1]
    return f"{type(e).__name__}: {e} ({os.path.basename(at.filename)}:{at.lineno})"


def main(run, *packages):
    """run(folder, dtype, ids) gives logits and the reply's part about tensors."""
    with open(sys.argv[1]) as f:
        jobs = json.load(f)
    with open(sys.argv[2], "w") as replies:
        for job in jobs:
            reply = dict(versions={p: version(p).split("+")[0] for p in packages})
            try:
                logits, more = run(job["model"], job["dtype"], job["ids"])
                np.ascontiguousarray(logits, dtype=np.float32).tofile(job["logits"])
                reply.update(more)
            except Exception as e:
                reply["error"] = told(e)
            replies.write(json.dumps(reply) + "\n")
            replies.flush()


def columns(linear, inputs, dtype):
    """The weight of a torch module [out, in] as its kernel sees it: a one-hot input picks a column, and nothing is added."""
    import torch

    with torch.no_grad():
        return linear(torch.eye(inputs, dtype=dtype)).T.contiguous()


def linears(model, dtype):
    """The weights of all linears in the blocks of a torch model, by their names in the file."""
    blocks = {n: m for n, m in model.named_modules() if ".layers." in n and n.endswith("_proj")}
    return {n: columns(m, m.in_features if hasattr(m, "in_features") else m.infeatures, dtype) for n, m in blocks.items()}


def save_weights(weights, file):
    if all(isinstance(w, np.ndarray) for w in weights.values()):
        from safetensors.numpy import save_file
    else:
        from safetensors.torch import save_file
    save_file(weights, file)


def peers(make, *packages):
    """The other way round: what an engine's own tools write, for lowbit to read.

        python peer_X.py MODEL TEXT.txt IDS.json OUT

    make(model, text) yields (name, save, run): save(folder) writes a folder, run(folder, ids) gives what the engine
    computes with it and its weights dequantized by itself, {layer: [out, in]} in numpy or torch, whose type tells what it
    rounds them to, in whatever order suits. OUT gets a
    folder NAME, the logits NAME.f32 and the weights in a folder NAME-weights each, and replies.jsonl.
    """
    model, text, ids, out = sys.argv[1:5]
    with open(text) as f:
        text = f.read()
    with open(ids) as f:
        ids = json.load(f)
    with open(os.path.join(out, "replies.jsonl"), "w") as replies:
        for name, save, run in make(model, text):
            reply = dict(name=name, versions={p: version(p).split("+")[0] for p in packages})
            try:
                folder = os.path.join(out, name)
                save(folder)
                logits, weights = run(folder, ids)
                np.ascontiguousarray(logits, dtype=np.float32).tofile(folder + ".f32")
                os.mkdir(folder + "-weights")
                shutil.copy(os.path.join(model, "config.json"), folder + "-weights")
                save_weights({n + ".weight": w for n, w in weights.items()}, os.path.join(folder + "-weights", "model.safetensors"))
            except Exception as e:
                reply["error"] = told(e)
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
