# Writes lm_eval.json: log-likelihoods of questions.jsonl by lm-evaluation-harness.
#   pip install lm-eval transformers torch accelerate peft; python lm_eval.py ../../../testdata/tinyllama-2m
import json
import os
import sys
import tempfile

sys.path.pop(0)  # this file has the package's name
import lm_eval
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

here = os.path.dirname(os.path.abspath(__file__))
task = f"""task: q
dataset_path: json
dataset_kwargs: {{data_files: {{test: {here}/questions.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
with tempfile.TemporaryDirectory() as folder:
    open(os.path.join(folder, "q.yaml"), "w").write(task)
    model = HFLM(pretrained=sys.argv[1], device="cpu", dtype="float32", batch_size=1)
    r = lm_eval.simple_evaluate(model=model, tasks=["q"], task_manager=TaskManager(include_path=folder), log_samples=True, bootstrap_iters=0)
samples = sorted(r["samples"]["q"], key=lambda s: s["doc_id"])
out = [[round(float(x[0]), 5) for x in s["filtered_resps"]] for s in samples]
json.dump({"lm_eval": lm_eval.__version__, "transformers": transformers.__version__, "log_likelihoods": out}, open(os.path.join(here, "lm_eval.json"), "w"))
