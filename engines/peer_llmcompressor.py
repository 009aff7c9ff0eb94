"""llm-compressor's files, round-to-nearest and GPTQ, of a model in float32 (which scales have then, too) and in bfloat16. The logits are those of the model that it saves, from memory:
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

    half = torch.bfloat16
    for name, dtype, recipe in (
        ("rtn-symmetric", half, QuantizationModifier(**scheme(True))),
        ("rtn-asymmetric", half, QuantizationModifier(**scheme(False))),
        ("gptq-symmetric", half, GPTQModifier(**scheme(True), actorder=None)),
        ("gptq-asymmetric", half, GPTQModifier(**scheme(False), actorder=None)),
        ("gptq-act-order", half, GPTQModifier(**scheme(True, "weight"))),
        ("gptq-act-order-asymmetric", half, GPTQModifier(**scheme(False, "weight"))),
        ("rtn-asymmetric-float32", torch.float32, QuantizationModifier(**scheme(False))),
        ("gptq-act-order-float32", torch.float32, GPTQModifier(**scheme(True, "weight"))),
    ):
        made = {}

        def save(folder, dtype=dtype, recipe=recipe, made=made):
            m = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
            more = dict(dataset=samples, num_calibration_samples=len(samples), max_seq_length=256) if isinstance(recipe, GPTQModifier) else {}
            oneshot(model=m, recipe=recipe, **more)
            made["model"] = m

        def run(folder, ids, dtype=dtype, made=made):
            m = made["model"].eval()
            with torch.no_grad():
                logits, weights = m(torch.tensor(ids), use_cache=False).logits.float().numpy(), common.linears(m, dtype)
            m.save_pretrained(folder, save_compressed=True)
            tokenizer.save_pretrained(folder)
            return logits, weights

        yield name, save, run


common.peers(make, "llmcompressor", "compressed-tensors", "transformers", "torch")
