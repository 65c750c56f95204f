"""`evalkit compare BASE CAND`: what changed between two runs, task by task, with its uncertainty, and which documents flipped."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evalkit.comparison.answers import read_answers
from evalkit.errors import EvalkitError
from evalkit.files import require_folder, write_output
from evalkit.progress import console as standard_output
from evalkit.record.pairs import Pairs, RunAnswers, align
from evalkit.report.render.markdown import markdown_table, md
from evalkit.stats.paired import ALPHA, Difference, bootstrap, holm, mean_of, paired
from evalkit.table import Present, Table, on_screen

SCHEMA = 1
EXAMPLES = 5  # flipped documents shown per task
SUBJECTS = 12  # subjects with flips printed per task; compare.json has them all
ALIKE = "all documents changed alike: the interval is for the others that as many documents can miss"
HEAD = ("task", "n", "base", "cand", "difference", "SE", "95% interval", "McNemar p", "Holm p", "test", "detectable")
LEFT = ("tier", "test", "outcome")  # columns of words, also of a gate


@dataclass(frozen=True, slots=True)
class Flips:
    """How many documents of a subject changed to right (gained) and to wrong (lost)."""

    gained: int
    lost: int


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """One task of two runs. `examples`: indices into the pairs, the worst losses first. `holm_p`: over the tasks compared."""

    pairs: Pairs
    difference: Difference
    holm_p: float
    flips: dict[str, Flips]
    examples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs; `overall` is the mean of the tasks' differences, None for a single task, or if lower is better in any."""

    base: RunAnswers
    cand: RunAnswers
    tasks: tuple[TaskComparison, ...]
    overall: Difference | None

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of both runs, each once."""
        return tuple(dict.fromkeys([*self.base.notes, *self.cand.notes]))


def compare_runs(
    base: str,
    cand: str,
    out: str | None = None,
    tasks: Sequence[str] = (),
    metric: str | None = None,
    cluster: str | None = None,
    present: Present = on_screen,
) -> int:
    """Present the comparison; write compare.md and compare.json into `out`. Returns 0; raises EvalkitError if they are not comparable."""
    if out is not None:
        require_folder(Path(out))
    found = compare(base, cand, tasks, metric, cluster)
    present(lambda: as_json(found), lambda: show(found))
    if out is not None:
        write_output(Path(out) / "compare.md", to_markdown(found))
        write_output(Path(out) / "compare.json", json.dumps(as_json(found), indent=2) + "\n")
        print(f"wrote {Path(out) / 'compare.md'} and compare.json")
    return 0


def compare(base: str, cand: str, tasks: Sequence[str] = (), metric: str | None = None, cluster: str | None = None) -> Comparison:
    """Read, pair and test two runs. Raises EvalkitError if they cannot be read or compared."""
    first, second = (read_answers(path, tasks, metric, cluster) for path in (base, cand))
    pairs = align(first, second)
    differences = [difference(each) for each in pairs]
    adjusted = holm([d.p for d in differences])
    compared = tuple(TaskComparison(p, d, h, _flips(p), _worst(p)) for p, d, h in zip(pairs, differences, adjusted, strict=True))
    one_direction = len(differences) > 1 and not any(d.lower_is_better for d in differences)
    return Comparison(first, second, compared, mean_of(differences) if one_direction else None)


def difference(pairs: Pairs, alpha: float = ALPHA) -> Difference:
    """The task's difference as its protocol averages it; a corpus metric is resampled."""
    clusters = [a.cluster or doc for a, doc in zip(pairs.base, pairs.ids, strict=True)] if any(a.cluster for a in pairs.base) else []
    scores = [[a.score for a in answers] for answers in (pairs.base, pairs.cand)]
    numbers = [[s for s in run if isinstance(s, float)] for run in scores]
    if all(len(some) == len(pairs.ids) for some in numbers):
        groups = [a.group for a in pairs.base] if pairs.averaging == "macro" else []
        if pairs.lower_is_better:
            return paired([-s for s in numbers[0]], [-s for s in numbers[1]], clusters, groups, alpha).negated()
        return paired(numbers[0], numbers[1], clusters, groups, alpha)
    from evalkit.stats.bleu import grouped_counts, mean_bleu

    texts = [[s for s in run if isinstance(s, tuple)] for run in scores]
    if not all(len(some) == len(pairs.ids) for some in texts):
        raise EvalkitError(f"not comparable: {pairs.task}: {pairs.metric} is a number for some documents and texts for others")
    corpora = [answer.group if pairs.tokenize else "" for answer in pairs.base]
    before, after = (grouped_counts(some, corpora, pairs.tokenize) for some in texts)
    return bootstrap(before, after, mean_bleu, clusters, alpha=alpha)


