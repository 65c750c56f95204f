"""`evalkit gate BASE --model SPEC --sequential`: the candidate answers block by block until the gate is decided.

Tasks take turns, a block each. A task that is decided gets no more, and the first one that fails and blocks ends the gate. Over several
tasks the p of a drop is Holm's over its tier, as in the fixed gate: each task's is valid whenever one looks, so the adjusted ones are too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evalkit.comparison.answers import read_answers
from evalkit.comparison.compare import difference
from evalkit.comparison.gate_config import ORDERS, GateConfig, Sequential
from evalkit.comparison.gate_outcome import Gate
from evalkit.comparison.gate_rule import adjusted
from evalkit.comparison.rules import Rules, checks_of, rules_of
from evalkit.comparison.sequential_task import Ask, SequentialTask, block_of
from evalkit.errors import EvalkitError, OutOfTime, Undecided
from evalkit.record.pairs import RunAnswers, align


def decide_in_turn(config: GateConfig) -> Gate:
    """Look after every block until the gate is decided, or has to stop.

    Raises EvalkitError where the runs are not comparable, and Undecided where it has to stop before its first look.
    """
    how = config.sequential
    assert how is not None
    rules = rules_of(config)
    if any((check.tier, check.word) == ("blocking", "fail") for check in rules.checks):  # nothing is left to be decided
        unseen = [f"{rule.task}: not looked at, since the gate had failed by then" for rule, _ in rules.tasks]
        return Gate(config.runs[0], config.runs[-1], config.margins, (), (*rules.notes, *unseen), rules.checks, rules.policy)
    base = read_answers(config.runs[0], rules.asked, config.metric, config.cluster)
    if how.run is None:
        cand = read_answers(config.runs[1], rules.asked, config.metric, config.cluster)
        tasks = _tasks(rules, how, base, cand, {})
        notes = _take_turns(tasks, how, lambda task, ids: {doc: cand.tasks[task].answers[doc] for doc in ids})
        return _gate(rules, tasks, base, cand, (*notes, *_order(how, tasks)))

    from evalkit.comparison.candidate import Candidate

    candidate = Candidate(base, how.run, config.cluster)
    tasks = _tasks(rules, how, base, candidate.planned, candidate.prefixes_in_documents())
    with candidate.answering(how.max_minutes) as ask:
        notes = _take_turns(tasks, how, ask)
    left = candidate.finish(whole=all(task.is_whole for task in tasks))
    return _gate(rules, tasks, base, candidate.planned, (*notes, *_order(how, tasks), *left))


def _order(how: Sequential, tasks: Sequence[SequentialTask]) -> list[str]:
    limits = f" --max-documents {how.max_documents}" if how.max_documents else ""
    limits += f" --order {how.order}" if how.order != ORDERS[0] else ""
    return [
        f"{task.pairs.protocol}: a look after every block, in the order of --order-seed {how.order_seed} --block {task.block}{limits}; "
        "docs/statistics.md says what that claims"
        for task in tasks
    ]


def _tasks(rules: Rules, how: Sequential, base: RunAnswers, cand: RunAnswers, prefixes: Mapping[str, int]) -> list[SequentialTask]:
    """All tasks before their first block. Raises EvalkitError before anything is computed.

    `prefixes`: how many documents take as much work as the beginnings that prompts share, which an engine that keeps none computes once
    a block.
    """
    pairs = align(base, cand)
    rules.config.margins.require_known(tuple(name for each in pairs for name in dict.fromkeys((each.task, each.protocol))))
    tasks = []
    for each in pairs:
        rule = rules.of((each.task, each.protocol))
        margin = rule.margin or rule.margin_of(difference(replace(each, cand=each.base)).base)
        block = how.block or block_of(margin, prefixes.get(each.task, 0), len(each.ids))
        guided = how.order == "margin"
        small, tier, least, by_policy = rule.allow_small_margin, rule.tier, rule.min_documents, rules.policy is not None
        tasks.append(SequentialTask(each, margin, how.order_seed, block, how.max_documents, small, tier, guided, least, by_policy))
        for check in checks_of(rule, each.protocol, each):
            if (check.tier, check.word) == ("blocking", "cannot detect"):
                raise EvalkitError(f"{check.name}: {check.reason}")
    for task in tasks:
        if task.tier == "blocking":
            task.require_detectable()
    return tasks


def _take_turns(tasks: Sequence[SequentialTask], how: Sequential, ask: Ask) -> list[str]:
    """Give every task its outcome; returns notes on those that were not looked at. Raises Undecided."""
    why = f"undecided: --max-documents {how.max_documents}" if how.max_documents else "undecided"
    while todo := [task for task in tasks if task.outcome is None and task.due]:
        for task in todo:
            try:
                task.look(ask(task.pairs.task, task.due))
            except OutOfTime:
                return _stop(tasks, f"undecided: --max-minutes {how.max_minutes:g} are over")
            for each, p in zip(tasks, _adjusted(tasks), strict=True):
                if each.outcome is None and each.seen:
                    each.outcome = each.decide(p)
            if any(map(_blocks, tasks)):
                return _stop(tasks, "not decided, since the gate had failed by then,")
    return _stop(tasks, why)


def _stop(tasks: Sequence[SequentialTask], why: str) -> list[str]:
    failed = any(map(_blocks, tasks))
    unseen = [task for task in tasks if not task.seen]
    if not failed and (needed := [task for task in unseen if task.tier == "blocking"]):
        raise Undecided(f"{why} before the first look at {needed[0].pairs.protocol}: inconclusive; the answers so far are kept")
    for task, p in zip(tasks, _adjusted(tasks), strict=True):
        if task.outcome is None and task.seen:
            task.outcome = task.undecided(p, why)
    reason = "since the gate had failed by then" if failed else why
    return [f"{task.pairs.protocol}: not looked at, {reason}" for task in unseen]


def _blocks(task: SequentialTask) -> bool:
    """Has the gate failed by this task?"""
    return task.tier == "blocking" and task.outcome is not None and task.outcome.word == "fail"


def _adjusted(tasks: Sequence[SequentialTask]) -> list[float]:
    """Each task's p of a drop, adjusted over its tier."""
    return adjusted([task.p_drop for task in tasks], [task.tier for task in tasks])


def _gate(rules: Rules, tasks: Sequence[SequentialTask], base: RunAnswers, cand: RunAnswers, notes: Sequence[str]) -> Gate:
    names = [f"{run.model} ({run.path})" for run in (base, cand)]
    outcomes = tuple(task.outcome for task in tasks if task.outcome)
    pairs = [task.pairs for task in tasks]
    checks = [check for each in pairs for check in checks_of(rules.of((each.task, each.protocol)), each.protocol, each)]
    notes = tuple(dict.fromkeys([*rules.notes, *base.notes, *cand.notes, *notes]))
    return Gate(names[0], names[1], rules.config.margins, outcomes, notes, (*rules.checks, *checks), rules.policy)
