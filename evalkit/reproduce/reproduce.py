"""`evalkit reproduce`: plans, measures and reports a published table."""

from pathlib import Path

from evalkit.codec import encode
from evalkit.errors import EvalkitError, InternalError, RunIncomplete
from evalkit.progress import Reporter, console
from evalkit.record.read import read_run
from evalkit.record.schema import Run
from evalkit.reproduce import screen
from evalkit.reproduce.config import ReproduceConfig
from evalkit.reproduce.plan import Plan, make_plan
from evalkit.table import Present, on_screen

SCHEMA = 1


def reproduce(config: ReproduceConfig, reporter: Reporter, present: Present = on_screen) -> None:
    """Present the plan or, but for `config.plan`, print it and carry it out, and present the figures.

    Raises RunIncomplete where a run did not come to its end.
    """
    if config.plan and not config.warm_up:
        _present_plan(make_plan(config).plan, present)
        return
    from evalkit.report.assemble import write_report  # slow to import, as is what runs a model: a plan answers at once
    from evalkit.report.published import read_table
    from evalkit.reproduce.execute import alone, execute, warm_up

    planned = make_plan(config)
    with alone(config.folder):
        if config.warm_up or config.budget is not None:
            warm_up(config, planned, reporter)
            planned = make_plan(config)
        if config.plan:
            _present_plan(planned.plan, present)
            return
        screen.show_plan(planned.plan, console())
        if not planned.plan.chosen and not planned.plan.parameters:
            raise EvalkitError(f"nothing of {config.table} can be measured: {_why(planned.plan)}")
        failures = execute(config, planned, reporter)
        runs = _finished(config.folder)
        table, measured = read_table(config.table), list(runs.values())
        figures = [line.as_json() for line in screen.measured_lines(table, measured)]
        document = {"schema": SCHEMA, "kind": "reproduction", "table": table.name, "plan": encode(planned.plan), "figures": figures}
        present(lambda: document, lambda: screen.show_verdicts(table, measured, console()))
        write_report([config.table], [str(folder) for folder in runs], str(config.folder / "report"))
    screen.show_left(planned.plan, console())
    if failures:
        spec, error = failures[0]
        others = f", and {len(failures) - 1} more" if failures[1:] else ""
        kind = InternalError if isinstance(error, InternalError) else RunIncomplete
        raise kind(f"{spec}{others} did not come to the end: {error}; the same command goes on with what is left")


def _present_plan(plan: Plan, present: Present) -> None:
    present(lambda: encode(plan), lambda: screen.show_plan(plan, console()))


def _why(plan: Plan) -> str:
    """The first reason, or that the budget holds nothing."""
    if plan.measurements:
        return f"the cheapest takes {min(each.hours for each in plan.measurements):.2g} hours, the budget is {plan.budget:g}"
    first = plan.out_of_reach[0] if plan.out_of_reach else None
    return f"{first.model}, {first.cell}: {first.reason}" if first else "it prints no figure"


def _finished(folder: Path) -> dict[Path, Run]:
    """The complete runs of this reproduction, also those of models that this command did not name."""
    runs = {file.parent: read_run(file) for file in sorted(folder.glob("*/run.json"))}
    return {path: run for path, run in runs.items() if run.is_complete}