def _change(pairs: Pairs, i: int) -> float:
    """How much better the candidate's answer is."""
    before, after = pairs.base[i].score, pairs.cand[i].score
    gain = after - before if isinstance(before, float) and isinstance(after, float) else 0.0
    return -gain if pairs.lower_is_better else gain


def _flips(pairs: Pairs) -> dict[str, Flips]:
    """Subjects with flips, the most lost first; only for scores of right or wrong."""
    if not all(answer.score in (0.0, 1.0) for answer in (*pairs.base, *pairs.cand)):
        return {}
    changes = [_change(pairs, i) for i in range(len(pairs.ids))]
    gained = Counter(a.group for a, change in zip(pairs.base, changes, strict=True) if change > 0)
    lost = Counter(a.group for a, change in zip(pairs.base, changes, strict=True) if change < 0)
    subjects = sorted(gained.keys() | lost.keys(), key=lambda s: (gained[s] - lost[s], s))
    return {subject: Flips(gained[subject], lost[subject]) for subject in subjects}


def _worst(pairs: Pairs) -> tuple[int, ...]:
    """The documents that lost most; ties are in the run's order."""
    losers = sorted((i for i in range(len(pairs.ids)) if _change(pairs, i) < 0), key=lambda i: _change(pairs, i))
    return tuple(losers[:EXAMPLES])


# --- figures and texts -----------------------------------------------------------------------------------------------


def scale(d: Difference) -> tuple[int, int]:
    """(factor, decimals) for printing: shares of 1 as percent and points, other scales unchanged."""
    return (100, 2) if max(abs(d.base), abs(d.cand)) <= 1 else (1, 4)


def figures(name: str, d: Difference, holm_p: float | None) -> tuple[str, ...]:
    """One row under HEAD."""
    by, digits = scale(d)
    low, high = (f"{by * x:+.{digits}f}" for x in d.ci95)
    return (
        f"{name} (lower is better)" if d.lower_is_better else name,
        f"{d.n:,}",
        f"{by * d.base:.{digits}f}",
        f"{by * d.cand:.{digits}f}",
        f"{by * d.value:+.{digits}f}",
        f"{by * d.stderr:.{digits}f}",
        f"{low} to {high}",
        "-" if d.mcnemar is None else p_text(d.mcnemar),
        "-" if holm_p is None else p_text(holm_p),
        d.method,
        f"{by * d.mde:.{digits}f}",
    )


