"""MMLU by subject: one row per subject, one column per run, one panel per category."""

from collections.abc import Sequence

from evalkit.record.schema import Run, task_of
from evalkit.report.plots.heat_map import Cell, heat_map
from evalkit.report.plots.plot import Plot
from evalkit.tasks.registry import resolve

TASK = "mmlu"
MOST_RUNS = 6  # more columns are too narrow for their figures


def subject_plot(runs: Sequence[Run]) -> Plot | None:
    """The first runs with MMLU by subject; None if there is none."""
    held = [(run, key, entry) for run in runs for key, entry in run.tasks.items() if task_of(key) == TASK]
    shown = [(run, key, entry) for run, key, entry in held if entry.subjects][:MOST_RUNS]
    if not shown:
        return None
    names = [run.name + (f" {key}" if key != TASK else "") for run, key, _ in shown]
    scores = [{s: 100 * m[entry.headline].value for s, m in entry.subjects.items()} for _, _, entry in shown]
    task = resolve(TASK)
    panels: dict[str, dict[str, list[Cell]]] = {}
    for subject in sorted(set().union(*scores)):
        category = (task.category(subject) or "other").replace("_", " ")
        panels.setdefault(category, {})[subject.replace("_", " ")] = [score.get(subject, "-") for score in scores]
    worst = sorted((value, subject) for subject, value in scores[0].items())
    alt = (
        f"Accuracy by subject of {', '.join(names)}. In {names[0]} the lowest is {worst[0][1].replace('_', ' ')} at {worst[0][0]:.0f}, "
        f"the highest {worst[-1][1].replace('_', ' ')} at {worst[-1][0]:.0f}."
    )
    return heat_map("subjects", f"MMLU by subject: {', '.join(names)}", alt, names, dict(sorted(panels.items())))
