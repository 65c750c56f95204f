"""`evalkit gate BASE CAND`: may the candidate replace the base? A non-inferiority test with a margin, and an exit code for each outcome.

FAIL 1: the drop is at least the margin and real (one-sided p below 5%, Holm-adjusted over the tasks: no more than 5% of gates fail by
chance, for any number of tasks). PASS 0: every task's one-sided 95% lower bound is above -margin (all must be, so none is adjusted), or all
answers are the same. INCONCLUSIVE 3: neither. Not comparable, or a margin that these documents cannot detect: EvalkitError, 2.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from evalkit.comparison.ci import CI, annotate, junit, problem_junit
from evalkit.comparison.compare import HEAD as COMPARE_HEAD
from evalkit.comparison.compare import compare, difference_json, figures, one_line, p_text, print_table, scale
from evalkit.errors import EvalkitError, unknown
from evalkit.files import write_output
from evalkit.progress import console as standard_output
from evalkit.record.read import read_run
from evalkit.record.schema import task_of
from evalkit.report.published import agreed, in_tables, published_for
from evalkit.report.render.markdown import markdown_table, md
from evalkit.report.verdict import verdict_on
from evalkit.stats.paired import ALPHA, POWER, Difference, holm, unpaired

SCHEMA = 1
EXIT = {"pass": 0, "fail": 1, "inconclusive": 3}
HEAD = ("task", "outcome", "n", "base", "cand", "difference", "95% interval", "p of a drop", "detectable", "test")


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """One task's outcome. `p_drop` is Holm-adjusted; `needed`: how many documents would decide, or None if the outcome is decided."""

    task: str
    word: str
    reason: str
    difference: Difference
    p_drop: float
    needed: int | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """The whole gate. `notes`: tasks that could not be gated, and why."""

    base: str
    cand: str
    margin: float
    outcomes: tuple[GateOutcome, ...]
    notes: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The worst outcome: fail, then inconclusive, then pass."""
        words = {outcome.word for outcome in self.outcomes}
        return next(word for word in ("fail", "inconclusive", "pass") if word in words)


@dataclass(frozen=True, slots=True)
class Case:
    """One task to decide on; `identical`: all answers are the same."""

    task: str
    difference: Difference
    identical: bool = False


def gate_runs(
    runs: Sequence[str],
    margin: float = 0.01,
    *,
    against: str | None = None,
    published: str | None = None,
    tasks: Sequence[str] = (),
    metric: str | None = None,
    cluster: str | None = None,
    allow_small_margin: bool = False,
    junit_file: str | None = None,
    summary_file: str | None = None,
    json_file: str | None = None,
) -> int:
    """Gate BASE and CAND, or with against="published" one RUN on published figures. Returns 0, 1 or 3; raises EvalkitError (2).

    `published` names a table, or a .toml file with one, if several match.

    `margin` is in the metric's unit (0.01: one point of accuracy or BLEU). Files are written for every outcome. `summary_file`
    is appended to, and defaults to the file that GitHub names.
    """
    ci = CI.from_environment(summary_file)
    try:
        gate = decide(runs, margin, against, published, tasks, metric, cluster, allow_small_margin)
    except EvalkitError as error:
        problem = " ".join(str(error).split())
        if junit_file:
            write_output(Path(junit_file), problem_junit(problem))
        if json_file:
            refused = {"schema": SCHEMA, "kind": "gate", "outcome": "not comparable", "exit_code": error.exit_code, "reason": problem}
            write_output(Path(json_file), json.dumps(refused, indent=2) + "\n")
        if ci.summary:
            write_output(Path(ci.summary), f"## evalkit gate: not comparable\n\n{md(one_line(problem, 1_000))}\n", append=True)
        annotate(ci, "error", "evalkit gate: not comparable", problem)
        raise
    show(gate)
    if junit_file:
        write_output(Path(junit_file), junit([(o.task, o.word, text(o, margin)) for o in gate.outcomes]))
    if json_file:
        write_output(Path(json_file), json.dumps(as_json(gate), indent=2) + "\n")
    if ci.summary:
        write_output(Path(ci.summary), to_markdown(gate), append=True)
    for outcome in gate.outcomes:
        if outcome.word != "pass":
            level = "error" if outcome.word == "fail" else "warning"
            annotate(ci, level, f"evalkit gate: {outcome.task}: {outcome.word}", text(outcome, margin))
    return EXIT[gate.word]


def decide(
    runs: Sequence[str],
    margin: float,
    against: str | None = None,
    published: str | None = None,
    tasks: Sequence[str] = (),
    metric: str | None = None,
    cluster: str | None = None,
    allow_small_margin: bool = False,
) -> Gate:
    """Read, pair, test and decide. Raises EvalkitError: not comparable, or a margin below what these documents can detect."""
    if not 0 < margin < 1:
        raise EvalkitError(f"margin is {margin:g}; give it in the metric's unit, between 0 and 1: 0.01 is one point of accuracy")
    notes: list[str] = []
    if published is not None and against is None:
        raise EvalkitError(f"--published {published} chooses a table for --against published; give both")
    if against is not None:
        base, cand, cases = _published(runs, against, published, tasks, metric, notes)
    else:
        if len(runs) != 2:
            raise EvalkitError(f"{len(runs)} runs given; evalkit gate takes BASE CAND, or --against published RUN")
        found = compare(runs[0], runs[1], tasks, metric, cluster)
        base, cand = (f"{run.model} ({run.path})" for run in (found.base, found.cand))
        cases = [Case(t.pairs.protocol, t.difference, t.pairs.identical) for t in found.tasks]
    small = [case for case in cases if margin < case.difference.mde and not case.identical]
    if small and not allow_small_margin:
        worst = max(small, key=lambda case: case.difference.mde)
        d = worst.difference
        enough = math.ceil(1000 * d.mde) / 1000
        raise EvalkitError(
            f"margin {margin:g} is below what {worst.task}'s {d.n:,} documents can detect, {d.mde:.4f}: "
            f"it takes about {documents_needed(d, margin):,} documents; run more, give --margin {enough:g}, or pass --allow-small-margin"
        )
    adjusted = holm([case.difference.p_drop for case in cases])
    return Gate(base, cand, margin, tuple(decide_case(case, p, margin) for case, p in zip(cases, adjusted, strict=True)), tuple(notes))


def decide_case(case: Case, p_drop: float, margin: float) -> GateOutcome:
    """One task's outcome; `p_drop` is already adjusted for the number of tasks."""
    d = case.difference
    if case.identical:
        return GateOutcome(case.task, "pass", f"all {d.n:,} answers are the same", d, p_drop)
    if p_drop < ALPHA and d.value <= -margin:
        return GateOutcome(case.task, "fail", "a real drop, at least the margin", d, p_drop)
    if d.lower > -margin:
        return GateOutcome(case.task, "pass", "a drop of the margin is excluded", d, p_drop)
    needed = documents_needed(d, margin)
    if p_drop < ALPHA:
        reason = "a real drop, which may be smaller or larger than the margin"
    else:
        reason = "neither a drop nor its absence is shown"
    return GateOutcome(case.task, "inconclusive", f"{reason}; about {needed:,} documents would decide", d, p_drop, needed)


