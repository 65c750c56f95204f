"""The multilingual suite's section: its categories beside the published ones, and all cells, a row per set and a column per language."""

import csv
import io
from collections.abc import Iterator, Mapping

from evalkit.record.schema import Run, TaskEntry, task_of
from evalkit.report.document import Block, Grid, Notes, Pair, Section
from evalkit.report.inputs import Inputs
from evalkit.report.plots.bars import Axis, BarPanel, bar_plot
from evalkit.report.plots.heat_map import Cell, heat_map
from evalkit.report.plots.plot import Plot, file_name
from evalkit.report.published import read_table
from evalkit.report.verdict import why_not_comparable
from evalkit.tasks import SuiteCell

TASK, PUBLISHED = "multilingual", "qwen1.5-multilingual"
CATEGORIES = ("exams", "understanding", "math", "translation")
TITLES = {
    **{"mmmlu": "MMLU-multi", "m3exam": "M3Exam", "belebele": "BELEBELE", "xwinograd": "XWinograd", "xcopa": "XCOPA"},
    **{"pawsx": "PAWS-X", "xstorycloze": "XStoryCloze", "mgsm": "MGSM", "flores": "FLORES"},
}
MOST_RUNS = 4
Entries = Mapping[str, tuple[Run, TaskEntry]]  # a run's name -> the run, and its entry


def section(inputs: Inputs) -> Section | None:
    """Tables and plots of the runs with the suite; None if there is none."""
    entries: Entries = {
        run.name: (run, entry) for run in inputs.runs for key, entry in run.tasks.items() if task_of(key) == TASK and entry.cells
    }
    if not entries:
        return None
    published = inputs.table is not None
    rows = [_row(name, run, entry, published) for name, (run, entry) in entries.items()]
    head = ("Run", *(category.capitalize() for category in CATEGORIES), "Mean of four", "Over sets", "Pooled", "Cells")
    blocks: list[Block] = [
        "A category is the mean over its cells (a set in a language); the column is the mean of the four, BLEU on its scale of 0 to 100."
        " Published figures do not say whether cells, sets or documents were averaged: so the two other averages are shown too."
        " A cell reads published, or published → measured; a star says that not all of the suite was measured.",
        Grid("multilingual", "Categories", "lrrrrrrrr", head, rows),
        _bars(entries, published),
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


def _row(name: str, run: Run, entry: TaskEntry, published: bool) -> tuple[str | Pair, ...]:
    printed = published_categories(run.model.spec) if published else {}
    sure, key = not why_not_comparable(TASK, entry), entry.headline
    cells = []
    for category in CATEGORIES:
        shown = f"{printed[category]:.2f}" if category in printed else "-"
        cells.append(Pair(shown, f"{100 * entry.groups[category][key].value:.2f}", sure))
    mean = f"{sum(printed.values()) / len(CATEGORIES):.2f}" if len(printed) == len(CATEGORIES) else "-"
    figures = [f"{100 * entry.metrics[key + reading].value:.2f}" for reading in ("", "_over_sets", "_pooled")]
    whole = f"{entry.coverage.complete} of {entry.coverage.cells}" if entry.coverage else "-"
    return (name, *cells, Pair(mean, figures[0], sure), *figures[1:], whole)


def _bars(entries: Entries, published: bool) -> Plot:
    """Measured bars with their intervals, one panel per run, and the published figure as a line across them."""
    panels, told = [], []
    for name, (run, entry) in entries.items():
        printed = published_categories(run.model.spec) if published else {}
        figures = [entry.groups[category][entry.headline] for category in CATEGORIES]
        sure = not why_not_comparable(TASK, entry)
        panels.append(BarPanel(name, {"measured": figures}, [printed.get(category) for category in CATEGORIES], sure))
        beside = {category: f" (published {value:.2f})" for category, value in printed.items()}
        said = (f"{c} {100 * figure.value:.1f}{beside.get(c, '')}" for c, figure in zip(CATEGORIES, figures, strict=True))
        told.append(f"{name}: {', '.join(said)}")
    title = f"Multilingual by category: measured with 95% intervals{', and published' if published else ''}"
    axis = Axis("accuracy, BLEU", 0, 100, scale=100)
    return bar_plot("multilingual-categories", title, f"{'; '.join(told)}.", CATEGORIES, panels, axis)


def _heat_map(name: str, entry: TaskEntry) -> Plot:
    """One row per set (FLORES: per direction) and one column per language. Empty: the set lacks the language; "·": no data."""
    languages = list(dict.fromkeys(cell.language for cell in entry.cells if "-" not in cell.language))
    grid: dict[str, dict[str, Cell]] = {}
    for cell in entry.cells:
        row, language = _place(cell)
        held = entry.subjects.get(cell.name)
        grid.setdefault(row, {})[language] = 100 * held[entry.headline].value if held else "·"
    rows = {row: [found.get(language, "") for language in languages] for row, found in grid.items()}
    measured = sum(not isinstance(cell, str) for row in rows.values() for cell in row)
    alt = f"{measured} cells measured of {len(entry.cells)}; a dot marks a cell without data. The figures are in multilingual.csv."
    title = f"Every cell, accuracy or BLEU (a dot: no data): {name}"
    return heat_map(f"multilingual-{file_name(name)}", title, alt, languages, {"": rows})


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
