"""Output of `evalkit judge`, and of `evalkit score` for judgments: tables on the screen, and plots."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from evalkit.files import write_output
from evalkit.record.schema import Pairwise, TaskEntry
from evalkit.report.sections.judged import expense, interval, judge_name, plots, remarks, turns
from evalkit.report.verdict import why_not_comparable
from evalkit.table import Table
from evalkit.tasks import JudgedTask

PAIRS = ("category", "win", "loss", "tie", "no verdict", "win rate, ties half", "95% interval")


def show(entry: TaskEntry, task: str, model: str, folder: Path, console: Console) -> None:
    """Print a judged run by category and turn, with the remarks that belong to its figure."""
    columns = turns([entry])
    columns["score"] = "both turns" if len(columns) == 2 else "all turns" if columns else "score"
    rows = []
    for category, metrics in {**entry.groups, "all": entry.metrics}.items():
        cells = [f"{metrics[metric].value:.4f}" if metric in metrics else "-" for metric in columns]
        rows.append((category, *cells, interval(metrics["score"]) if "score" in metrics else "-"))
    head = ("category", *columns.values(), "95% interval")
    Table(f"{model} judged by {judge_name(entry.judge)}", head, rows, left=head[-1:], rules=[len(rows) - 2]).show(console)
    for line in remarks(entry.judge):
        _say(console, line)
    if reason := why_not_comparable(task, entry):
        _say(console, f"not the benchmark's figure: {reason}")
    _say(console, f"written to {folder}")


def show_pairs(comparison: Pairwise, model: str, folder: Path, console: Console) -> None:
    """Print a pairwise comparison by category."""
    rows = []
    for category, outcome in {**comparison.groups, "all": comparison.overall}.items():
        rate = outcome.win_rate_adjusted
        numbers = [str(count) for count in (outcome.win, outcome.loss, outcome.tie, outcome.no_verdict)]
        shown = (f"{rate.value:.3f}", f"{rate.ci95[0]:.3f} to {rate.ci95[1]:.3f}") if rate else ("-", "-")
        rows.append((category, *numbers, *shown))
    title = f"{model} against {comparison.against.spec}, judged by {judge_name(comparison.judge)}"
    Table(title, PAIRS, rows, left=PAIRS[-1:], rules=[len(rows) - 2]).show(console)
    if comparison.overall.inconsistent is not None:
        _say(
            console, f"both orders were asked: {comparison.overall.inconsistent:.0%} of the games changed with the order and count as ties"
        )
    if comparison.judge.spent:
        _say(console, expense(comparison.judge.spent))
    _say(console, f"written to {folder}")


def write_plots(task: type[JudgedTask], judged: Mapping[str, TaskEntry], folder: Path) -> None:
    """Radar and bars as PNG and SVG."""
    for plot in plots(task, judged):
        write_output(folder / f"{plot.name}.png", plot.png)
        write_output(folder / f"{plot.name}.svg", plot.svg)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)
