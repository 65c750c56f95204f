"""The native engine against llama.cpp and ik_llama.cpp, on one CPU and the same GGUF files: decoding, prefill, GSM8K and MMLU.

    python model/bench/peer_llama_cpp.py --data DIR [--work decode,prefill,gsm8k,mmlu] [--engines exact,int8,llama.cpp,ik_llama.cpp]

Each pass is a process of its own, one at a time: it loads, warms up on another prompt, and is timed over the answering alone. Passes are
interleaved; the median counts. Beside seconds it prints the processor's seconds, which other programs on the machine disturb less, and
the load when each pass began. llama.cpp is the `xllamacpp` wheel through `--engine llama_cpp`; ik_llama.cpp is the `ik-llama-cpp-python`
wheel, where it is installed, for one sequence alone: its binding copies no sequences.
"""

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from against_peers import QUICK_DOCS, QUICK_SUBJECTS, SUBJECTS

from evalkit.config import ModelSpec
from evalkit.data.sources import FolderSource
from evalkit.lm import open_lm
from evalkit.lm.models import find
from evalkit.record.write import environment
from evalkit.tasks import Generate
from evalkit.tasks.registry import resolve
from moe_lm.engine.request import GenerateRequest

ENGINES = {"exact": ("native", "float32"), "int8": ("native", "int8"), "llama.cpp": ("llama_cpp", "auto")}  # engine, dtype
IK = "ik_llama.cpp"
MODELS = {"decode": "qwen2.5-coder-0.5b", "prefill": "qwen2.5-coder-0.5b", "gsm8k": "qwen2.5-coder-0.5b", "mmlu": "smollm2-135m"}
DECODED, BEFORE, PREFILLED = 64, 32, 1000  # tokens
SINGLE = ("decode", "prefill")  # of one sequence of random tokens
Timed = Callable[[], int]  # does the work, returns how many tokens or documents that were


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default=",".join(MODELS), help="what is timed, separated by commas (default: %(default)s)")
    parser.add_argument("--engines", default=",".join([*ENGINES, IK]), help="(default: %(default)s)")
    parser.add_argument("--model", help="another GGUF file for all work")
    parser.add_argument("--documents", type=int, default=16, help="of GSM8K")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="of GSM8K")
    parser.add_argument("--subjects", type=int, choices=range(1, len(SUBJECTS) + 1), metavar="N", help="so many whole subjects of MMLU")
    parser.add_argument("--data", default=os.environ.get("EVALKIT_DATA"), help="folder of the benchmarks' data (default: $EVALKIT_DATA)")
    parser.add_argument("--repeats", type=int, default=3, help="passes of each engine, interleaved")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every engine (default: one a core)")
    parser.add_argument("--one", metavar="ENGINE", help=argparse.SUPPRESS)  # a single pass, in this process
    options = parser.parse_args()
    works, engines = options.work.split(","), options.engines.split(",")
    if unknown := {*works} - MODELS.keys() | {*engines} - {*ENGINES, IK}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if not options.data and {*works} - {*SINGLE}:
        parser.error("give --data DIR, or set EVALKIT_DATA")
    if options.one:
        print(json.dumps(one_pass(options.one, works[0], options)))
        return
    if IK in engines and importlib.util.find_spec("ik_llama_cpp") is None:
        engines.remove(IK)
        print("ik_llama.cpp is left out: pip install ik-llama-cpp-python", file=sys.stderr)
    results = {work: measure(work, [e for e in engines if e != IK or work in SINGLE], options) for work in works}
    where = environment()
    print(f"\n{where.cpu}, {where.cores} cores, {options.threads} threads; python {where.python}, {where.platform}")
    for work, rows in results.items():
        print(f"\n{table(work, options.model or MODELS[work], rows)}")
    print()
    print(json.dumps({"environment": asdict(where), "threads": options.threads, "results": results}))


