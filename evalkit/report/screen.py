"""What `evalkit run` and `evalkit score` print at their end: figures, verdicts, remarks, files written, and what to do next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from evalkit.config import DEMO_MODEL
from evalkit.record.schema import Run, TaskEntry, task_of
from evalkit.report.matches import Match, column_for, in_tables, published_for
from evalkit.report.other_mean import other_mean
from evalkit.report.published import Column
from evalkit.report.sections import multilingual
from evalkit.report.verdict import (
    WORDS,
    Measured,
    Verdict,
    measured_figure,
    scale_of,
    scaled,
    verdict_on,
    why_no_figure,
    why_not_comparable,
)
from evalkit.table import Table
from evalkit.tasks.lm_eval.options import PREFIX
from evalkit.tasks.registry import remark

HEAD = ("task", "protocol", "published", "measured", "95% interval", "n", "data", "verdict")
MOST_NAMED = 5  # document ids on the screen; run.json has all
FILES = ("run.json", "samples", "lm_eval", "completions")  # named first, in this order
SCAFFOLDING = (".lock", ".partial", "-wal", "-shm")


@dataclass(frozen=True, slots=True)
class _Shown:
    """A task's entry of run.json under its `key`, with its published figures and how they are printed."""

    key: str
    task: str
    entry: TaskEntry
    matches: Sequence[Match]
    column: Column | None

    @property
    def figure(self) -> Measured | None:
        return measured_figure(self.entry, self.column)


def _shown(run: Run, published: str | None) -> Iterator[_Shown]:
    for key, entry in run.tasks.items():
        task = task_of(key)
        matches = published_for(run.model.spec, task, entry.protocol, published)
        yield _Shown(key, task, entry, matches, column_for(task, matches))


def show(run: Run, folder: Path, console: Console, published: str | None = None) -> None:
    """Print one run's table and remarks: its figures beside those of all published tables, or of the one that is named."""
    rows = []
    shown = list(_shown(run, published))
    verdicts: dict[str, Verdict] = {}
    for each in shown:
        found, figure = verdict_on(each.matches, each.task, each.entry, run.model), each.figure
        own = each.entry.in_own_unit(each.entry.headline)
        verdicts[each.key] = found
        rows.append(
            (
                each.task,
                each.entry.protocol,
                " / ".join(dict.fromkeys(match.printed for match in each.matches)) or "-",
                decimal(figure.value, each.column, own) if figure else "-",
                interval(figure, each.column, own),
                each.entry.size,
                str(each.entry.data),
                found.word,
            )
        )
    left = ("protocol", "95% interval", "data", "verdict")
    Table(f"{run.model.spec}: published and measured", HEAD, rows, left).show(console)
    told = ("not comparable", "not measured")  # by the remarks
    reasons = [f"{key}: {found}" for key, found in verdicts.items() if found.reason and found.word not in told]
    meanings = [f"{word}: {WORDS[word]}" for word in dict.fromkeys(found.word for found in verdicts.values()) if word not in told]
    for line in [*_by_protocol(shown), *_remarks(shown), *reasons, *meanings]:
        _say(console, line)
    _say(console, f"model {run.model.fingerprint[:19]}, {run.model.how}")
    if run.model.layout_invariant is False:
        _say(console, f"no layout invariance ({run.model.computed_by}): an answer's last bits may depend on what else was in its batch")
    _say(console, f"written to {folder}: {', '.join(written(folder))}")
    _say(console, f"next: {next_step(run, folder, published)}")


def show_shard(run: Run, folder: Path, console: Console) -> None:
    """Print what a shard has answered: it has no figures."""
    shard = run.shard
    assert shard is not None
    done = ", ".join(f"{entry.n:,} documents of {key}" for key, entry in run.tasks.items())
    _say(console, f"shard {shard}: {done} answered; its figures are made by evalkit merge")
    _say(console, f"model {run.model.fingerprint[:19]}, {run.model.how}")
    _say(console, f"written to {folder}: {', '.join(written(folder))}")
    _say(console, f"next: evalkit merge {folder} and the other {shard.of - 1} of {shard.of} shards")


def decimal(value: float, column: Column | None, in_own_unit: bool) -> str:
    """A figure with its column's decimals, or one; of a perplexity and the like, four digits."""
    return f"{value:.4g}" if in_own_unit and not column else f"{value:.{column.decimals if column else 1}f}"


def interval(figure: Measured | None, column: Column | None, in_own_unit: bool) -> str:
    """ "61.7 to 63.3"; "-" for no figure."""
    return f"{decimal(figure.low, column, in_own_unit)} to {decimal(figure.high, column, in_own_unit)}" if figure else "-"


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True)


