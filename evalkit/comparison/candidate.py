"""The candidate of a gate that stops by itself: a run that answers the base's documents in the gate's order, block by block."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from evalkit.comparison.sequential_task import Ask
from evalkit.config import RunConfig
from evalkit.errors import EvalkitError
from evalkit.hashing import sha256_json
from evalkit.progress import Reporter
from evalkit.record.pairs import Answer, RunAnswers, TaskAnswers, our_answer
from evalkit.record.read import is_ours, read_complete
from evalkit.record.sample import Sample
from evalkit.record.schema import TaskEntry, task_of
from evalkit.runner.plan import Plan
from evalkit.runner.run import prepare, run
from evalkit.runner.staged import run_command, staged
from evalkit.runner.workload import beginnings
from evalkit.tasks import JudgedTask, Scored
from evalkit.tasks.lm_eval.options import PREFIX
from evalkit.tasks.registry import spec_of


class Candidate:
    """`planned` holds what the candidate will be asked, as answers without a score, for `align` to hold against the base's.

    Raises EvalkitError where the base cannot be asked again, before the model is opened.
    """

    def __init__(self, base: RunAnswers, settings: Mapping[str, Any], cluster: str | None):
        if base.source != "evalkit" or not is_ours(base.path):
            whose = f"{base.source}'s" if base.source != "evalkit" else "an export"
            raise EvalkitError(f"{base.path} is {whose}, whose tasks are not asked here; give a BASE that evalkit run made, or both runs")
        record = read_complete(base.path)
        self.cluster = cluster
        self.metrics = {name: task.metric for name, task in base.tasks.items()}
        keys = dict.fromkeys(name.partition("/")[0] for name in base.tasks)  # a suite is compared set by set
        leave = bool(settings.get("allow_task_code"))
        specs = tuple(_spec(key, record.tasks[key], leave) for key in keys)
        leave = leave and any(spec.startswith(PREFIX) for spec in specs)  # a run's own files need none
        self.config = RunConfig(specs, limit=record.limit, seed=record.seed, **{**settings, "allow_task_code": leave})
        self.reporter = Reporter(self.config.quiet)
        self.prepared = prepare(self.config, self.reporter)
        self.plans: dict[str, Plan] = dict(zip(keys, self.prepared.plans.values(), strict=True))
        for key, plan in self.plans.items():
            if isinstance(plan.task, JudgedTask):
                raise EvalkitError(
                    f"{key} is scored by a judge once all is answered: finish and judge both runs, then evalkit gate BASE CAND"
                )
        tasks = {name: self._planned(name, task) for name, task in base.tasks.items()}
        self.planned = RunAnswers(str(self.config.folder), "evalkit", self.config.model_spec.name, tasks)

    def _planned(self, name: str, base: TaskAnswers) -> TaskAnswers:
        key, _, part = name.partition("/")
        plan = self.plans[key]
        answers = {
            doc.id: our_answer(Sample(doc, requests, (), Scored({base.metric: 0.0}, "", "")).row(), base.metric, self.cluster, key)
            for doc, requests in zip(plan.docs, plan.requests, strict=True)
            if not part or doc.group.partition(":")[0] == part
        }
        protocol = {"protocol": f"{task_of(name)}@{plan.task.protocol.name}", "settings": sha256_json(asdict(plan.task.protocol))}
        return TaskAnswers(
            name, protocol, base.metric, frozenset({plan.task.protocol.averaging}), answers, lower_is_better=base.lower_is_better
        )

    def prefixes_in_documents(self) -> dict[str, int]:
        """By task, how many documents take as much work as the beginnings that prompts share (shots, headers), by their characters."""
        return {
            name: beginnings(request for some in self.plans[name.partition("/")[0]].requests for request in some) for name in self.metrics
        }

    @contextmanager
    def answering(self, max_minutes: float | None) -> Iterator[Ask]:
        """The model, once a block needs it. A call raises OutOfTime at the first answer after `max_minutes` from now."""
        with staged(self.config, self.prepared.sandbox, max_minutes, self.reporter) as block:

            def ask(name: str, ids: Sequence[str]) -> Mapping[str, Answer]:
                key = name.partition("/")[0]
                samples = block(self.plans[key], ids)
                return {sample.doc.id: our_answer(sample.row(), self.metrics[name], self.cluster, key) for sample in samples}

            yield ask

    def finish(self, whole: bool) -> list[str]:
        """Once the gate is decided: the run's figures where every document was answered, else how to have them."""
        if whole:
            run(self.config, self.reporter)
            return []
        return [f"{self.config.folder} has the answers so far and stays incomplete: `{run_command(self.config)}` answers the rest"]


def _spec(key: str, entry: TaskEntry, allow_task_code: bool) -> str:
    """What --tasks calls a task of a finished run."""
    return spec_of(task_of(key), entry.protocol, entry.file, allow_task_code)
