"""The work of compare.py by litellm, to an OpenAI-compatible server and as to vLLM."""

import json
import os
import sys
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # not from the network
import litellm

work = json.loads(Path(sys.argv[1]).read_text())
server = {"api_base": work["base_url"], "api_key": work["key"], "temperature": 0}


def text(prompt: str, until: list[str], max_tokens: int) -> str:
    model = f"text-completion-openai/{work['model']}"
    return litellm.text_completion(model=model, prompt=prompt, stop=until, max_tokens=max_tokens, **server).choices[0].text


def chat(messages: list[dict[str, str]], max_tokens: int) -> str:
    """The same by either way, and streamed."""
    settings = {"messages": messages, "max_tokens": max_tokens, **server}
    whole = litellm.completion(model=f"hosted_vllm/{work['model']}", **settings).choices[0].message.content
    pieces = litellm.completion(model=f"openai/{work['model']}", stream=True, **settings)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole
    return whole


answers = {"texts": [text(**each) for each in work["texts"]], "chats": [chat(**each) for each in work["chats"]]}
Path(sys.argv[2]).write_text(json.dumps(answers))