def _remarks(shown: Sequence[_Shown]) -> Iterator[str]:
    for each in shown:
        key, task, entry, column = each.key, each.task, each.entry, each.column
        if each.matches:
            yield f"{key}: {in_tables(each.matches)}"
        if said := remark(task, entry.protocol):
            yield f"{key}: {said}"
        if each.figure is None:
            yield f"{key}: no figure yet: {why_no_figure(entry)}"
        elif reason := why_not_comparable(task, entry):
            yield f"{key}: not the benchmark's figure: {reason}"
        for line in multilingual.remarks(entry):
            yield f"{key}: {line}"
        if task.startswith(PREFIX):  # its protocol does not say
            yield f"{key}: measured is {entry.headline}{' (lower is better)' if entry.headline in entry.lower_is_better else ''}"
        for name, reason in entry.without.items():
            yield f"{key}: no figure for {name}: {reason}"
        for line in entry.counts.remarks(entry.n):
            yield f"{key}: {line}"
        if entry.in_shots:
            yield f"{key}: {_given_away(entry)}"
        if parts := list(_parts(entry, column)):
            yield f"{key}: {', '.join(parts)}"
        if line := _other_mean(entry, column):
            yield f"{key}: {line}"
        tokens = entry.tokens
        if tokens.computed:
            total = tokens.computed + tokens.shared
            shared = f"{tokens.shared / total:.0%} shared"
            yield f"{key}: {entry.seconds:.0f} s, {tokens.computed:,} tokens computed of {total:,} ({shared})"


def _by_protocol(shown: Sequence[_Shown]) -> Iterator[str]:
    """A task's figures beside each other, where it was run on the same rows under several protocols."""
    found: dict[tuple[str, str, int], list[str]] = {}
    for each in shown:
        if figure := each.figure:
            rows, own = (each.task, str(each.entry.data), each.entry.n), each.entry.in_own_unit(each.entry.headline)
            found.setdefault(rows, []).append(f"{decimal(figure.value, each.column, own)} under {each.entry.protocol}")
    for (task, _, n), figures in found.items():
        if len(figures) > 1:
            yield f"{task}: on the same {n:,} documents the same weights score {' and '.join(figures)}"


def _given_away(entry: TaskEntry) -> str:
    """How many documents stand among their own worked examples, and which."""
    named = ", ".join(entry.in_shots[:MOST_NAMED]) + (", .." if len(entry.in_shots) > MOST_NAMED else "")
    return f"{len(entry.in_shots):,} of {entry.n:,} documents also stand among the worked examples of their own prompt: {named}"


def _parts(entry: TaskEntry, column: Column | None) -> Iterator[str]:
    """The other metrics, then the headline by category."""
    for name, figure in entry.metrics.items():
        if name != entry.headline:
            yield f"{name} {decimal(scale_of(entry, column, name) * figure.value, column, entry.in_own_unit(name))}"
    scale = scale_of(entry, column, entry.headline)
    for name, metrics in entry.groups.items():
        if entry.headline in metrics:
            yield f"{name} {decimal(scale * metrics[entry.headline].value, column, entry.in_own_unit(entry.headline))}"


def _other_mean(entry: TaskEntry, column: Column | None) -> str:
    other = other_mean(entry)
    if other is None:
        return ""
    figure = scaled(other.figure, scale_of(entry, column, entry.headline))
    value, low, high = (decimal(each, column, entry.in_own_unit(entry.headline)) for each in (figure.value, figure.low, figure.high))
    return f"{entry.headline} as {other}, over {other.over}: {value} ({low} to {high})"


def written(folder: Path) -> list[str]:
    """Names of the files in the run's folder, without locks and half-written ones."""
    found = {path.name: path for path in folder.iterdir() if not path.name.endswith(SCAFFOLDING)} if folder.is_dir() else {}
    ordered = [name for name in FILES if name in found] + sorted(found.keys() - set(FILES))
    return [f"{name}/" if found[name].is_dir() else name for name in ordered]


def next_step(run: Run, folder: Path, published: str | None = None) -> str:
    """What to do next, most often a command. `published`: the table that was named."""
    entries = run.tasks.values()
    if not run.is_complete:
        return "run the same command again to resume"
    if any(not entry.metrics and entry.counts.unscored for entry in entries):
        return f"evalkit judge {folder} --judge-model NAME"
    if any(entry.data.source == "sample" for entry in entries):
        if run.model.engine == "file":  # answers that were scored: no model can be run on other data
            return f"evalkit view {folder}"
        if run.model.spec != DEMO_MODEL:
            return "the same command on the benchmark's own data: --data hub, or --data and a folder that has it (evalkit data status)"
        return "your model on real data, for example evalkit run --tasks mmlu,gsm8k --model Qwen/Qwen1.5-MoE-A2.7B --data hub"
    named = f" --published {published}" if published else ""
    return f"evalkit report {folder}{named} --out report"