def measure(work: str, engines: Sequence[str], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Each engine's passes, interleaved. Exits, with the log's end, where one fails."""
    found: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    names = ("threads", "documents", "subjects", "model", "data")
    given = [f"--{name}={getattr(options, name)}" for name in names if getattr(options, name)]
    given.append(f"--max-new-tokens={options.max_new_tokens}")
    env = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    for _ in range(options.repeats):
        for engine in engines:
            command = [sys.executable, __file__, "--one", engine, "--work", work, *given]
            load = os.getloadavg()[0]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"error: {engine} ended with {done.returncode}:\n" + "\n".join(done.stderr.splitlines()[-20:]))
            found[engine].append(json.loads(done.stdout.splitlines()[-1]) | {"load": load})
            print(f"{work}: {engine}: {found[engine][-1]}", file=sys.stderr, flush=True)
    return found


def one_pass(engine: str, work: str, options: argparse.Namespace) -> dict[str, Any]:
    """Load, warm up, and time: {"count", "seconds", "cpu_seconds", "load_seconds", "build"}."""
    start = time.perf_counter()
    model = options.model or MODELS[work]
    (warm_up, timed), build = ik(model, work, options.threads) if engine == IK else ours(engine, model, work, options)
    load_seconds = time.perf_counter() - start
    warm_up()
    # the tokens after the first alone: what is before them is measured by itself and taken off
    base = _clock(warm_up) if work == "decode" else (0.0, 0.0, 0)
    seconds, cpu_seconds, count = (a - b for a, b in zip(_clock(timed), base, strict=True))
    return {"count": count, "seconds": seconds, "cpu_seconds": cpu_seconds, "load_seconds": load_seconds, "build": build}


def _clock(run: Timed) -> tuple[float, float, int]:
    """Seconds, seconds of all processors, and what was done."""
    wall, cpu = time.perf_counter(), time.process_time()
    count = run()
    return time.perf_counter() - wall, time.process_time() - cpu, count


def ours(engine: str, model: str, work: str, options: argparse.Namespace) -> tuple[tuple[Timed, Timed], str]:
    """(a warm-up, the work itself) on one of evalkit's engines, and what computes."""
    import torch

    from evalkit.lm.tokenized import TokenizedLM

    torch.set_num_threads(options.threads)
    name, dtype = ENGINES[engine]
    lm = open_lm(ModelSpec(model, name, dtype=dtype))
    assert isinstance(lm, TokenizedLM)
    lm.prepare()

    def generate(prompt: Sequence[int], tokens: int) -> int:
        ((_, answer),) = lm.generator.generate([GenerateRequest(prompt, max_new_tokens=tokens, ignore_eos=True)])
        return len(answer.tokens)

    build = str(lm.describe()["kernel"])
    if work == "decode":
        prompt = drawn(BEFORE)
        return (lambda: generate(prompt, 1), lambda: generate(prompt, 1 + DECODED)), build
    if work == "prefill":
        other, prompt = drawn(BEFORE, 1), drawn(PREFILLED)
        return (lambda: generate(other, 2), lambda: generate(prompt, 1) * PREFILLED), build
    source = FolderSource(Path(options.data))
    if work == "gsm8k":
        task = resolve("gsm8k@qwen")
        asked = [request for doc in task.load(source)[: options.documents] for request in task.requests(doc)]
        answers = [replace(request, max_new_tokens=options.max_new_tokens) for request in asked if isinstance(request, Generate)]
        short = [Generate("The sky is", (), 4)]
        return (lambda: len(list(lm.generate(short))), lambda: len(list(lm.generate(answers)))), build
    task = resolve("mmlu@lm-eval")
    docs = task.load(source)
    names, most = SUBJECTS[: options.subjects or QUICK_SUBJECTS], None if options.subjects else QUICK_DOCS
    chosen = [doc for name in names for doc in [doc for doc in docs if doc.group == name][:most]]
    scored: Any = [task.requests(doc)[0] for doc in chosen]
    other_subject: Any = list(task.requests(next(doc for doc in docs if doc.group not in SUBJECTS)))
    return (lambda: len(list(lm.loglikelihood(other_subject))), lambda: len(list(lm.loglikelihood(scored)))), build


def ik(model: str, work: str, threads: int) -> tuple[tuple[Timed, Timed], str]:
    """As `ours`, through ik_llama.cpp's own binding: greedy, one sequence, flash attention on, as in its binding."""
    import ik_llama_cpp._ctypes_api as c
    import numpy as np
    from ik_llama_cpp._internals import IkContext, IkModel, make_batch_range

    loaded = IkModel(str(find(model).path))
    context = IkContext(loaded, n_ctx=PREFILLED + BEFORE + DECODED + 64, n_threads=threads)

    def run(tokens: Sequence[int], begin: int) -> int:
        batch = make_batch_range(list(tokens), pos_start=begin)
        assert context.decode(batch) == 0
        c.llama_batch_free(batch)
        return int(np.ctypeslib.as_array(context.get_logits(len(tokens) - 1), (loaded.n_vocab,)).argmax())

    def generate(prompt: Sequence[int], tokens: int) -> int:
        context.kv_cache_clear()
        token = run(prompt, 0)
        for done in range(1, tokens):
            token = run([token], len(prompt) + done - 1)
        return tokens

    build = f"ik-llama-cpp-python, {loaded.desc}"
    if work == "decode":
        prompt = drawn(BEFORE)
        return (lambda: generate(prompt, 1), lambda: generate(prompt, 1 + DECODED)), build
    other, prompt = drawn(BEFORE, 1), drawn(PREFILLED)
    return (lambda: generate(other, 2), lambda: generate(prompt, 1) * PREFILLED), build


def drawn(count: int, seed: int = 0) -> list[int]:
    """Random token ids that every vocabulary here has."""
    return random.Random(seed).choices(range(1000, 30_000), k=count)


def table(work: str, model: str, rows: dict[str, list[dict[str, Any]]]) -> str:
    """The engines beside each other, in markdown."""
    unit = "tokens" if work in SINGLE else "documents"
    lines = [f"{work}, {model}", "", f"| engine | {unit}/s, median (all) | processor seconds, median | load, s | load average | build |"]
    lines.append("|---|---|---|---|---|---|")
    for engine, passes in rows.items():
        rates = [each["count"] / each["seconds"] for each in passes]
        cells = [engine, f"{statistics.median(rates):.3g} ({', '.join(f'{rate:.3g}' for rate in rates)})"]
        cells += [f"{statistics.median(each[name] for each in passes):.2f}" for name in ("cpu_seconds", "load_seconds")]
        cells += [", ".join(f"{each['load']:.1f}" for each in passes), passes[0]["build"].replace("|", ",")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