def p_text(p: float) -> str:
    """0.0123, or <0.0001."""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def one_line(text: str, width: int = 100) -> str:
    """The end of a text on one line, safe for terminals and logs: no control or bidi characters, and no CI command (`##[`)."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text[-20 * width :]).split()).replace("##[", "## [")
    return flat if len(flat) <= width else ".." + flat[2 - width :]


def _rows(found: Comparison) -> list[tuple[str, ...]]:
    rows = [figures(one_line(t.pairs.protocol), t.difference, t.holm_p) for t in found.tasks]
    return [*rows, figures("overall (mean of tasks)", found.overall, None)] if found.overall else rows


def _notes(found: Comparison) -> list[str]:
    return [one_line(note, 300) for note in found.notes]


def _flip_lines(task: TaskComparison) -> list[str]:
    lines = ["every answer is the same"] if task.pairs.identical else [ALIKE] if task.difference.changed_alike else []
    d = task.difference
    if d.gained is None or d.lost is None:
        return lines
    shown = [f"{one_line(s)} -{f.lost} +{f.gained}" for s, f in task.flips.items()][:SUBJECTS]
    more = f", and {len(task.flips) - SUBJECTS} more" if len(task.flips) > SUBJECTS else ""
    return [*lines, f"{d.lost:,} right to wrong, {d.gained:,} wrong to right" + (": " if shown else "") + ", ".join(shown) + more]


def show(found: Comparison) -> None:
    """Print the comparison; in pipes it is wide, so that no figure is cut."""
    console = standard_output()
    table(f"base: {one_line(found.base.model)}, candidate: {one_line(found.cand.model)}", HEAD, _rows(found)).show(console)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    say("differences are candidate - base; detectable: the smallest drop found with 80% power, one-sided at 5% (docs/statistics.md)")
    for line in _notes(found):
        say(f"- {line}")
    for task in found.tasks:
        name = one_line(task.pairs.protocol)
        for line in _flip_lines(task):
            say(f"- {name}: {line}")
        for i in task.examples:
            before, after = task.pairs.base[i], task.pairs.cand[i]
            say(f"  document {one_line(task.pairs.ids[i])} (right: {one_line(before.target, 40)})")
            say(f"    prompt: {one_line(before.prompt)}")
            say(f"    base:   {one_line(before.shown)}")
            say(f"    cand:   {one_line(after.shown)}")


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of one-line texts. No line begins with a foreign text, where CI would read `::` as a command."""
    return Table(title, head, [[one_line(cell) for cell in row] for row in rows], LEFT)


def to_markdown(found: Comparison) -> str:
    """compare.md, with the same content as the screen."""
    parts = [f"# {md(one_line(found.base.model))} -> {md(one_line(found.cand.model))}\n"]
    parts.append(f"base: {md(found.base.path)}, candidate: {md(found.cand.path)}. Differences are candidate - base, in points.\n")
    parts.append(markdown_table(HEAD, [[md(cell) for cell in row] for row in _rows(found)]))
    parts += [f"- {md(note)}" for note in _notes(found)]
    for task in found.tasks:
        parts.append(f"## {md(one_line(task.pairs.protocol))}\n")
        parts += [f"{md(line)}\n" for line in _flip_lines(task)]
        if task.examples:
            rows = [(i, task.pairs.base[i], task.pairs.cand[i]) for i in task.examples]
            cells = [[task.pairs.ids[i], a.prompt, a.target, a.shown, b.shown] for i, a, b in rows]
            head = ("document", "prompt ends", "right", "base", "candidate")
            parts.append(markdown_table(head, [[md(one_line(cell)) for cell in row] for row in cells]))
    return "\n".join(parts)


def as_json(found: Comparison) -> dict[str, Any]:
    """compare.json; documented in results/README.md."""
    tasks = {}
    for task in found.tasks:
        pairs = task.pairs
        examples = [
            {
                "doc_id": pairs.ids[i],
                "prompt_end": pairs.base[i].prompt,
                "target": pairs.base[i].target,
                "base": one_line(pairs.base[i].shown, 1_000),
                "cand": one_line(pairs.cand[i].shown, 1_000),
            }
            for i in task.examples
        ]
        tasks[pairs.task] = {
            "protocol": pairs.protocol,
            "metric": pairs.metric,
            **difference_json(task.difference),
            "holm_p": task.holm_p,
            "identical": pairs.identical,
            "flips": {subject: asdict(flips) for subject, flips in task.flips.items()},
            "examples": examples,
        }
    return {
        "schema": SCHEMA,
        "kind": "compare",
        "base": {"path": found.base.path, "model": found.base.model},
        "cand": {"path": found.cand.path, "model": found.cand.model},
        "tasks": tasks,
        "notes": _notes(found),
        "overall": difference_json(found.overall) if found.overall else None,
    }


def difference_json(d: Difference) -> dict[str, Any]:
    """Every field of a Difference, and McNemar's p."""
    return asdict(d) | {"mcnemar_p": d.mcnemar}
