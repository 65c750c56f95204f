"""Judged benchmarks by category and turn: the report's section and its plots."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from evalkit.record.schema import Judge, JudgeEntry, JudgeSpent, Metrics, Run, TaskEntry, task_of
from evalkit.report.document import Block, Grid, Notes, Section
from evalkit.report.inputs import Inputs
from evalkit.report.plots.bars import Axis, BarPanel, bar_plot
from evalkit.report.plots.plot import Plot
from evalkit.report.plots.radar import MOST, radar_plot
from evalkit.stats.estimate import Estimate
from evalkit.tasks import JudgedTask
from evalkit.tasks.registry import task_classes

Judged = Mapping[str, TaskEntry]  # run name -> its judged entry


def sections(inputs: Inputs) -> list[Section]:
    """One section per judged benchmark with ratings in the runs."""
    tasks = [cls for cls in task_classes().values() if issubclass(cls, JudgedTask)]
    return [section(cls, judged) for cls in tasks if (judged := judged_entries(inputs.runs, cls.name))]


def section(task: type[JudgedTask], judged: Judged) -> Section:
    """Tables and plots of the judged runs."""
    categories, shown = _categories(task, judged), turns(judged.values())
    low, high = task.scale
    head = ("Run", "Judge", *(title.capitalize() for title in shown.values()), "Score", "95% interval", *categories)
    rows = [
        (
            name,
            judge_name(entry.judge),
            *(_value(entry.metrics, metric) for metric in (*shown, "score")),
            interval(entry.metrics["score"]),
            *(_value(entry.groups.get(category, {}), "score") for category in categories),
        )
        for name, entry in judged.items()
    ]
    blocks: list[Block] = [
        f"Ratings from {low:g} to {high:g} by a judge model; judgments without a rating are left out and counted. Intervals are clustered"
        " by question. Figures by different judges do not compare.",
        Grid(_slug(task), f"{task.title} by turn and category", "ll" + "r" * (len(shown) + 1) + "l" + "r" * len(categories), head, rows),
        Notes("Judges and what was left out", [f"{name}: {line}" for name, entry in judged.items() for line in remarks(entry.judge)]),
        *plots(task, judged),
    ]
    return Section(_slug(task), task.title, blocks)


def judged_entries(runs: Sequence[Run], task: str) -> Judged:
    """The judged entries of one task."""
    return {
        run.name: entry
        for run in runs
        for key, entry in run.tasks.items()
        if task_of(key) == task and "score" in entry.metrics and entry.judge
    }


def turns(entries: Iterable[TaskEntry]) -> dict[str, str]:
    """Metric -> title of each turn that was rated; empty where there is only one, which is the score itself."""
    metrics = {metric for entry in entries for metric in entry.metrics if metric.startswith("turn_")}
    ordered = sorted(metrics, key=lambda metric: int(metric.removeprefix("turn_")))
    return {metric: metric.replace("_", " ") for metric in ordered} if len(ordered) > 1 else {}


def judge_name(judge: Judge | None) -> str:
    """The judge's name as asked for, and the names that the server reported where they differ."""
    if judge is None:
        return "-"
    others = [name for name in judge.answered_as or () if name != judge.model]
    return f"{judge.model} ({', '.join(others)})" if others else judge.model


def interval(figure: Estimate) -> str:
    """A score's 95% interval."""
    low, high = figure.ci95
    return f"{low:.2f} to {high:.2f}"


