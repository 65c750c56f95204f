"""MT-Bench by category and turn: a radar of the scores, bars of both turns with their intervals, and the page of the report."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.judge.config import MAX_FAILED
from evalkit.report.document import Block, Grid, Notes, Section
from evalkit.report.inputs import Inputs
from evalkit.report.plots.plot import BLUE, GREEN, GREY, INK, ORANGE, PAPER, RULE, Plot, bare

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

TASK = "mt_bench"
TOP = 10.0  # the best rating
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")  # the questions' order
STYLES = ((BLUE, "o", "-"), (ORANGE, "D", "--"), (GREEN, "s", "-."), (INK, "^", ":"))
TURNS = (("turn_1", "turn 1", BLUE, ""), ("turn_2", "turn 2", ORANGE, "///"))


def section(inputs: Inputs) -> Section | None:
    """Tables and plots of the judged runs; None where there is none."""
    judged = judged_entries(inputs.runs)
    if not judged:
        return None
    categories = _categories(judged)
    head = ("Run", "Judge", "Turn 1", "Turn 2", "Score", "95% interval", *categories)
    rows = [
        (
            name,
            judge_name(entry["judge"]),
            *(_value(entry["metrics"], metric) for metric in ("turn_1", "turn_2", "score")),
            interval(entry["metrics"]["score"]),
            *(_value(entry["groups"].get(category, {}), "score") for category in categories),
        )
        for name, entry in judged.items()
    ]
    blocks: list[Block] = [
        "Ratings from 1 to 10 by a judge model; judgments without a rating are left out and counted. Intervals are clustered by question."
        " Figures by different judges do not compare.",
        Grid("MT-Bench by turn and category", "llrrrl" + "r" * len(categories), head, rows),
        Notes("Judges and what was left out", [f"{name}: {line}" for name, entry in judged.items() for line in remarks(entry)]),
        *plots(judged),
    ]
    return Section("mt-bench", "MT-Bench", blocks)


def judged_entries(runs: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Run name -> its judged entry."""
    return {
        run["name"]: entry
        for run in runs
        for key, entry in run["tasks"].items()
        if key.partition("@")[0] == TASK and "score" in entry["metrics"] and "judge" in entry
    }


def judge_name(judge: Mapping[str, Any]) -> str:
    """The judge as asked, and what it called itself where that is another name."""
    others = [name for name in judge.get("answered_as", {}) if name != judge["model"]]
    return f"{judge['model']} ({', '.join(others)})" if others else str(judge["model"])


def interval(figure: Mapping[str, Any]) -> str:
    """A score's 95% interval."""
    low, high = figure["ci95"]
    return f"{low:.2f} to {high:.2f}"


def remarks(entry: Mapping[str, Any]) -> list[str]:
    """What belongs to a judged figure, a line each: the judge, both readers' counts, what was left out, the judge's own spread."""
    judge = entry["judge"]
    counts, reader = judge["counts"], judge["rating"]
    settings = f", temperature {judge['temperature']:g}, max_tokens {judge['max_tokens']}" if "temperature" in judge else ""
    lines = [f"judge {judge_name(judge)}{settings}, rating as {reader}"]
    lines.append(
        f"{counts['judgments']:,} judgments: {counts['published']:,} have a rating as published, {counts['strict']:,} strictly,"
        f" {counts['failed']:,} failed; the readers differ on {counts['readers_differ']:,}"
    )
    if left := counts["judgments"] - counts[reader]:
        lines.append(f"{left:,} judgments have no rating and are left out")
        if left > MAX_FAILED * counts["judgments"] and "max_failed" in judge:
            lines.append(f"not the benchmark's figure: more than {MAX_FAILED:.0%} left out (--max-failed {judge['max_failed']:g})")
    if counts["outside_1_to_10"]:
        lines.append(f"{counts['outside_1_to_10']:,} published ratings lie outside 1 to 10")
    if counts.get("score_is_not_its_texts"):
        lines.append(f"{counts['score_is_not_its_texts']:,} scores in the file are not what their texts say")
    if counts.get("repeated"):
        once = judge["score_without_repeats"]["value"]
        lines.append(
            f"{counts['repeated']:,} rows judge a turn again; all count, as upstream; each turn's last rating alone gives {once:.4f}"
        )
    if counts.get("missing"):
        lines.append(f"{counts['missing']:,} turns have no rating at all")
    if len(judge.get("answered_as", {})) > 1:
        shares = ", ".join(f"{name} {count:,}" for name, count in judge["answered_as"].items())
        lines.append(f"more than one snapshot judged: {shares}")
    if spread := judge.get("spread"):
        scores = ", ".join(f"{score:.2f}" for score in spread["scores"])
        lines.append(f"the judge's own spread over {len(spread['scores'])} repeats: {scores}; stdev {spread['stdev']:.3f}")
    if spent := judge.get("spent"):
        cost = "" if spent["cost"] is None else f", cost {spent['cost']:.4f}"
        lines.append(
            f"{spent['requests']:,} requests, {spent['prompt_tokens']:,} prompt and {spent['completion_tokens']:,} completion tokens{cost}"
        )
    return lines


