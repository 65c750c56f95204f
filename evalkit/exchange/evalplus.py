"""EvalPlus's files: samples.jsonl (a program a line) and eval_results.json (what became of each), of HumanEval(+) and MBPP(+).

Layout: evalplus 0.3.1, evalplus/evaluate.py. "base" is by the benchmark's own tests, "plus" by EvalPlus's; a problem's score is the share
of its programs that pass, whose mean is pass@1.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.codec import parse_json
from evalkit.errors import EvalkitError
from evalkit.exchange.recorded import Recorded, Written, foreign_entry, foreign_row, foreign_run, merged
from evalkit.exchange.stated import stated
from evalkit.files import read_text, write_output
from evalkit.record.sample import SampleRow
from evalkit.record.schema import DataInfo, TaskEntry, task_of
from evalkit.tasks import CodeTask, Doc
from evalkit.tasks.registry import resolve

KEYS = frozenset({"eval", "hash"})
SETS = ("base", "plus")
OUTCOMES = {"pass": 1.0, "fail": 0.0, "timeout": 0.0}
# by how task_ids begin: our name of the benchmark, the numbers of its problems, and how many of them EvalPlus 0.3.1 has
BENCHMARKS = {"HumanEval": ("humaneval", range(164), 164), "Mbpp": ("mbpp", range(1, 975), 378)}
BY_PLUS = ("qwen-coder-plus",)  # protocols that judge by EvalPlus's tests
FIX = "evaluate the samples with EvalPlus again"


def write(recorded: Recorded, out: Path, options: Mapping[str, str]) -> Written:
    """samples.jsonl and eval_results.json of the run's HumanEval. Raises EvalkitError where it has none, or more than one."""
    tasks = [task for task in recorded.run.tasks if task_of(task) == "humaneval"]
    if len(tasks) != 1:
        what = f"it has {', '.join(tasks)}" if tasks else "it has none"
        raise EvalkitError(f"EvalPlus's files are of one humaneval task, and {recorded.path}: {what}; run humaneval under one protocol")
    recorded.require_samples()
    entry, rows = recorded.run.tasks[tasks[0]], recorded.samples[tasks[0]]
    judge = resolve(f"humaneval@{entry.protocol}")
    assert isinstance(judge, CodeTask)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        programs = judge.programs(Doc(row.doc_id, row.group, row.doc), row.responses)
        verdicts = row.extracted.split("\n")
        if len(programs) != len(verdicts):
            raise EvalkitError(f"{recorded.path}: {row.doc_id} has {len(programs)} programs and {len(verdicts)} outcomes; run it again")
        found[row.doc_id] = [
            {"task_id": row.doc_id, "solution": program.program, **_statuses(entry, verdict)}
            for program, verdict in zip(programs, verdicts, strict=True)
        ]
    lines = [{"task_id": each["task_id"], "solution": each["solution"]} for samples in found.values() for each in samples]
    name = _set_of(entry)
    figures = {name: {metric: estimate.value for metric, estimate in entry.metrics.items() if metric.startswith("pass@")}}
    results = {"date": recorded.run.started, "hash": entry.data.sha256, "eval": found, "pass_at_k": figures}
    written = [out / "samples.jsonl", out / "samples_eval_results.json"]
    write_output(written[0], "".join(json.dumps(line) + "\n" for line in lines))
    write_output(written[1], json.dumps(results, indent=2) + "\n")
    return Written(written)


def _set_of(entry: TaskEntry) -> str:
    return "plus" if entry.protocol in BY_PLUS else "base"


def _statuses(entry: TaskEntry, verdict: str) -> dict[str, Any]:
    """The outcome by the tests that the protocol has; null by the others, which were not run."""
    word = verdict.partition(":")[0]
    status = {"passed": "pass", "timeout": "timeout"}.get(word, "fail")
    return {
        f"{name}_{key}": value
        for name in SETS
        for key, value in (("status", status if name == _set_of(entry) else None), ("fail_tests", []))
    }


