"""Two finished runs under a policy: each rule reads its own task by its own metric."""

from evalkit.comparison.answers import read_answers
from evalkit.comparison.compare import difference
from evalkit.comparison.gate_config import GateConfig
from evalkit.comparison.gate_outcome import Case, Gate
from evalkit.comparison.gate_rule import decide_all
from evalkit.comparison.policy import Rule
from evalkit.comparison.rules import checks_of, rules_of
from evalkit.errors import EvalkitError
from evalkit.record.pairs import Pairs, RunAnswers, align, filter_of
from evalkit.stats.paired import ALPHA


def decide_by_policy(config: GateConfig) -> Gate:
    """Raises EvalkitError where the policy cannot be read, or the runs are not comparable."""
    rules = rules_of(config)
    found: dict[tuple[str, str], tuple[Pairs, Rule]] = {}
    names, notes = list(config.runs), dict.fromkeys(rules.notes)
    for rule, tasks in rules.tasks:
        base, cand = (_read(run, tasks, rule) for run in config.runs)
        names, notes = [f"{run.model} ({run.path})" for run in (base, cand)], notes | dict.fromkeys([*base.notes, *cand.notes])
        for pairs in align(base, cand):
            if earlier := found.get((pairs.task, pairs.metric)):
                raise EvalkitError(f"{rule.place}: {pairs.task} by {pairs.metric} has a rule already, at {earlier[1].place}; leave one out")
            found[pairs.task, pairs.metric] = pairs, rule
    cases, checks = [], list(rules.checks)
    for pairs, rule in found.values():
        name = f"{pairs.protocol} {pairs.metric}" if rule.metric else pairs.protocol
        cases.append((Case((pairs.task, name), difference(pairs, rule.alpha or ALPHA), pairs.identical), rule))
        checks += checks_of(rule, name, pairs)
    return Gate(names[0], names[1], config.margins, decide_all(cases), tuple(notes), tuple(checks), rules.policy)


def _read(run: str, tasks: tuple[str, ...], rule: Rule) -> RunAnswers:
    """What one rule is about. Raises EvalkitError where the run does not have it, or not all that the rule asks for."""
    try:
        answers = read_answers(run, tasks, rule.metric, rule.cluster)
    except EvalkitError as error:
        raise EvalkitError(f"{rule.place}: {error}") from None
    if rule.allowed and answers.source != "evalkit":
        raise EvalkitError(
            f"{rule.place}: {run} is {answers.source}'s, whose samples do not say which answers have a problem; "
            "leave `allowed` out of the rule"
        )
    for task in answers.tasks.values():
        by, own = task.extracted_by, filter_of(task.metric)
        if "extraction_failed" in rule.allowed and by is not None and own != by:
            raise EvalkitError(
                f"{rule.place}: {run} counts extraction_failed of {task.name} by the filter {by or 'none'}, and {task.metric} is by "
                f"{own or 'none'}; leave allowed.extraction_failed out of this rule, and of [default]"
            )
    return answers
