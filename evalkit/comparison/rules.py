"""Which rule each task of a gate is under: the policy's, or that of the command line's margins."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.comparison.answers import tasks_in
from evalkit.comparison.gate_bench import bench_checks
from evalkit.comparison.gate_config import GateConfig, Sequential
from evalkit.comparison.gate_outcome import Check
from evalkit.comparison.policy import Policy, Rule, Share, read_policy
from evalkit.errors import EvalkitError
from evalkit.record.pairs import Pairs

NAMES_SHOWN = 12  # of a run's tasks, in a message
SIDES = ("base", "candidate")
ROUNDING = 1e-9  # documents: a share of them is no whole number


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a gate. Of a policy: `tasks` by rule, those that the runs hold; `checks`, what follows of those that they lack, and of
    bench records; `notes`, on what is not gated.
    """

    config: GateConfig
    policy: Policy | None = None
    tasks: Sequence[tuple[Rule, tuple[str, ...]]] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        """The tasks to read; () for all that the runs hold."""
        return tuple(dict.fromkeys(task for _, tasks in self.tasks for task in tasks)) if self.policy else self.config.tasks

    def of(self, names: tuple[str, ...]) -> Rule:
        """The rule of a task that goes by these names (mmlu, mmlu@qwen). Raises EvalkitError where the command line's margins have none
        for it.
        """
        if self.policy is None:
            return Rule(task=names[0], margin=self.config.margins.of(names), allow_small_margin=self.config.allow_small_margin)
        return next(rule for rule, tasks in self.tasks if names[0] in tasks)


def rules_of(config: GateConfig) -> Rules:
    """Raises EvalkitError for a policy that cannot be read, or of which these runs hold nothing."""
    if config.policy is None:
        return Rules(config)
    policy = read_policy(config.policy)
    if config.sequential:
        _require_sequential(policy, config.sequential)
    held = {side: tasks_in(run) for side, run in zip(SIDES, config.runs, strict=False)}  # a candidate that is still to run has none yet
    tasks, checks, notes = list[tuple[Rule, tuple[str, ...]]](), list[Check](), list[str]()
    for rule in policy.rules:
        if not (lacking := [side for side, names in held.items() if rule.task not in names]):
            tasks.append((rule, held["base"][rule.task]))
            continue
        has = _listed([task for some in held[lacking[0]].values() for task in some])
        reason = f"{rule.task} is not in the {' nor in the '.join(lacking)}, which has {has}"
        if rule.missing == "error":
            raise EvalkitError(f'{rule.place}: {reason}; run it there, or set missing = "fail" or "ignore"')
        if rule.missing == "ignore":
            notes.append(f'{reason}: not gated, as missing = "ignore" says')
        else:
            checks.append(Check(f"{rule.task} {rule.metric or ''}".strip(), "fail", reason, rule.tier))
    _require_once(tasks)
    if not tasks and all(check.tier == "warning" for check in checks):
        reasons = "; ".join([*notes, *(check.reason for check in checks)])
        raise EvalkitError(f"{policy.path}: nothing is gated, since no task of it is in the runs: {reasons}; correct the tasks' names")
    covered = {task for _, some in tasks for task in some}
    if left_out := [task for some in held["base"].values() for task in some if task not in covered]:
        notes.append(f"in the base, and in no rule of the policy, so not gated: {_listed(left_out)}")
    timed, untimed = bench_checks(config, policy)
    return Rules(config, policy, tasks, (*checks, *timed), (*notes, *untimed))


def checks_of(rule: Rule, name: str, pairs: Pairs) -> list[Check]:
    """What a rule asks for beside the score. `name`: what the task is printed as. Raises EvalkitError where the samples do not tell."""
    n, checks = len(pairs.ids), []
    if n < rule.min_documents:
        reason = f"{n:,} of them, and the policy asks for at least {rule.min_documents:,}: run more"
        checks.append(Check(f"{name} documents", "cannot detect", reason, rule.tier))
    for count, bound in rule.allowed.items():
        base, cand = (sum(count in answer.problems for answer in answers) for answers in (pairs.base, pairs.cand))
        most = bound.share * n if isinstance(bound, Share) else bound
        limit = f"{bound.share:g} of {n:,} documents" if isinstance(bound, Share) else f"{bound:,}"
        word = "fail" if cand - base > most + ROUNDING else "pass"
        reason = f"{cand:,} documents, {base:,} in the base: {cand - base:+,}, where {limit} more are allowed"
        checks.append(Check(f"{name} {count}", word, reason, rule.tier))
    return checks


def _require_sequential(policy: Policy, how: Sequential) -> None:
    """Raises EvalkitError for what a gate that looks at some documents cannot decide."""
    for rule in policy.rules:
        keys = {"metric": rule.metric, "alpha": rule.alpha, "cluster": rule.cluster, "allowed": rule.allowed}
        if odd := [key for key, value in keys.items() if value]:
            raise EvalkitError(
                f"{rule.place}: {odd[0]} is not for a gate that stops by itself; leave it out, or finish the candidate's run and gate both "
                "runs without --sequential or --replay-order"
            )
        if how.max_documents is not None and how.max_documents < rule.min_documents:
            raise EvalkitError(
                f"{rule.place}: {rule.task} is not decided before min_documents = {rule.min_documents}, and --max-documents "
                f"{how.max_documents} stops before that; give at least {rule.min_documents}, or leave --max-documents out"
            )


def _require_once(tasks: Sequence[tuple[Rule, Sequence[str]]]) -> None:
    """Raises EvalkitError where two rules, by different names, are about the same."""
    seen: dict[tuple[str, str | None], Rule] = {}
    for rule, names in tasks:
        for name in names:
            if earlier := seen.get((name, rule.metric)):
                raise EvalkitError(f"{rule.place}: {name} has a rule already, as {earlier.task} at {earlier.place}; leave one of them out")
            seen[name, rule.metric] = rule


def _listed(names: Sequence[str]) -> str:
    some = list(dict.fromkeys(names))
    return ", ".join(some[:NAMES_SHOWN]) + (f" and {len(some) - NAMES_SHOWN} more" if len(some) > NAMES_SHOWN else "") or "no task"
