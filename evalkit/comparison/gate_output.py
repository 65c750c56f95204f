"""The gate as text: on the screen, as a job summary in markdown, and as JSON (documented in results/README.md)."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.text import Text

from evalkit.comparison.compare import ALIKE, difference_json, figures, one_line, p_text, scale, table
from evalkit.comparison.compare import HEAD as COMPARE_HEAD
from evalkit.comparison.gate_outcome import EXIT, Check, Gate, GateOutcome
from evalkit.progress import console as standard_output
from evalkit.report.render.markdown import markdown_table, md

SCHEMA = 1
HEAD = ("task", "outcome", "n", "base", "cand", "difference", "95% interval", "p of a drop", "margin", "detectable", "test")
CHECKS = ("check", "outcome", "tier", "what was found")


def text(each: GateOutcome | Check) -> str:
    """One outcome in one line."""
    tier = ", a warning" if each.tier == "warning" and each.word != "pass" else ""
    if isinstance(each, Check):
        return f"{each.word}{tier}: {each.reason}"
    d = each.difference
    by, digits = scale(d)
    value, low, high = (f"{by * x:+.{digits}f}" for x in (d.value, *d.ci95))
    return (
        f"{each.word}{tier}: {each.reason}. Difference {value} (95% interval {low} to {high}, n {d.n:,}, {d.method}), "
        f"margin {by * each.margin:g}, detectable {by * d.mde:.{digits}f}{f'; {ALIKE}' if d.changed_alike else ''}"
    )


def test_case(each: GateOutcome | Check) -> tuple[str, str, str]:
    """(name, outcome, text) of a JUnit test case. What is only a warning is skipped there: viewers turn red for a failure."""
    word = "skipped" if each.tier == "warning" and each.word != "pass" else each.word
    return each.name, word, text(each)


def summary(gate: Gate) -> str:
    """ "fail", or "pass, with 2 warnings": the outcome in a few words."""
    count = len(gate.warnings)
    return gate.word + (f", with {count} warning{'s' if count > 1 else ''}" if count else "")


def _head(gate: Gate) -> tuple[str, ...]:
    """HEAD, with the tier of each task where there are tiers."""
    return (*HEAD[:1], "tier", *HEAD[1:]) if gate.policy else HEAD


def _rows(gate: Gate) -> list[list[str]]:
    rows = []
    for outcome in gate.outcomes:
        by, _ = scale(outcome.difference)
        cells = dict(zip(COMPARE_HEAD, figures(outcome.task, outcome.difference, None), strict=True))
        cells |= {"outcome": outcome.word.upper(), "p of a drop": p_text(outcome.p_drop), "margin": f"{by * outcome.margin:.4g}"}
        rows.append([{**cells, "tier": outcome.tier}[name] for name in _head(gate)])
    return rows


def _check_rows(gate: Gate) -> list[list[str]]:
    return [[check.name, check.word.upper(), check.tier, check.reason] for check in gate.checks]


def show(gate: Gate) -> None:
    """Print the gate: the table, one line per task, and the outcome last."""
    console = standard_output()
    title = f"base: {one_line(gate.base, 300)}, candidate: {one_line(gate.cand, 300)}, {gate.asked}"
    if gate.outcomes:
        table(title, _head(gate), _rows(gate)).show(console)
    else:  # it had failed before any task was looked at
        console.print(Text(title), soft_wrap=True)
    lines = [f"- {each.name}: {text(each)}" for each in gate.all] + [f"- {note}" for note in gate.notes]
    for line in [*lines, f"gate: {gate.word.upper()}{summary(gate).removeprefix(gate.word)}"]:
        console.print(one_line(line, 1_000), soft_wrap=True)


def to_markdown(gate: Gate) -> str:
    """The gate as a job summary."""
    parts = [
        f"## evalkit gate: {summary(gate)}\n",
        f"{md(one_line(gate.base, 300))} -> {md(one_line(gate.cand, 300))}, {md(gate.asked)}\n",
    ]
    if gate.outcomes:
        parts.append(markdown_table(_head(gate), [[md(one_line(cell)) for cell in row] for row in _rows(gate)]))
    if gate.checks:
        parts.append(markdown_table(CHECKS, [[md(one_line(cell, 300)) for cell in row] for row in _check_rows(gate)]))
    parts += [f"- {md(one_line(f'{o.task}: {text(o)}', 1_000))}" for o in gate.outcomes]
    parts += [f"- {md(one_line(note, 1_000))}" for note in gate.notes]
    return "\n".join(parts) + "\n\n"


def as_json(gate: Gate) -> Mapping[str, Any]:
    """The --json file."""
    tasks = {}
    for o in gate.outcomes:
        left_out = ("task", "difference", "p_drop") if o.looks else ("task", "difference", "p_drop", "looks", "of")
        answer = {key: value for key, value in asdict(o).items() if key not in left_out}
        tasks[o.task] = {**answer, **difference_json(o.difference), "p_drop_holm": o.p_drop}
        if o.of and o.difference.n < o.of:
            tasks[o.task]["mcnemar_p"] = None  # it holds for a number of documents that was fixed before
    head: dict[str, Any] = {"schema": SCHEMA, "kind": "gate", "outcome": gate.word, "exit_code": EXIT[gate.word]}
    head |= {"margin": None if gate.policy else gate.margins.default, "base": gate.base, "cand": gate.cand, "tasks": tasks}
    if gate.policy:
        head["policy"] = {"sha256": gate.policy.sha256, **gate.policy.values}
        head["checks"] = {check.name: {"word": check.word, "reason": check.reason, "tier": check.tier} for check in gate.checks}
        head["warnings"] = [each.name for each in gate.warnings]
    return head | {"notes": list(gate.notes)}


def refused_json(word: str, problem: str, exit_code: int) -> Mapping[str, Any]:
    """The --json file of runs that are not comparable, or of a gate that had to stop before its first look."""
    return {"schema": SCHEMA, "kind": "gate", "outcome": word, "exit_code": exit_code, "reason": problem}
