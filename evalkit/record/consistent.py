"""Does a run.json agree with itself? What no run can have: a file that was edited, cut, or written by a faulty program."""

from collections.abc import Iterator
from dataclasses import asdict

from evalkit.record.schema import Run, TaskEntry
from evalkit.stats.estimate import Estimate


def contradictions(run: Run) -> Iterator[str]:
    """Each with the key and the numbers that contradict each other."""
    for key, entry in run.tasks.items():
        place = f"tasks.{key}"
        if not 0 <= entry.n <= entry.n_total:
            yield f"{place}.n is {entry.n:,} of n_total {entry.n_total:,}"
        if run.limit is not None and entry.n > run.limit and not entry.cells:  # a suite has a limit for each cell
            yield f"{place}.n is {entry.n:,}, and the run's limit {run.limit:,}"
        for name, count in asdict(entry.counts).items():
            if not 0 <= count <= entry.n:
                yield f"{place}.counts.{name} is {count:,} of n {entry.n:,}"
        for where, figure in _figures(entry):
            if wrong := _of_interval(figure):
                yield f"{place}.{where}{wrong}"


def _figures(entry: TaskEntry) -> Iterator[tuple[str, Estimate]]:
    for metric, figure in entry.metrics.items():
        yield f"metrics.{metric}", figure
    for kind, parts in (("groups", entry.groups), ("subjects", entry.subjects)):
        for name, metrics in parts.items():
            for metric, figure in metrics.items():
                yield f"{kind}.{name}.{metric}", figure


def _of_interval(figure: Estimate) -> str:
    """What is wrong with a figure's interval; "" for nothing. A resampled one may miss its value, though not by far."""
    if figure.ci95 is None:
        return ""
    low, high = figure.ci95
    if low > high:
        return f".ci95 begins at {low:g} and ends at {high:g}"
    slack = (high - low) / 2 + 1e-9
    if not low - slack <= figure.value <= high + slack:
        return f".value is {figure.value:g}, far outside its ci95 of {low:g} to {high:g}"
    return ""