def remarks(judge: JudgeEntry | None) -> Iterator[str]:
    """The remarks on a judged figure, one per line: the judge, both readers' counts, what was left out, the judge's own spread."""
    if judge is None:
        return
    counts = judge.counts
    settings = "" if judge.temperature is None else f", temperature {judge.temperature:g}, max_tokens {judge.max_tokens}"
    yield f"judge {judge_name(judge)}{settings}, rating as {judge.rating}"
    yield (
        f"{counts.judgments:,} judgments: {counts.published:,} have a rating as published, {counts.strict:,} strictly,"
        f" {counts.failed:,} failed; the readers differ on {counts.readers_differ:,}"
    )
    if judge.left_out:
        allowed = "" if judge.max_failed is None else f" (--max-failed {judge.max_failed:g})"
        yield f"{judge.left_out:,} judgments have no rating and are left out{allowed}"
    if outside := counts.outside_scale or counts.outside_1_to_10:
        yield f"{outside:,} published ratings lie outside the benchmark's scale"
    if counts.score_is_not_its_texts:
        yield f"{counts.score_is_not_its_texts:,} scores in the file are not what their texts say"
    if counts.repeated and judge.score_without_repeats:
        once = judge.score_without_repeats.value
        yield f"{counts.repeated:,} rows judge a turn again; all count, as upstream; each turn's last rating alone gives {once:.4f}"
    if counts.missing:
        yield f"{counts.missing:,} turns have no rating at all"
    if judge.answered_as and len(judge.answered_as) > 1:
        yield "more than one snapshot judged: " + ", ".join(f"{name} {count:,}" for name, count in judge.answered_as.items())
    if spread := judge.spread:
        scores = ", ".join(f"{score:.2f}" for score in spread.scores)
        yield f"the judge's own spread over {len(spread.scores)} repeats: {scores}; stdev {spread.stdev:.3f}"
    if judge.spent:
        yield expense(judge.spent)


def expense(spent: JudgeSpent) -> str:
    """Requests, tokens and cost in one line."""
    cost = "" if spent.cost is None else f", cost {spent.cost:.4f}"
    return f"{spent.requests:,} requests, {spent.prompt_tokens:,} prompt and {spent.completion_tokens:,} completion tokens{cost}"


def plots(task: type[JudgedTask], judged: Judged) -> list[Plot]:
    """Radar and bars of the first runs, as many as the radar can tell apart; none where no category is judged."""
    shown = dict(list(judged.items())[:MOST])
    categories = _categories(task, shown)
    return [_radar(task, shown, categories), _bars(task, shown, categories)] if categories else []


def _radar(task: type[JudgedTask], judged: Judged, categories: Sequence[str]) -> Plot:
    runs = {name: [_number(entry, category) for category in categories] for name, entry in judged.items()}
    said = "; ".join(
        f"{name}: " + ", ".join(f"{c} {_value(e.groups.get(c, {}), 'score')}" for c in categories) for name, e in judged.items()
    )
    alt = f"Scores of {task.scale[1]:g}. {said}."
    return radar_plot(f"{_slug(task)}-radar", f"{task.title} by category", alt, categories, runs, task.scale)


def _bars(task: type[JudgedTask], judged: Judged, categories: Sequence[str]) -> Plot:
    shown = turns(judged.values()) or {"score": "score"}
    places = [*categories, "all"]
    panels = [
        BarPanel(name, {label: [_of(entry, place).get(metric) for place in places] for metric, label in shown.items()})
        for name, entry in judged.items()
    ]
    title = f"{task.title} by category{' and turn' if len(shown) > 1 else ''}, 95% intervals clustered by question"
    said = "; ".join(
        f"{name}: " + ", ".join(f"{label} {_value(e.metrics, metric)}" for metric, label in shown.items()) for name, e in judged.items()
    )
    axis = Axis("rating", min(0.0, task.scale[0]), task.scale[1])
    return bar_plot(f"{_slug(task)}-turns", title, f"Ratings of {axis.top:g}. {said}.", places, panels, axis)


def _of(entry: TaskEntry, place: str) -> Metrics:
    """The metrics of a category, or of all."""
    return entry.metrics if place == "all" else entry.groups.get(place, {})


def _slug(task: type[JudgedTask]) -> str:
    return task.name.replace("_", "-")


def _categories(task: type[JudgedTask], judged: Judged) -> list[str]:
    held = {category for entry in judged.values() for category, metrics in entry.groups.items() if "score" in metrics}
    return [c for c in task.categories if c in held] + sorted(held - set(task.categories))


def _number(entry: TaskEntry, category: str) -> float | None:
    figure = entry.groups.get(category, {}).get("score")
    return None if figure is None else figure.value


def _value(metrics: Metrics, metric: str) -> str:
    return f"{metrics[metric].value:.2f}" if metric in metrics else "-"