def read(place: Path) -> Recorded:
    """eval_results.json, or a folder that has one. Raises EvalkitError where an outcome is none, or its own pass@1 is another."""
    files = [place] if place.is_file() else sorted(place.glob("*eval_results.json"))
    if len(files) > 1:
        raise EvalkitError(f"{place} holds {len(files)} results of EvalPlus; give one, such as {files[0]}")
    (file,) = files
    try:
        raw = parse_json(read_text(file))
        rows = [_row(file, doc_id, samples) for doc_id, samples in raw["eval"].items()]
        kinds = {row.doc_id.partition("/")[0] for row in rows}
        if len(kinds) != 1 or not kinds <= BENCHMARKS.keys():
            raise EvalkitError(f"{file}: task_ids begin with {', '.join(sorted(kinds))[:60]}, expected {' or '.join(BENCHMARKS)}; {FIX}")
        task, _, n_total = BENCHMARKS[kinds.pop()]
        values = {name: [float(row.metrics[name]) for row in rows if name in row.metrics] for name in map(_metric, SETS)}  # type: ignore[arg-type]
        given = {_metric(name): ((raw.get("pass_at_k") or {}).get(name) or {}).get("pass@1") for name in SETS}
        metrics = {}
        for name, scores in values.items():
            if scores and len(scores) != len(rows):
                raise EvalkitError(f"{file}: {len(rows) - len(scores)} of {len(rows)} problems have no {name}; {FIX}")
            if not scores and given[name] is not None:
                raise EvalkitError(f"{file}: {name} is stated as {given[name]!r:.40}, and no problem has its outcomes; {FIX}")
            if scores:
                figure = given[name] if given[name] is not None else sum(scores) / len(scores)
                metrics[name] = stated(figure, scores, where=f"{file}: {name}")
        if not metrics:
            raise EvalkitError(f"{file} holds no outcomes; {FIX}")
        entry = foreign_entry(
            "evalplus",
            ["evalplus", raw["hash"]],
            metrics,
            len(rows),
            DataInfo(source="evalplus", sha256=str(raw["hash"])),
            max(n_total, len(rows)),  # of MBPP, EvalPlus has had 399 too
        )
        model = file.name.removesuffix("eval_results.json").strip("_.-") or file.resolve().parent.name
        run = foreign_run(file.stem, model, "evalplus", str(raw.get("date") or ""), {task: entry})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise EvalkitError(f"{file} is not EvalPlus's results ({error!r:.100}); {FIX}") from None
    return merged(place, "evalplus", [(task, run, rows)])


def _metric(name: str) -> str:
    return "pass@1" if name == "base" else "plus_pass@1"


def _row(file: Path, doc_id: str, samples: Sequence[Mapping[str, Any]]) -> SampleRow:
    """Raises EvalkitError for an outcome that is none of EvalPlus's, and for a problem that the benchmark has not."""
    kind, _, number = doc_id.partition("/")
    if kind in BENCHMARKS and not (re.fullmatch("0|[1-9][0-9]{0,3}", number) and int(number) in BENCHMARKS[kind][1]):
        numbers = BENCHMARKS[kind][1]
        raise EvalkitError(f"{file}: there is no problem {doc_id!r:.40}; {kind}'s are numbered {numbers[0]} to {numbers[-1]}; {FIX}")
    if other := [its for sample in samples if kind in BENCHMARKS and (its := sample.get("task_id", doc_id)) != doc_id]:
        raise EvalkitError(f"{file}: {doc_id} has a program for task_id {other[0]!r:.40}; {FIX}")
    if not samples:
        raise EvalkitError(f"{file}: {doc_id} has no programs; {FIX}")
    metrics: dict[str, float] = {}
    outcomes: list[str] = []
    for name in SETS:
        statuses: list[Any] = [sample.get(f"{name}_status") for sample in samples]
        if all(status is None for status in statuses):
            continue
        if odd := [status for status in statuses if status not in OUTCOMES]:
            raise EvalkitError(f"{file}: {doc_id}: {name}_status is {odd[0]!r:.40}, expected {', '.join(OUTCOMES)}; {FIX}")
        if name == "plus":  # EvalPlus counts a program that passes both
            statuses = [
                status if sample.get("base_status") in ("pass", None) else "fail" for status, sample in zip(statuses, samples, strict=True)
            ]
        metrics[_metric(name)] = sum(OUTCOMES[status] for status in statuses) / len(statuses)
        outcomes.append(f"{name}: {', '.join(statuses)}")
    programs = [str(sample["solution"]) for sample in samples]
    return foreign_row(doc_id, {"task_id": doc_id}, "", "pass", metrics, programs, "; ".join(outcomes), str(file))
