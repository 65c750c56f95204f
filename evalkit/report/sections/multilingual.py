"""The multilingual suite's section: its categories beside the published ones, and all cells, a row per set and a column per language."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evalkit.record.schema import Run, TaskEntry, task_of
from evalkit.report.document import Block, Grid, Notes, Pair, Section
from evalkit.report.inputs import Inputs
from evalkit.report.plots.plot import BLUE, GREY, INK, PAPER, Plot, bare
from evalkit.report.published import read_table
from evalkit.report.verdict import why_not_comparable
from evalkit.tasks import SuiteCell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASK, PUBLISHED = "multilingual", "qwen1.5-multilingual"
CATEGORIES = ("exams", "understanding", "math", "translation")
TITLES = {
    **{"mmmlu": "MMLU-multi", "m3exam": "M3Exam", "belebele": "BELEBELE", "xwinograd": "XWinograd", "xcopa": "XCOPA"},
    **{"pawsx": "PAWS-X", "xstorycloze": "XStoryCloze", "mgsm": "MGSM", "flores": "FLORES"},
}
MOST_RUNS = 4
LIGHT = 0.5  # of the colour map: lighter cells have dark text
DARK_TEXT, LIGHT_TEXT = "#101010", "#ffffff"  # independent of the page's theme, as the cells are
Entries = Mapping[str, tuple[Run, TaskEntry]]  # a run's name -> the run, and its entry


def section(inputs: Inputs) -> Section | None:
    """Tables and plots of the runs with the suite; None if there is none."""
    entries: Entries = {
        run.name: (run, entry) for run in inputs.runs for key, entry in run.tasks.items() if task_of(key) == TASK and entry.cells
    }
    if not entries:
        return None
    rows = [_row(name, run, entry) for name, (run, entry) in entries.items()]
    head = ("Run", *(category.capitalize() for category in CATEGORIES), "Mean of four", "Over sets", "Pooled", "Cells")
    blocks: list[Block] = [
        "A category is the mean over its cells (a set in a language); the column is the mean of the four, BLEU on its scale of 0 to 100."
        " Published figures do not say whether cells, sets or documents were averaged: so the two other averages are shown too."
        " A cell reads published, or published → measured; a star says that not all of the suite was measured.",
        Grid("Categories", "lrrrrrrrr", head, rows),
        _bars(entries),
        *(_heat_map(name, entry) for name, (_, entry) in list(entries.items())[:MOST_RUNS]),
        Notes("Coverage and BLEU signatures", [f"{name}: {line}" for name, (_, entry) in entries.items() for line in remarks(entry)]),
    ]
    return Section("multilingual", "Multilingual", blocks, csv={"multilingual": _to_csv(entries)})


def remarks(entry: TaskEntry) -> Iterator[str]:
    """Remarks on a suite's figure: its coverage, and the signatures of BLEU and chrF."""
    coverage = entry.coverage
    if coverage and coverage.incomplete:
        none: dict[str, list[str]] = {}
        short = []
        for name, reason in coverage.incomplete.items():
            set_, _, language = name.partition(":")
            if reason.endswith("documents"):
                short.append(f"{name} {reason}")
            else:
                none.setdefault(set_, []).append(language)
        lines = [f"partial: {coverage.measured} of {coverage.cells} cells have data, {coverage.complete} all of theirs"]
        absent = "; ".join(f"{set_} {' '.join(languages)}" for set_, languages in none.items())
        lines += [f"no data: {absent}"] if absent else []
        lines += [f"in part: {', '.join(short)}"] if short else []
        yield "; ".join(lines)
    for tokenizer, signature in entry.signatures.items():
        yield f"{'chrF' if tokenizer == 'chrf' else f'BLEU by {tokenizer}'}: {signature}"


def published_categories(spec: str) -> dict[str, float]:
    """A model's published category scores, in percent; {} if there are none."""
    rows = [row for row in read_table(PUBLISHED).rows if row.is_model(spec)]
    return {c: row.cells[f"{TASK}:{c}"].value for row in rows for c in CATEGORIES if f"{TASK}:{c}" in row.cells}


def _row(name: str, run: Run, entry: TaskEntry) -> tuple[str | Pair, ...]:
    printed, sure, key = published_categories(run.model.spec), not why_not_comparable(TASK, entry), entry.headline
    cells = []
    for category in CATEGORIES:
        shown = f"{printed[category]:.2f}" if category in printed else "-"
        cells.append(Pair(shown, f"{100 * entry.groups[category][key].value:.2f}", sure))
    mean = f"{sum(printed.values()) / len(CATEGORIES):.2f}" if len(printed) == len(CATEGORIES) else "-"
    figures = [f"{100 * entry.metrics[key + reading].value:.2f}" for reading in ("", "_over_sets", "_pooled")]
    whole = f"{entry.coverage.complete} of {entry.coverage.cells}" if entry.coverage else "-"
    return (name, *cells, Pair(mean, figures[0], sure), *figures[1:], whole)


