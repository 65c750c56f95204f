"""The chats of compare.py by curl, as the blog of Qwen1.5-MoE calls vLLM's server."""

import json
import subprocess
import sys
from pathlib import Path

work = json.loads(Path(sys.argv[1]).read_text())


def chat(messages: list[dict[str, str]], max_tokens: int) -> str:
    body = json.dumps({"model": work["model"], "messages": messages, "max_tokens": max_tokens, "temperature": 0})
    headers = ["-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {work['key']}"]
    done = subprocess.run(["curl", "-sS", f"{work['base_url']}/chat/completions", *headers, "-d", body], capture_output=True, check=True)
    return json.loads(done.stdout)["choices"][0]["message"]["content"]


Path(sys.argv[2]).write_text(json.dumps({"chats": [chat(**each) for each in work["chats"]]}))
