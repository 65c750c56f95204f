"""What `evalkit reproduce` prints: the plan, the verdicts, what is left. Readable at 80 columns."""

from collections.abc import Sequence

from rich.console import Console

from evalkit.progress import duration
from evalkit.record.schema import Run
from evalkit.report.lines import Line, lines
from evalkit.report.published import PublishedTable
from evalkit.reproduce.plan import Measurement, OutOfReach, Plan
from evalkit.table import Table


def show_plan(plan: Plan, console: Console) -> None:
    """The figures that can be measured, model by model; those that cannot, and why; the hours of all."""
    partial = f", {plan.limit} documents of each task: no figure is the benchmark's" if plan.limit else ""
    _say(console, f"{plan.title}: what it takes here{partial}")
    _say(console, f"data: {plan.data}; device: {plan.device}")
    if plan.measurements:
        _table(plan).show(console)
        for line in _remarks(plan):
            _say(console, line)
    if plan.parameters:
        _say(console, f"counted from configurations, without weights: parameters of {', '.join(plan.parameters)}")
    if plan.out_of_reach:
        _say(console, "cannot be had here:")
    for (model, reason), figures in _by_reason(plan.out_of_reach).items():
        _say(console, f"  {model}, {', '.join(figures)}: {reason}")


def _by_reason(out_of_reach: Sequence[OutOfReach]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for each in out_of_reach:
        found.setdefault((each.model, each.reason), []).append(f"{each.task} ({each.published})")
    return found


def _table(plan: Plan) -> Table:
    rows: list[tuple[str, ...]] = []
    runs: dict[str, list[Measurement]] = {}
    for each in plan.measurements:
        runs.setdefault(each.run, []).append(each)
    for some in runs.values():
        rows.append((some[0].model, "", "", "", ""))
        for each in some:
            time = "done" if each.is_done else duration(3600 * each.hours) if each.chosen else "left out"
            rows.append((f"  {each.task}", " ".join(each.published), _requests(each), _tokens(each), time))
    return Table("figures that can be measured", ("task", "published", "requests", "tokens", "time"), rows, folds=("published",))


def _requests(each: Measurement) -> str:
    left = each.work.requests - each.answered
    return f"{left:,} of {each.work.requests:,}" if 0 < left < each.work.requests else f"{each.work.requests:,}"


def _tokens(each: Measurement) -> str:
    return _short(each.work.prompt_tokens + each.new_tokens)


def _short(count: float) -> str:
    """ "950", "63k", "1.4M"."""
    return f"{count:.0f}" if count < 1000 else f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.1f}M"


def _remarks(plan: Plan) -> list[str]:
    found = list(dict.fromkeys(f"{each.model}: {each.weights}" for each in plan.measurements))
    bases = dict.fromkeys(each.basis for each in plan.chosen if not each.is_done)
    for basis in bases:
        of = [f"{each.task} of {each.spec}" for each in plan.chosen if each.basis == basis and not each.is_done]
        found.append(f"time by {basis}: {', '.join(of) if len(bases) > 1 else 'all'}")
    done = f", {sum(each.is_done for each in plan.chosen)} done" if any(each.is_done for each in plan.chosen) else ""
    budget = f" of {plan.budget:g} h; {len(plan.left_out)} left out" if plan.budget is not None else ""
    found.append(f"{len(plan.chosen)} measurements{done}: {duration(3600 * plan.hours)}{budget}")
    return found


def measured_lines(table: PublishedTable, runs: Sequence[Run]) -> list[Line]:
    """A line for each measured figure."""
    return [line for line in lines(table, runs) if line.entry]


def show_verdicts(table: PublishedTable, runs: Sequence[Run], console: Console) -> None:
    """The table of measured figures, and why each has its verdict."""
    rows = []
    measured = measured_lines(table, runs)
    reasons = {}
    for line in measured:
        figure = line.measured
        interval = f"{line.decimal(figure.low)} to {line.decimal(figure.high)}" if figure else "-"
        task = f"{line.task.partition('@')[0]}@{line.entry.protocol}" if line.entry else line.task
        rows.append((line.model, task, line.published, line.decimal(figure.value) if figure else "-", interval, line.verdict.word))
        reasons[f"{line.model}, {task}"] = str(line.verdict)
    if not measured:
        return
    head = ("model", "task", "published", "measured", "95% interval", "verdict")
    Table(f"{table.title}: published and measured", head, rows, left=("task", "95% interval", "verdict")).show(console)
    for name, verdict in reasons.items():
        _say(console, f"{name}: {verdict}")


def show_left(plan: Plan, console: Console) -> None:
    """What the budget left out."""
    for each in plan.left_out:
        _say(console, f"left out: {each.task} of {each.spec}, {duration(3600 * each.hours)} beyond the budget of {plan.budget:g} h")


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True)
