"""llm-compressor's files, round-to-nearest and GPTQ. The logits are those of the model that it saves, from memory:
transformers does not load its asymmetric files."""
import common
import torch
import transformers
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

torch.set_num_threads(1)


def make(model, text):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    ids = [tokenizer(text[i : i + 600]).input_ids for i in range(0, 16 * 600, 600)]
    samples = Dataset.from_dict(dict(input_ids=ids, attention_mask=[[1] * len(s) for s in ids]))

    def scheme(symmetric, actorder=None):
        weights = dict(num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=64)
        if actorder:
            weights["actorder"] = actorder
        return dict(ignore=["lm_head"], config_groups={"group_0": dict(targets=["Linear"], weights=weights)})

    for name, recipe in {
        "rtn-symmetric": QuantizationModifier(**scheme(True)),
        "rtn-asymmetric": QuantizationModifier(**scheme(False)),
        "gptq-symmetric": GPTQModifier(**scheme(True)),
        "gptq-asymmetric": GPTQModifier(**scheme(False)),
        "gptq-act-order": GPTQModifier(**scheme(True, "weight")),
    }.items():
        made = {}

        def save(folder, recipe=recipe, made=made):
            m = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
            more = dict(dataset=samples, num_calibration_samples=len(samples), max_seq_length=256) if isinstance(recipe, GPTQModifier) else {}
            oneshot(model=m, recipe=recipe, **more)
            made["model"] = m
            made["folder"] = folder

        def logits(folder, ids, made=made):
            m = made["model"].eval()
            with torch.no_grad():
                result = m(torch.tensor(ids), use_cache=False).logits.float().numpy()
            m.save_pretrained(folder, save_compressed=True)
            return result

        yield name, save, logits


common.peers(make, "llmcompressor", "compressed-tensors", "transformers", "torch")