def documents_needed(d: Difference, margin: float) -> int:
    """How many documents would detect the margin or, if these already do, distinguish this difference from the margin."""
    z, power = (float(stats.norm.ppf(q)) for q in (1 - ALPHA, POWER))
    unseen = math.ceil(z * z * (1 - margin) / margin)  # needed even without any flip
    if not d.stderr:
        return max(unseen, d.n + 1)
    distance = margin
    if d.mde <= margin:
        distance = max(d.value + margin if d.value > -margin else -d.value, margin / 10)
    return max(math.ceil(d.n * ((z + power) * d.stderr / distance) ** 2), unseen, d.n + 1)


def _published(
    runs: Sequence[str], against: str, published: str | None, tasks: Sequence[str], metric: str | None, notes: list[str]
) -> tuple[str, str, list[Case]]:
    """A run's tasks against published figures: unpaired, as if the published figure came from as many other documents.

    Raises EvalkitError if several tables have different figures under the run's protocol and none was chosen.
    """
    if against != "published":
        raise unknown("value of --against", against, ["published"])
    if len(runs) != 1 or metric is not None:
        raise EvalkitError("--against published takes one RUN and its headline metrics, as in evalkit gate --against published RUN")
    record = read_run(runs[0])
    if lacking := [task for task in tasks if task not in record.tasks]:
        raise unknown(f"task in {runs[0]}:", lacking[0], record.tasks)
    cases = []
    for key, entry in record.tasks.items():
        name = task_of(key)
        if tasks and key not in tasks:
            continue
        matches = published_for(record.model.spec, name, entry.protocol, published)
        match = agreed(matches)
        if match is None and any(each.figure.protocol == entry.protocol for each in matches):
            raise EvalkitError(f"{record.model.spec}: {name}@{entry.protocol} is {in_tables(matches)}; choose one with --published NAME")
        found = verdict_on(matches, name, entry)
        figure = entry.figure
        if match is None or figure is None or not found.compares or not 0 <= match.share <= 1 or figure.value > 1:
            notes.append(f"{key}: not gated: {found}" + (f"; {in_tables(matches)}" if matches else ""))
            continue
        notes.append(f"{key}: {in_tables(matches)}")
        base, n = match.share, entry.n
        d = unpaired(base, math.sqrt(base * (1 - base) / n), figure.value, figure.stderr, n)
        cases.append(Case(f"{name}@{entry.protocol}", d))
    if not cases:
        raise EvalkitError(f"nothing in {runs[0]} can be gated on a published figure: {'; '.join(notes) or 'it has no task'}")
    return "published", f"{record.model.spec} ({runs[0]})", cases


