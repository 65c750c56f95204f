"""The work of compare.py by lm-eval's local-completions and local-chat-completions, which get the model's name and the address alone."""

import json
import sys
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

work = json.loads(Path(sys.argv[1]).read_text())
token = {"model": work["model"], "auth_token": work["key"]}
texts = LocalCompletionsAPI(base_url=f"{work['base_url']}/completions", **token)
chats = LocalChatCompletion(base_url=f"{work['base_url']}/chat/completions", **token)
assert texts.tokenizer_backend == "remote"


def asked(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)]


def settings(max_tokens: int, until: list[str]) -> dict:
    return {"until": until, "max_gen_toks": max_tokens, "do_sample": False}


pairs = [(each["context"], continuation) for each in work["scoring"] for continuation in each["continuations"]]
scored = iter(texts.loglikelihood(asked("loglikelihood", pairs), disable_tqdm=True))
prompts = [(each["prompt"], settings(each["max_tokens"], each["until"])) for each in work["texts"]]
messages = [(chats.apply_chat_template(each["messages"]), settings(each["max_tokens"], [])) for each in work["chats"]]
answers = {
    "scoring": [[next(scored)[0] for _ in each["continuations"]] for each in work["scoring"]],
    "texts": texts.generate_until(asked("generate_until", prompts), disable_tqdm=True),
    "chats": chats.generate_until(asked("generate_until", messages), disable_tqdm=True),
}
Path(sys.argv[2]).write_text(json.dumps(answers))
