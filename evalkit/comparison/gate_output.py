"""The gate as text: on the screen, as a job summary in markdown, and as JSON (documented in results/README.md)."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evalkit.comparison.compare import ALIKE, difference_json, figures, one_line, p_text, print_table, scale
from evalkit.comparison.compare import HEAD as COMPARE_HEAD
from evalkit.comparison.gate_outcome import EXIT, Gate, GateOutcome
from evalkit.progress import console as standard_output
from evalkit.report.render.markdown import markdown_table, md

SCHEMA = 1
HEAD = ("task", "outcome", "n", "base", "cand", "difference", "95% interval", "p of a drop", "margin", "detectable", "test")


def text(outcome: GateOutcome) -> str:
    """One outcome in one line."""
    d = outcome.difference
    by, digits = scale(d)
    value, low, high = (f"{by * x:+.{digits}f}" for x in (d.value, *d.ci95))
    return (
        f"{outcome.word}: {outcome.reason}. Difference {value} (95% interval {low} to {high}, n {d.n:,}, {d.method}), "
        f"margin {by * outcome.margin:g}, detectable {by * d.mde:.{digits}f}{f'; {ALIKE}' if d.changed_alike else ''}"
    )


def _rows(gate: Gate) -> list[list[str]]:
    rows = []
    for outcome in gate.outcomes:
        by, _ = scale(outcome.difference)
        cells = dict(zip(COMPARE_HEAD, figures(outcome.task, outcome.difference, None), strict=True))
        cells |= {"outcome": outcome.word.upper(), "p of a drop": p_text(outcome.p_drop), "margin": f"{by * outcome.margin:g}"}
        rows.append([cells[name] for name in HEAD])
    return rows


def show(gate: Gate) -> None:
    """Print the gate: the table, one line per task, and the outcome last."""
    console = standard_output()
    title = f"base: {one_line(gate.base, 300)}, candidate: {one_line(gate.cand, 300)}, --margin {gate.margins}"
    print_table(console, title, HEAD, _rows(gate))
    lines = [f"- {o.task}: {text(o)}" for o in gate.outcomes] + [f"- {note}" for note in gate.notes] + [f"gate: {gate.word.upper()}"]
    for line in lines:
        console.print(one_line(line, 1_000), soft_wrap=True)


def to_markdown(gate: Gate) -> str:
    """The gate as a job summary."""
    parts = [
        f"## evalkit gate: {gate.word}\n",
        f"{md(one_line(gate.base, 300))} -> {md(one_line(gate.cand, 300))}, --margin {md(str(gate.margins))}\n",
    ]
    parts.append(markdown_table(HEAD, [[md(one_line(cell)) for cell in row] for row in _rows(gate)]))
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
    head = {"schema": SCHEMA, "kind": "gate", "outcome": gate.word, "exit_code": EXIT[gate.word], "margin": gate.margins.default}
    return head | {"base": gate.base, "cand": gate.cand, "tasks": tasks, "notes": list(gate.notes)}


def refused_json(word: str, problem: str, exit_code: int) -> Mapping[str, Any]:
    """The --json file of runs that are not comparable, or of a gate that had to stop before its first look."""
    return {"schema": SCHEMA, "kind": "gate", "outcome": word, "exit_code": exit_code, "reason": problem}