def text(outcome: GateOutcome, margin: float) -> str:
    """One outcome in one line."""
    d = outcome.difference
    by, digits = scale(d)
    value, low, high = (f"{by * x:+.{digits}f}" for x in (d.value, *d.ci95))
    return (
        f"{outcome.word}: {outcome.reason}. Difference {value} (95% interval {low} to {high}, n {d.n:,}, {d.method}), "
        f"margin {by * margin:g}, detectable {by * d.mde:.{digits}f}"
    )


def _rows(gate: Gate) -> list[list[str]]:
    rows = []
    for outcome in gate.outcomes:
        cells = dict(zip(COMPARE_HEAD, figures(outcome.task, outcome.difference, None), strict=True))
        cells |= {"outcome": outcome.word.upper(), "p of a drop": p_text(outcome.p_drop)}
        rows.append([cells[name] for name in HEAD])
    return rows


def show(gate: Gate) -> None:
    """Print the gate: the table, one line per task, and the outcome last."""
    console = standard_output()
    title = f"base: {one_line(gate.base, 300)}, candidate: {one_line(gate.cand, 300)}, margin {gate.margin:g}"
    print_table(console, title, HEAD, _rows(gate))
    lines = (
        [f"- {o.task}: {text(o, gate.margin)}" for o in gate.outcomes]
        + [f"- {note}" for note in gate.notes]
        + [f"gate: {gate.word.upper()}"]
    )
    for line in lines:
        console.print(one_line(line, 1_000), highlight=False, markup=False, soft_wrap=True)


def to_markdown(gate: Gate) -> str:
    """The gate as a job summary."""
    parts = [
        f"## evalkit gate: {gate.word}\n",
        f"{md(one_line(gate.base, 300))} -> {md(one_line(gate.cand, 300))}, margin {gate.margin:g}\n",
    ]
    parts.append(markdown_table(HEAD, [[md(one_line(cell)) for cell in row] for row in _rows(gate)]))
    parts += [f"- {md(one_line(f'{o.task}: {text(o, gate.margin)}', 1_000))}" for o in gate.outcomes]
    parts += [f"- {md(one_line(note, 1_000))}" for note in gate.notes]
    return "\n".join(parts) + "\n\n"


def as_json(gate: Gate) -> Mapping[str, Any]:
    """The --json file; documented in results/README.md."""
    tasks = {}
    for o in gate.outcomes:
        answer = {key: value for key, value in asdict(o).items() if key not in ("task", "difference", "p_drop")}
        tasks[o.task] = {**answer, **difference_json(o.difference), "p_drop_holm": o.p_drop}
    head = {"schema": SCHEMA, "kind": "gate", "outcome": gate.word, "exit_code": EXIT[gate.word], "margin": gate.margin}
    return head | {"base": gate.base, "cand": gate.cand, "tasks": tasks, "notes": list(gate.notes)}