def plots(judged: Mapping[str, Mapping[str, Any]]) -> list[Plot]:
    """Radar and bars of the first runs, as many as there are styles to tell them apart; none where no category is judged."""
    shown = dict(list(judged.items())[: len(STYLES)])
    categories = _categories(shown)
    return [_radar(shown, categories), _bars(shown, categories)] if categories else []


def _radar(judged: Mapping[str, Mapping[str, Any]], categories: Sequence[str]) -> Plot:
    from math import pi

    angles = [2 * pi * i / len(categories) for i in range(len(categories))]

    def paint(figure: "Figure") -> None:
        axes: PolarAxes = figure.add_subplot(projection="polar")  # type: ignore[assignment]
        axes.set_theta_zero_location("N")
        axes.set_theta_direction(-1)
        for (name, entry), (color, marker, line) in zip(judged.items(), STYLES, strict=False):
            held = [(a, _number(entry, c)) for a, c in zip(angles, categories, strict=True)]
            points = [(a, v) for a, v in held if v is not None]
            closed = [*points, points[0]] if len(points) > 2 else points
            axes.plot(*zip(*closed, strict=True), color=color, marker=marker, linestyle=line, linewidth=1.8, markersize=5, label=name)
            if len(judged) == 1:
                axes.fill(*zip(*closed, strict=True), color=color, alpha=0.12)
        axes.set_ylim(0, TOP)
        axes.set_yticks([2, 4, 6, 8, 10], ["2", "4", "6", "8", "10"], fontsize=8)
        axes.set_rlabel_position(180 / len(categories))
        axes.set_xticks(angles, categories)
        axes.tick_params(axis="x", pad=8)
        axes.grid(color=RULE, linewidth=0.7)
        axes.spines["polar"].set_color(RULE)
        figure.legend(loc="outside lower center")  # a name a line: runs have long ones

    said = "; ".join(
        f"{name}: " + ", ".join(f"{c} {_value(e['groups'].get(c, {}), 'score')}" for c in categories) for name, e in judged.items()
    )
    return Plot("mt-bench-radar", "MT-Bench by category", f"Scores of 10. {said}.", (5.8, 5.4 + 0.2 * len(judged)), paint)


def _bars(judged: Mapping[str, Mapping[str, Any]], categories: Sequence[str]) -> Plot:
    places = [*categories, "all"]

    def paint(figure: "Figure") -> None:
        panels = figure.subplots(len(judged), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, entry) in zip(panels, judged.items(), strict=True):
            bare(axes, "y")
            for k, (metric, label, color, hatch) in enumerate(TURNS):
                figures = [(entry["metrics"] if p == "all" else entry["groups"].get(p, {})).get(metric) for p in places]
                held = [(x + 0.4 * k - 0.2, f["value"], f["ci95"]) for x, f in enumerate(figures) if f]
                if not held:
                    continue
                x, values, intervals = zip(*held, strict=True)
                axes.bar(x, values, 0.38, color=color, hatch=hatch, edgecolor=PAPER, linewidth=0.5, label=label, zorder=2)
                low = [value - max(0.0, bounds[0]) for value, bounds in zip(values, intervals, strict=True)]
                high = [min(TOP, bounds[1]) - value for value, bounds in zip(values, intervals, strict=True)]
                error = [[max(0.0, e) for e in low], [max(0.0, e) for e in high]]
                axes.errorbar(x, values, error, fmt="none", ecolor=INK, elinewidth=1, capsize=2, zorder=3)
            axes.axvline(len(categories) - 0.5, color=GREY, linewidth=0.8, linestyle=":")
            axes.set_ylim(0, TOP)
            axes.set_ylabel("rating")
            axes.set_title(name, loc="left", fontsize=9.5, fontweight="bold")
        panels[-1].set_xticks(range(len(places)), places)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)

    title = "MT-Bench by category and turn, 95% intervals clustered by question"
    said = "; ".join(
        f"{name}: turn 1 {_value(e['metrics'], 'turn_1')}, turn 2 {_value(e['metrics'], 'turn_2')}" for name, e in judged.items()
    )
    return Plot("mt-bench-turns", title, f"Ratings of 10. {said}.", (7.6, 0.9 + 2.4 * len(judged)), paint)


def _categories(judged: Mapping[str, Mapping[str, Any]]) -> list[str]:
    held = {category for entry in judged.values() for category, metrics in entry["groups"].items() if "score" in metrics}
    return [c for c in CATEGORIES if c in held] + sorted(held - set(CATEGORIES))


def _number(entry: Mapping[str, Any], category: str) -> float | None:
    figure = entry["groups"].get(category, {}).get("score")
    return None if figure is None else figure["value"]


def _value(metrics: Mapping[str, Any], metric: str) -> str:
    return f"{metrics[metric]['value']:.2f}" if metric in metrics else "-"
