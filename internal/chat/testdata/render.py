# Writes rendered.json: what transformers makes of the conversations in chats.json.
#   pip install transformers jinja2; python render.py TEMPLATE...
# The date is that of chat.Now; parts of a content are joined where a template knows none.
import datetime
import json
import os
import re
import sys

import transformers.utils.chat_template_utils as utils
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


utils.datetime = Fixed
words = models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>")
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>")


def joined(message):
    if not isinstance(message.get("content"), list):
        return message
    return dict(message, content="\n".join(part["text"] for part in message["content"]))


def render(source, chat):
    messages = chat["messages"]
    if not re.search(r"""\{%-?\s*for\s+\w+\s+in\s+[\w.]*(\[['"])?content\b""", source):
        messages = [joined(m) for m in messages]
    try:
        return {"text": tokenizer.apply_chat_template(messages, chat_template=source, tools=chat.get("tools"), tokenize=False, add_generation_prompt=False)}
    except Exception as e:
        return {"error": str(e)}


chats = json.load(open("chats.json"))
out = {os.path.basename(p): [render(open(p).read(), c) for c in chats] for p in sys.argv[1:]}
json.dump(out, open("rendered.json", "w"), indent=1, ensure_ascii=False, sort_keys=True)
