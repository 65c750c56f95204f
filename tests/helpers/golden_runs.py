"""Five small finished runs without a model: multiple choice, generation, programs, a suite with BLEU, and a judged benchmark."""

import random
from dataclasses import replace
from pathlib import Path

from judge_runs import waiting_run

from evalkit.data.sources import SampleSource
from evalkit.judge.result import judged_entry
from evalkit.judge.score import Rated, Ratings
from evalkit.record.read import read_run, read_samples
from evalkit.record.sample import RatedTurn, Sample
from evalkit.record.schema import JudgeEntry, ModelInfo
from evalkit.record.write import begin, task_entry, write_record, write_run, write_samples
from evalkit.tasks import CodeTask, Doc, Generated, Loglikelihood, Loglikelihoods, Ran, Response, Task
from evalkit.tasks.registry import resolve

STARTED = "2026-01-02T03:04:05+00:00"
JUDGE = "judge-1"
SPECS = {"mmlu": "mmlu", "gsm8k": "gsm8k@lm-eval", "humaneval": "humaneval", "suite": "pawsx,flores", "mt_bench": "mt_bench"}


def golden_run(folder: Path, kind: str, model: str = "org/model", n: int = 12) -> Path:
    """A run of one of SPECS, at most n documents; what it answers depends on model and document alone."""
    if kind == "mt_bench":
        return _judged(folder, n)
    entries, samples = {}, {}
    for spec in SPECS[kind].split(","):
        task, source = resolve(spec), SampleSource()
        docs = task.load(source)
        chosen = docs[:: max(1, len(docs) // n)][:n]
        if isinstance(task, CodeTask):  # under the benchmark's names, which EvalPlus's files have
            chosen = [replace(doc, id=doc.id.replace("Sample", "HumanEval")) for doc in chosen]
        samples[task.protocol.task] = [_sample(task, doc, random.Random(f"{model} {doc.id}")) for doc in chosen]
        # as if it had been a folder's: figures of the bundled sample are no benchmark's
        data = replace(source.describe(type(task)), source="dir")
        entries[task.protocol.task] = task_entry(task, samples[task.protocol.task], len(docs), data)
    info = ModelInfo(spec=model, fingerprint=f"sha256:{model}", engine="native", dtype="float32", device="cpu")
    run = replace(begin(folder.name, info, None, 0, None), status="complete", started=STARTED, command=f"evalkit run {kind}", tasks=entries)
    write_run(folder, run, samples)
    return folder


def _sample(task: Task, doc: Doc, rng: random.Random) -> Sample:
    requests = list(task.requests(doc))
    responses: list[Response] = []
    for request in requests:
        if isinstance(request, Loglikelihood):
            logprobs = tuple(-rng.uniform(0.1, 9) for _ in request.continuations)
            responses.append(Loglikelihoods(logprobs, tuple(p > -0.7 for p in logprobs)))
        else:
            said = (
                str(doc.fields.get("answer") or [*doc.fields.values()][-1])
                if rng.random() < 0.5
                else f'I say #### {rng.randrange(9)} \u2028 ü\n"]]>'
            )
            responses.append(Generated(said, rng.choice(("stop", "eos", "length")), 3))
    if isinstance(task, CodeTask):
        outcomes = (Ran("passed"), Ran("failed", "assert f(1) == 2"), Ran("timeout"))
        return Sample(doc, requests, responses, task.score_programs(doc, [rng.choice(outcomes) for _ in responses]))
    return Sample(doc, requests, responses, task.score(doc, responses))


def _judged(folder: Path, n: int) -> Path:
    """Rated as `evalkit judge` records it, with the files that it writes for FastChat."""
    waiting_run(folder, n)
    run, task = read_run(folder), resolve("mt_bench")
    rng, rows, rated = random.Random(0), [], []
    for row in read_samples(folder, "mt_bench"):
        turns = [Rated(row.doc_id, row.group, turn, 0, "Well. [[7]]", float(rng.randint(1, 10)), 7.0, False) for turn in (1, 2)]
        rated += turns
        ratings = Ratings(turns, "published", task.scale)  # type: ignore[attr-defined]
        judgments = tuple(RatedTurn(turn=t.turn, repeat=0, published=t.published, strict=t.strict, judgment=t.text) for t in turns)
        rows.append(replace(row, metrics=ratings.values(), extracted=ratings.in_words(), judgments=judgments))
    ratings = Ratings(rated, "published", task.scale)  # type: ignore[attr-defined]
    entry = run.tasks["mt_bench"]
    about = JudgeEntry(model=JUDGE, rating="published", temperature=0.0, counts=ratings.counts())
    judged = judged_entry(replace(entry, counts=replace(entry.counts, unscored=0)), entry.protocol_sha256, ratings, about)
    write_samples(folder, "mt_bench", rows)
    judged = replace(judged, data=replace(judged.data, source="dir"))
    write_record(folder, replace(run, started=STARTED, tasks={"mt_bench": judged}))
    return folder
