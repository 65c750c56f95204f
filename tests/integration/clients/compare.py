"""Other programs' clients against `evalkit serve`: the scores of `evalkit run` on the same documents, or exit status 1.

    python tests/integration/clients/compare.py --model smollm2-135m --limit 8      (or: make clients)

The clients are installed into a virtual environment of their own (--venv), since they bring hundreds of packages that evalkit does not
need. Each runs as a process that reads the work and writes its answers: through_openai.py, through_inspect.py, through_litellm.py,
through_lm_eval.py and through_curl.py. MMLU is scored from the log-probabilities of a prompt's tokens; GSM8K's questions are continued as
texts, and asked as chats.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evalkit.config import ModelSpec
from evalkit.data.sources import open_source
from evalkit.lm.native import NativeLM
from evalkit.runner.plan import Plan, plan
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods
from evalkit.tasks.registry import resolve

HERE = Path(__file__).parent
PACKAGES = ("openai", "inspect_ai", "litellm", "lm_eval[api]", "torch")
CLIENTS = ("openai", "inspect", "litellm", "lm_eval", "curl")
KEY = "only-for-this-comparison"
NEW_TOKENS = 32  # of an answer: enough to compare, short enough for a small machine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--limit", type=int, default=8, help="documents a task")
    parser.add_argument("--venv", type=Path, default=Path(tempfile.gettempdir()) / "evalkit-clients")
    parser.add_argument("--clients", default=",".join(CLIENTS))
    options = parser.parse_args()
    python = _installed(options.venv)
    mmlu, gsm8k = (plan(resolve(name), open_source("sample"), options.limit) for name in ("mmlu", "gsm8k"))
    work = _work(mmlu, gsm8k)
    expected = _native(options.model, work)
    figures = _evalkit_run(options.model, options.limit)
    print(f"{options.model}, {options.limit} documents a task: mmlu {figures['mmlu']:.4f}, gsm8k {figures['gsm8k']:.4f} by evalkit run")
    faults = 0
    with _serving(options.model) as address, tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "work.json"), Path(folder, "answers.json")
        given.write_text(json.dumps(work | {"base_url": f"{address}/v1", "key": KEY, "model": "compared"}))
        for client in options.clients.split(","):
            found.unlink(missing_ok=True)
            command = [python, HERE / f"through_{client}.py", given, found]
            environment = os.environ | {"OPENAI_API_KEY": KEY}
            environment.pop("PYTHONPATH", None)
            done = subprocess.run([str(each) for each in command], capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                print(f"{client}: FAULT: {done.stderr.strip().splitlines()[-1:]}")
                faults += 1
                continue
            for kind, answers in json.loads(found.read_text()).items():
                line, is_same = _compared(kind, answers, expected[kind], {"scoring": mmlu, "texts": gsm8k}.get(kind), figures)
                print(f"{client:8} {kind:8} {'ok   ' if is_same else 'FAULT'} {line}", flush=True)
                faults += not is_same
    return 1 if faults else 0


def _work(mmlu: Plan, gsm8k: Plan) -> dict[str, list[dict[str, Any]]]:
    """The documents as plain requests, and GSM8K's questions as chats."""
    scoring, texts, chats = [], [], []
    for doc in mmlu.docs:
        (request,) = mmlu.task.requests(doc)
        assert isinstance(request, Loglikelihood)
        scoring.append({"context": request.context, "continuations": request.continuations})
    for doc in gsm8k.docs:
        (request,) = gsm8k.task.requests(doc)
        assert isinstance(request, Generate)
        texts.append({"prompt": request.context, "until": request.until, "max_tokens": NEW_TOKENS})
        chats.append({"messages": [{"role": "user", "content": doc.fields["question"]}], "max_tokens": NEW_TOKENS})
    return {"scoring": scoring, "texts": texts, "chats": chats}


def _native(model: str, work: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Any]]:
    """What the engine answers without a server."""
    lm = NativeLM.load(ModelSpec(model))
    scored = dict(lm.loglikelihood([Loglikelihood(each["context"], tuple(each["continuations"])) for each in work["scoring"]]))
    texts = [Generate(each["prompt"], tuple(each["until"]), each["max_tokens"]) for each in work["texts"]]
    chats = [Generate("", (), each["max_tokens"], messages=(("user", each["messages"][0]["content"]),)) for each in work["chats"]]
    written = dict(lm.generate([*texts, *chats]))
    return {
        "scoring": [list(scored[i].logprobs) for i in range(len(scored))],
        "texts": [written[i].text for i in range(len(texts))],
        "chats": [written[i].text for i in range(len(texts), len(texts) + len(chats))],
    }


def _evalkit_run(model: str, limit: int) -> dict[str, float]:
    """The figures of `evalkit run`."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["evalkit", "run", "--tasks", "mmlu,gsm8k", "--data", "sample", "--limit", str(limit), "--model", model]
        subprocess.run([*command, "--out", folder, "--name", "run", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        tasks = json.loads(Path(folder, "run", "run.json").read_text())["tasks"]
    return {name: task["metrics"][task["headline"]]["value"] for name, task in tasks.items()}


def _compared(
    kind: str, answers: Sequence[Any], expected: Sequence[Any], of: Plan | None, figures: Mapping[str, float]
) -> tuple[str, bool]:
    """One line on a client's answers beside the engine's, and whether they agree."""
    if kind == "scoring":
        furthest = max(abs(a - b) for mine, own in zip(answers, expected, strict=True) for a, b in zip(mine, own, strict=True))
        assert of is not None
        score = _score(of, [Loglikelihoods(tuple(each), (False,) * len(each)) for each in answers])
        return f"mmlu {score:.4f}, log-probabilities within {furthest:.1e}", furthest < 1e-3 and abs(score - figures["mmlu"]) < 1e-9
    equal = sum(a.strip() == b.strip() for a, b in zip(answers, expected, strict=True))
    line, is_same = f"{equal} of {len(expected)} answers are the same", equal == len(expected)
    if of is not None:
        score = _score(of, [Generated(each, "stop", 0) for each in answers])
        reference = _score(of, [Generated(each, "stop", 0) for each in expected])
        return f"gsm8k {score:.4f} ({reference:.4f} by the engine with {NEW_TOKENS} tokens), {line}", is_same and score == reference
    return line, is_same


def _score(of: Plan, responses: Sequence[Loglikelihoods | Generated]) -> float:
    values = [of.task.score(doc, [response]).metrics for doc, response in zip(of.docs, responses, strict=True)]
    return sum(next(iter(each.values())) for each in values) / len(values)


def _installed(venv: Path) -> Path:
    """The python of the virtual environment, made and filled if it is not there."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


@contextmanager
def _serving(model: str) -> Iterator[str]:
    """`evalkit serve` with a key; yields its address up to the port."""
    command = ["evalkit", "serve", "--model", model, "--port", "0", "--name", "compared", "--api-key"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"EVALKIT_API_KEY": KEY})
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if " at http://" in line:
                address = line.partition(" at ")[2].partition("/v1")[0]
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()  # so that it never waits for a reader
        yield address
    finally:
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    sys.exit(main())