def _bars(entries: Entries) -> Plot:
    """Measured bars with their intervals, one panel per run, and the published figure as a line across them."""

    def paint(figure: "Figure") -> None:
        panels = figure.subplots(1, len(entries), sharey=True, squeeze=False)[0]
        for axes, (name, (run, entry)) in zip(panels, entries.items(), strict=True):
            bare(axes, "y")
            sure, key = not why_not_comparable(TASK, entry), entry.headline
            printed = published_categories(run.model.spec)
            figures = [entry.groups[category][key] for category in CATEGORIES]
            values = [100 * f.value for f in figures]
            error = [[100 * (f.value - f.ci95[0]) for f in figures], [100 * (f.ci95[1] - f.value) for f in figures]]
            hatch, color = ("", BLUE) if sure else ("///", GREY)
            axes.bar(range(4), values, 0.6, color=color, hatch=hatch, edgecolor=PAPER, linewidth=0.5, zorder=2)
            axes.errorbar(range(4), values, error, fmt="none", ecolor=INK, elinewidth=1, capsize=3, zorder=3)
            for x, category in enumerate(CATEGORIES):
                if category in printed:
                    axes.plot([x - 0.42, x + 0.42], [printed[category]] * 2, color=INK, linewidth=2, zorder=4)
            axes.set_xticks(range(4), CATEGORIES, fontsize=8)
            axes.set_ylim(0, 100)
            axes.set_title(name, loc="left", fontsize=9.5, fontweight="bold")
        panels[0].set_ylabel("accuracy, BLEU")
        _legend(figure, entries)

    title = "Multilingual by category: measured with 95% intervals, and published"
    said = "; ".join(f"{name}: {', '.join(_said(run, entry))}" for name, (run, entry) in entries.items())
    return Plot("multilingual-categories", title, f"{said}.", (2.2 + 3.2 * len(entries), 3.6), paint)


def _said(run: Run, entry: TaskEntry) -> Iterator[str]:
    printed = published_categories(run.model.spec)
    for category in CATEGORIES:
        beside = f" (published {printed[category]:.2f})" if category in printed else ""
        yield f"{category} {100 * entry.groups[category][entry.headline].value:.1f}{beside}"


def _legend(figure: "Figure", entries: Entries) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    whole = {not why_not_comparable(TASK, entry) for _, entry in entries.values()}
    handles: list[Any] = [Line2D([], [], color=INK, linewidth=2, label="published")]
    handles += [Patch(facecolor=BLUE, label="measured")] if True in whole else []
    handles += [Patch(facecolor=GREY, hatch="///", edgecolor=PAPER, label="measured in part: not comparable")] if False in whole else []
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _heat_map(name: str, entry: TaskEntry) -> Plot:
    """One row per set (FLORES: per direction) and one column per language. Empty: the set lacks the language; "·": no data."""
    languages = list(dict.fromkeys(cell.language for cell in entry.cells if "-" not in cell.language))
    grid: dict[str, dict[str, float | None]] = {}
    for cell in entry.cells:
        row, language = _place(cell)
        held = entry.subjects.get(cell.name)
        grid.setdefault(row, {})[language] = 100 * held[entry.headline].value if held else None

    def paint(figure: "Figure") -> None:
        from matplotlib import colormaps

        axes, shades = figure.add_subplot(), colormaps["cividis"]  # uniform in lightness, so it needs no colour vision
        values = [[row.get(language) for language in languages] for row in grid.values()]
        numbers = [[float("nan") if v is None else v for v in row] for row in values]
        edges = [[i - 0.5 for i in range(n + 1)] for n in (len(languages), len(grid))]
        axes.pcolormesh(*edges, numbers, cmap=shades, vmin=0, vmax=100, edgecolors=PAPER, linewidth=0.8)
        axes.invert_yaxis()
        for y, found in enumerate(grid.values()):
            for x, language in enumerate(languages):
                value = found.get(language)
                if value is None:
                    axes.text(x, y, "·" if language in found else "", ha="center", va="center", color=INK, fontsize=14)
                else:
                    color = DARK_TEXT if value / 100 > LIGHT else LIGHT_TEXT
                    axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(range(len(languages)), languages)
        axes.set_yticks(range(len(grid)), list(grid))
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)

    measured = sum(value is not None for row in grid.values() for value in row.values())
    alt = f"{measured} cells measured of {len(entry.cells)}; a dot marks a cell without data. The figures are in multilingual.csv."
    slug = "".join(c if c.isalnum() else "-" for c in name)
    return Plot(f"multilingual-{slug}", f"Every cell, accuracy or BLEU (a dot: no data): {name}", alt, (8.4, 0.8 + 0.34 * len(grid)), paint)


def _place(cell: SuiteCell) -> tuple[str, str]:
    """The heat map's row and column: a direction's language is its side other than English or Chinese."""
    title = TITLES.get(cell.set, cell.set)
    source, arrow, target = cell.language.partition("-")
    if not arrow:
        return title, source
    return (f"{title} {source} → ..", target) if source in ("en", "zh") else (f"{title} .. → {target}", source)


def _to_csv(entries: Entries) -> str:
    """One line per cell and run, including cells without data."""
    out = io.StringIO()
    head = ("run", "cell", "category", "metric", "value", "ci95_low", "ci95_high", "n", "incomplete")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for name, (_, entry) in entries.items():
        for cell in entry.cells:
            held = entry.subjects.get(cell.name, {}).get(entry.headline)
            numbers = [*(round(100 * x, 4) for x in (held.value, *held.ci95)), held.n] if held else ["", "", "", 0]
            reason = entry.coverage.incomplete.get(cell.name, "") if entry.coverage else ""
            writer.writerow([name, cell.name, cell.category, cell.metric, *numbers, reason])
    return out.getvalue()
