"""The work of compare.py by the `openai` package."""

import json
import sys
from pathlib import Path

from openai import OpenAI

work = json.loads(Path(sys.argv[1]).read_text())
client = OpenAI(base_url=work["base_url"], api_key=work["key"])
model = work["model"]
assert client.models.retrieve(model).id == model


def logprob(context: str, continuation: str) -> float:
    """Of the continuation, whose tokens are those behind the context's."""
    settings = {"model": model, "temperature": 0, "max_tokens": 0, "echo": True, "logprobs": 1}
    found = client.completions.create(prompt=context + continuation, **settings).choices[0].logprobs
    return sum(value for value, offset in zip(found.token_logprobs, found.text_offset, strict=True) if offset >= len(context))


def text(prompt: str, until: list[str], max_tokens: int) -> str:
    answer = client.completions.create(model=model, prompt=prompt, stop=until, max_tokens=max_tokens, temperature=0)
    return answer.choices[0].text


def chat(messages: list[dict[str, str]], max_tokens: int) -> str:
    """The same streamed and whole, with the same log-probabilities."""
    settings = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**settings).choices[0]
    pieces = [chunk.choices[0] for chunk in client.chat.completions.create(**settings, stream=True)]
    assert "".join(piece.delta.content or "" for piece in pieces) == whole.message.content
    entries = [entry for piece in pieces if piece.logprobs for entry in piece.logprobs.content]
    assert entries == whole.logprobs.content
    return whole.message.content


answers = {
    "scoring": [[logprob(each["context"], continuation) for continuation in each["continuations"]] for each in work["scoring"]],
    "texts": [text(**each) for each in work["texts"]],
    "chats": [chat(**each) for each in work["chats"]],
}
Path(sys.argv[2]).write_text(json.dumps(answers))
