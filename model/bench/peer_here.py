"""One pass of evalkit's native engine, or of lm-eval's HF back-end, for against_peers.py: `peer_here.py JOB.json ANSWERS.json`.

Both get all requests in one call, as texts; loading and one warm-up are not timed.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Ask = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def native(job: dict[str, Any]) -> Ask:
    from evalkit.config import ModelSpec
    from evalkit.lm.native import NativeLM
    from evalkit.tasks import Generate, Loglikelihood

    lm = NativeLM.load(ModelSpec(job["folder"], dtype=job["dtype"], device="cpu"))

    def ask(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if "continuations" in requests[0]:
            scored = [Loglikelihood(r["context"], tuple(r["continuations"])) for r in requests]
            likelihoods = dict(lm.loglikelihood(scored))
            return [{"logprobs": likelihoods[i].logprobs} for i in range(len(requests))]
        asked = [Generate(r["context"], tuple(r["until"]), r["max_new_tokens"]) for r in requests]
        texts = dict(lm.generate(asked))
        return [
            {"text": texts[i].text, "num_tokens": texts[i].num_tokens, "finish_reason": texts[i].finish_reason}
            for i in range(len(requests))
        ]

    return ask


def lm_eval(job: dict[str, Any]) -> Ask:
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    lm = get_model("hf")(pretrained=job["folder"], dtype=job["dtype"], device="cpu", batch_size=job["batch_size"])

    def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]

    def ask(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if "continuations" in requests[0]:
            pairs = [(r["context"], c) for r in requests for c in r["continuations"]]
            found = iter(lm.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True))
            return [{"logprobs": [next(found)[0] for _ in r["continuations"]]} for r in requests]
        settings = [{"until": r["until"], "max_gen_toks": r["max_new_tokens"], "do_sample": False} for r in requests]
        pairs = [(r["context"], s) for r, s in zip(requests, settings, strict=True)]
        texts = lm.generate_until(instances("generate_until", pairs), disable_tqdm=True)
        return [{"text": text, "num_tokens": len(lm.tok_encode(text))} for text in texts]

    return ask


ENGINES = {"evalkit": native, "lm-eval": lm_eval}


def main() -> None:
    import torch

    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    started = time.perf_counter()
    ask = ENGINES[job["engine"]](job)
    load_seconds = time.perf_counter() - started
    ask([job["warm_up"]])
    start = time.perf_counter()
    answers = ask(job["requests"])
    seconds = time.perf_counter() - start
    packages = ("torch",) if job["engine"] == "evalkit" else ("lm_eval", "torch", "transformers")
    record = {
        "seconds": seconds,
        "load_seconds": load_seconds,
        "versions": {name: version(name) for name in packages},
        "threads": torch.get_num_threads(),
        "answers": answers,
    }
    Path(sys.argv[2]).write_text(json.dumps(record), "utf-8")


if __name__ == "__main__":
    main()
