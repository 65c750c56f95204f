"""The gate as a comment on a pull request, in markdown: what a reviewer reads in ten seconds, the rest folded away.

The first line is always MARKER, by which a bot finds the comment that it wrote before, to update it.
"""

import shlex
from collections.abc import Sequence

from evalkit.comparison.compare import HEAD as COMPARE_HEAD
from evalkit.comparison.compare import figures, one_line, scale
from evalkit.comparison.gate_config import GateConfig
from evalkit.comparison.gate_outcome import Check, Gate, GateOutcome
from evalkit.comparison.gate_output import summary, text
from evalkit.record.read import is_ours, read_run
from evalkit.record.write import command_line
from evalkit.report.render.markdown import markdown_table, md

MARKER = "<!-- evalkit gate -->"
HEAD = ("task", "tier", "base", "candidate", "difference", "95% interval", "margin", "outcome")
LARGEST = 60_000  # characters: GitHub takes 65,536, GitLab a million
MEANS = {
    "pass": "No task loses its margin.",
    "fail": "A real drop, or a limit that is not kept.",
    "inconclusive": "Neither a drop nor its absence is shown.",
    "cannot detect": "These documents are too few for what is asked.",
}


def comment(config: GateConfig, gate: Gate) -> str:
    """The comment. Where all tasks would be too many for one, those that pass are left out first, and a line says how many."""
    found = _comment(config, gate, gate.all)
    worst_first = sorted(gate.all, key=lambda each: each.word == "pass")
    for most in (200, 100, 50, 20, 5):
        if len(found) > LARGEST:
            found = _comment(config, gate, worst_first[:most])
    return found


def refused_comment(word: str, problem: str) -> str:
    """Of a gate that could not be decided."""
    return f"{MARKER}\n## evalkit gate: {word}\n\n{md(one_line(problem, 1_000))}\n"


def _comment(config: GateConfig, gate: Gate, shown: Sequence[GateOutcome | Check]) -> str:
    tasks = [each for each in shown if isinstance(each, GateOutcome)]
    broken = [each for each in shown if isinstance(each, Check) and each.word != "pass"]
    kept = [each for each in shown if isinstance(each, Check) and each.word == "pass"]
    parts = [
        f"{MARKER}\n## evalkit gate: {summary(gate)}\n",
        f"{MEANS[gate.word]} {md(one_line(gate.base, 300))} → {md(one_line(gate.cand, 300))}\n",
    ]
    if tasks:
        parts.append(markdown_table(HEAD, [_row(each) for each in tasks], "llrrrrrl"))
    parts += [f"- **{each.word}** ({each.tier}) {md(one_line(f'{each.name}: {each.reason}', 500))}" for each in broken]
    if left_out := len(gate.all) - len(shown):
        parts.append(f"- {left_out:,} more are in the job's files")
    if flips := [line for each in tasks for line in _flips(each)]:
        parts.append("\n".join(["\nAnswers that flipped:\n", *flips]))
    told: list[GateOutcome | Check] = [*tasks, *kept]
    reasons = [f"- {md(one_line(f'{each.name}: {text(each)}', 1_000))}" for each in told]
    notes = [f"- {md(one_line(note, 1_000))}" for note in gate.notes[:50]]
    parts.append(
        _folded(
            "Why, task by task",
            "\n".join([*reasons, *notes, f"- {md(one_line(gate.asked))}; differences are candidate - base, shares in percent"]),
        )
    )
    parts.append(_folded("How to reproduce", "\n".join(["```sh", *_commands(config), "```"])))
    return "\n".join(parts)


def _row(outcome: GateOutcome) -> list[str]:
    d = outcome.difference
    by, _ = scale(d)
    cells = dict(zip(COMPARE_HEAD, figures(outcome.task, d, None), strict=True))
    cells |= {"tier": outcome.tier, "candidate": cells["cand"], "margin": f"{by * outcome.margin:.4g}"}
    return [*(md(one_line(cells[name])) for name in HEAD[:-1]), _strong(outcome.word)]


def _strong(word: str) -> str:
    return word if word == "pass" else f"**{word}**"


def _flips(outcome: GateOutcome) -> list[str]:
    d = outcome.difference
    if not d.gained and not d.lost:
        return []
    return [f"- {md(one_line(outcome.task))}: {d.lost:,} right to wrong, {d.gained:,} wrong to right, of {d.n:,}"]


def _folded(title: str, body: str) -> str:
    return f"\n<details><summary>{title}</summary>\n\n{body}\n\n</details>\n"


def _commands(config: GateConfig) -> list[str]:
    """What made both runs, this gate, and what shows which answers flipped; on one line each, and unable to close their block of code."""
    made = [read_run(run).command for run in config.runs if is_ours(run)]
    flipped = [f"evalkit compare {shlex.join(config.runs)} --out report"] if len(config.runs) == 2 else []
    return [one_line(command, 1_000).replace("`", "'") for command in (*made, command_line(), *flipped)]
