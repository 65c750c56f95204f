"""A run's tasks against published figures: unpaired, as if the published figure came from as many other documents."""

import math

from evalkit.comparison.gate_config import GateConfig
from evalkit.comparison.gate_outcome import Case
from evalkit.errors import EvalkitError, unknown
from evalkit.exchange.formats import read_other
from evalkit.record.read import is_ours, read_run, why_incomplete
from evalkit.record.schema import task_of
from evalkit.report.matches import agreed, in_tables, published_for
from evalkit.report.verdict import verdict_on
from evalkit.stats.paired import unpaired


def published_cases(config: GateConfig) -> tuple[str, str, list[Case], tuple[str, ...]]:
    """(base, candidate, cases, notes).

    Raises EvalkitError if nothing can be gated, or if several tables have different figures under the run's protocol and none was chosen.
    """
    (path,) = config.runs
    if not is_ours(path) and (other := read_other(path)) is not None:
        raise EvalkitError(
            f"{path} is {other.source}'s, and --against published takes a run of evalkit's; `evalkit report` shows its figures"
        )
    record = read_run(path)
    if record.shard:
        raise EvalkitError(f"{path} is {why_incomplete(record)}")
    if lacking := [task for task in config.tasks if task not in record.tasks]:
        raise unknown(f"task in {path}:", lacking[0], record.tasks)
    cases, notes = [], []
    for key, entry in record.tasks.items():
        name = task_of(key)
        if config.tasks and key not in config.tasks:
            continue
        matches = published_for(record.model.spec, name, entry.protocol, config.published)
        match = agreed(matches)
        if match is None and any(each.figure.protocol == entry.protocol for each in matches):
            raise EvalkitError(f"{record.model.spec}: {name}@{entry.protocol} is {in_tables(matches)}; choose one with --published NAME")
        found = verdict_on(matches, name, entry, record.model)
        figure = entry.figure
        if match is None or figure is None or not found.compares or not 0 <= match.share <= 1 or figure.value > 1:
            notes.append(f"{key}: not gated: {found}" + (f"; {in_tables(matches)}" if matches else ""))
            continue
        notes.append(f"{key}: {in_tables(matches)}" + (f"; {found.reason}" if found.reason else ""))
        base, n = match.share, entry.n
        d = unpaired(base, math.sqrt(base * (1 - base) / n), figure.value, figure.stderr, n)
        cases.append(Case((key, f"{name}@{entry.protocol}"), d))
    if not cases:
        raise EvalkitError(f"nothing in {path} can be gated on a published figure: {'; '.join(notes) or 'it has no task'}")
    return "published", f"{record.model.spec} ({path})", cases, tuple(notes)
