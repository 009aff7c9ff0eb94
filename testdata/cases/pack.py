"""pack.py FROM TO: copies the folders of cases in FROM to TO, with the tensors taken out of the files.
NAME.safetensors becomes NAME.safetensors.json: the header, and where each tensor lies in tensors.bin, which has
equal tensors once. Tensors of cases that are about shapes only (FILLED) are not kept: place -1, values from the test."""
import hashlib, json, os, shutil, struct, sys
src, dst = sys.argv[1:]
FILLED = {"awq-group-16-256", "tp-odd-groups", "hidden-not-multiple-of-128", "awq-outputs-not-64", "gptq-outputs-48",
          "hqq-group-38", "float64-weights", "untied-head-missing", "phi3-fused", "tensor-in-two-shards", "fp8-block-scaled",
          "fp8-block-scaled-no-config", "merges-as-pairs", "tied-and-head-saved", "llama31-post-processor", "extra-tensor-value-head",
          "tokenizer-longer-than-model"}
blob, places = bytearray(), {}
for case in sorted(os.listdir(src)):
    if not os.path.isdir(f"{src}/{case}"):
        continue
    for path, _, files in os.walk(f"{src}/{case}"):
        to = dst + path[len(src):]
        os.makedirs(to, exist_ok=True)
        for f in files:
            if not f.endswith(".safetensors"):
                if case != "long-line-without-spaces" or f != "calib.txt":
                    shutil.copyfile(f"{path}/{f}", f"{to}/{f}")
                continue
            b = open(f"{path}/{f}", "rb").read()
            n = struct.unpack("<Q", b[:8])[0]
            text = b[8:8 + n].decode()
            at = []
            for name, t in sorted(((k, t) for k, t in json.loads(text).items() if k != "__metadata__"), key=lambda x: x[1]["data_offsets"]):
                start, end = t["data_offsets"]
                data = b[8 + n + start:8 + n + end]
                if case in FILLED:
                    at.append(-1)
                    continue
                key = hashlib.sha256(data).digest()
                if key not in places:
                    places[key] = len(blob)
                    blob += data
                at.append(places[key])
            json.dump({"header": text, "at": at}, open(f"{to}/{f}.json", "w"))
open(f"{dst}/tensors.bin", "wb").write(blob)
