"""LmEvalTask: a task of lm-eval's, or a group of them, as a task of evalkit's.

lm-eval makes the prompts, filters the responses and scores them; the requests, their responses and the figures are evalkit's. Shots are
lm-eval's own: one generator a task, drawn in the documents' order, so that the documents of a `--limit` have those that `lm_eval --limit`
gives them. Under the protocol `stable`, each document's are drawn by its own seed, and are the same in any subset.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from evalkit.errors import DataError, EvalkitError, in_words
from evalkit.hashing import sha256_json
from evalkit.stats.estimate import Estimate
from evalkit.tasks.aggregated import Aggregated, AggregatedTask
from evalkit.tasks.lm_eval.build import build, seed_all
from evalkit.tasks.lm_eval.checks import TARGET_FIELDS, require_target
from evalkit.tasks.lm_eval.code import permit
from evalkit.tasks.lm_eval.figures import Aggregation, NoFigure, figure, group_figure, is_mean
from evalkit.tasks.lm_eval.index import index
from evalkit.tasks.lm_eval.instances import Asked, Conversation, asked
from evalkit.tasks.lm_eval.options import STABLE, LmEvalOptions
from evalkit.tasks.lm_eval.outcome import extracted_from, plain, target_of
from evalkit.tasks.lm_eval.protocol import protocol_of
from evalkit.tasks.lm_eval.templates import rendered_for
from evalkit.tasks.lm_eval.tree import Group, Leaf, Mean, members_of
from evalkit.tasks.requests import Request, Response
from evalkit.tasks.tables import DataSource, Table
from evalkit.tasks.task import Doc, Protocol, Sampling, Scored

UNFILTERED = "none"


@dataclass(slots=True)
class _Loaded:
    """One of lm-eval's tasks with its documents; the first `built` of them have their requests."""

    task: Any
    docs: Sequence[Any]
    built: int = 0
    asked: dict[int, Asked] = field(default_factory=dict)


class LmEvalTask(AggregatedTask):
    """One of lm-eval's tasks, or a group whose documents' groups are its tasks."""

    name = "lm_eval"
    protocols: ClassVar[Mapping[str, Protocol]] = {}  # made by `tasks`, of what is installed
    default_protocol = ""
    official_n = 0
    official_sha256 = ""

    def __init__(self, member: Leaf | Group, stable: bool, options: LmEvalOptions, sampling: Sampling | None):
        """Raises EvalkitError for a task that runs code without leave."""
        self.member, self.stable, self.options = member, stable, options
        self.leaves = _distinct(member)
        permit(member.name, self.leaves, options.allow_task_code)
        super().__init__(protocol_of(member, self.leaves, stable, options, sampling or Sampling()), sampling)
        self._loaded: dict[str, _Loaded] = {}
        self._scored: dict[str, tuple[Sequence[Response], Scored]] = {}

    @classmethod
    def tables(cls, source: DataSource) -> list[Table]:
        return []

    def load(self, source: DataSource) -> list[Doc]:
        docs: list[Doc] = []
        for leaf in self.leaves:
            with self._templates(leaf.name):
                task = build(leaf, source, self.options)
            seed_all()
            loaded = self._loaded[leaf.name] = _Loaded(task, list(task.eval_docs))
            rows = [plain(doc) for doc in loaded.docs]
            source.note(leaf.name, rows)
            if task.config.num_fewshot:
                source.note(f"{leaf.name} shots", [plain(doc) for doc in task.sampler.df])
            group = leaf.name if isinstance(self.member, Group) else "all"
            docs += [Doc(self._id(leaf.name, i), group, row if isinstance(row, dict) else {"doc": row}) for i, row in enumerate(rows)]
        for part in [self.member, *self.member.groups()] if isinstance(self.member, Group) else ():
            self._require_one_direction(part)
        self.protocol = replace(self.protocol, headline=self._headline())
        return docs

    def requests(self, doc: Doc) -> Sequence[Request]:
        leaf, number = self._place(doc)
        loaded = self._loaded[leaf]
        try:
            with self._templates(leaf):
                while number not in loaded.asked:
                    at = number if self.stable else loaded.built  # lm-eval's generator goes through the documents in order
                    loaded.asked[at] = self._asked(leaf, loaded, at)
                    loaded.built = at + 1
        except EvalkitError:
            raise
        except Exception as error:  # jinja, a sampler without enough rows, the task's own code
            raise DataError(f"lm_eval:{leaf}: no prompt can be made of its rows ({in_words(error)})") from None
        return loaded.asked[number].requests

    def score(self, doc: Doc, responses: Sequence[Response]) -> Scored:
        known = self._scored.get(doc.id)
        if known is None or known[0] != responses:
            known = self._scored[doc.id] = list(responses), self._score(doc, responses)
        return known[1]

    def aggregate(self, scored: Sequence[tuple[Doc, Scored]]) -> Aggregated:
        values: dict[str, dict[str, list[Any]]] = {leaf.name: defaultdict(list) for leaf in self.leaves}
        for doc, each in scored:
            for metric, value in {**each.metrics, **each.parts}.items():
                values[self._place(doc)[0]][metric].append(value)
        figures: dict[str, dict[str, Estimate]] = {}
        without: dict[str, str] = {}
        for name, by_metric in values.items():
            figures[name] = {}
            for metric, listed in by_metric.items():
                try:
                    figures[name][metric] = figure(metric.partition(",")[0], self._aggregation(name, metric), listed)
                except NoFigure as reason:
                    without[metric if isinstance(self.member, Leaf) else f"{name} {metric}"] = str(reason)
        if isinstance(self.member, Leaf):
            return Aggregated(figures[self.member.name], without=without)
        groups = [self.member, *self.member.groups()]
        found = {group.name: _means(group, figures, values) for group in groups}
        for group in groups:
            for mean in group.means:
                if not any(_fits(key, mean) for key in found[group.name]):
                    has = ", ".join(dict.fromkeys(key for leaf in group.leaves() for key in figures[leaf.name])) or "none"
                    without[f"{mean.metric} of {group.name}"] = f"none of its tasks has it; they have {has}"
        parts = {group.name: found[group.name] for group in groups[1:] if group.means}
        return Aggregated(found[self.member.name], parts, figures, without)

    def _asked(self, leaf: str, loaded: _Loaded, number: int) -> Asked:
        """A document's requests; lm-eval's generator of shots goes one step on."""
        task, options = loaded.task, self.options
        doc, doc_id = loaded.docs[number], self._id(leaf, number)
        if self.stable:
            task.set_fewshot_seed(int(sha256_json([leaf, STABLE, self.sampling.seed, number])[:8], 16))
        chat = {"apply_chat_template": options.apply_chat_template, "chat_template": Conversation if options.apply_chat_template else None}
        context = task.fewshot_context(
            doc,
            num_fewshot=task.config.num_fewshot,
            system_instruction=options.system_instruction,
            fewshot_as_multiturn=options.fewshot_as_multiturn,
            gen_prefix=task.doc_to_prefix(doc),
            **chat,
        )
        if not _is_made_by_code(task):  # code may draw, so it is called no more often than lm-eval does before it asks
            require_target(task, doc, f"lm_eval:{leaf}: document {number}")
        made = task.construct_requests(doc=doc, ctx=context, metadata=(leaf, number, task.config.repeats), **chat)
        return asked(made if isinstance(made, list) else [made], leaf, doc_id, self.sampling.seed, options.apply_chat_template)

    def _score(self, doc: Doc, responses: Sequence[Response]) -> Scored:
        leaf, number = self._place(doc)
        loaded = self._loaded[leaf]
        task, item, questions = loaded.task, loaded.docs[number], loaded.asked[number]
        questions.answer(responses)
        metrics: dict[str, Any] = {}
        by_filter: dict[str, list[Any]] = {}
        try:
            with self._templates(leaf):
                for each in task._filters:
                    each.apply(questions.instances)
                if _is_made_by_code(task):  # others were looked at before they were asked
                    require_target(task, item, f"lm_eval:{leaf}: document {number}")
                ordered = sorted(questions.instances, key=lambda instance: instance.idx)
                for name in ordered[0].filtered_resps:
                    filtered = [instance.filtered_resps[name] for instance in ordered]
                    found = task.process_results(deepcopy(item), filtered)
                    metrics |= {key_of(metric, name): plain(value, as_tuples=True) for metric, value in found.items()}
                    by_filter[name] = filtered
                chosen = self.protocol.headline.partition(",")[2] or UNFILTERED
                extracted, failed = extracted_from(task, item, by_filter.get(chosen, next(iter(by_filter.values()))))
                target = target_of(task, item)
        except EvalkitError:
            raise
        except Exception as error:  # the task's own code, or a metric that is not installed
            raise EvalkitError(f"lm_eval:{leaf}: document {number} can't be scored ({in_words(error)})") from error
        numbers = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float) and math.isfinite(value)}
        return Scored(numbers, extracted, target, failed, {key: value for key, value in metrics.items() if key not in numbers})

    def _templates(self, leaf: str) -> AbstractContextManager[None]:
        return rendered_for(leaf, self.options.allow_task_code)

    def is_mean(self, metric: str) -> bool:
        return all(is_mean(self._aggregation(leaf.name, metric)) for leaf in self.leaves)

    def is_lower_better(self, metric: str) -> bool:
        name = metric.partition(",")[0]
        return any(loaded.task.higher_is_better().get(name) is False for loaded in self._loaded.values())

    def _headline(self) -> str:
        """A group's first metric, or a task's: of several, the first mean of which more is better, by the first filter.

        Raises EvalkitError for a group of whose metrics its tasks have none.
        """
        if isinstance(self.member, Group):
            choices = [(mean.metric, filters[0]) for mean in self.member.means if (filters := self._filters(self.member, mean))]
            if not choices:
                wanted = ", ".join(key_of(mean.metric, f) for mean in self.member.means for f in mean.filters or [UNFILTERED])
                raise EvalkitError(
                    f"lm-eval's group {self.member.name} averages {wanted}, which none of its tasks has; they have "
                    f"{', '.join(self._declared())}: name one of these in its aggregate_metric_list"
                )
        else:
            first = self._loaded[self.leaves[0].name].task
            choices = [(name, first._filters[0].name) for name in [*first.aggregation()] or [""]]
        good = [each for each in choices if self.is_mean(each[0]) and not self.is_lower_better(each[0])]
        return key_of(*[*good, *choices][0])

    def _filters(self, group: Group, mean: Mean) -> list[str]:
        """The filters by which tasks of the group have the metric, or may have it: what a task's own code returns is known by then only."""
        tasks = [self._loaded[leaf.name].task for leaf in group.leaves()]
        having = [task for task in tasks if mean.metric in task.aggregation() or _own_results(task)]
        there = dict.fromkeys(each.name for task in having for each in task._filters)
        return [name for name in mean.filters or there if name in there]

    def _declared(self) -> list[str]:
        """The metrics that the tasks' files name."""
        tasks = [loaded.task for loaded in self._loaded.values()]
        return list(dict.fromkeys(key_of(metric, each.name) for task in tasks for metric in task.aggregation() for each in task._filters))

    def _require_one_direction(self, group: Group) -> None:
        """Raises EvalkitError for a metric of which less is better in one task of the group, and more in another."""
        for mean in group.means:
            lower: dict[bool, str] = {}
            for leaf in group.leaves():
                task = self._loaded[leaf.name].task
                if mean.metric in task.aggregation():
                    lower.setdefault(task.higher_is_better().get(mean.metric) is False, leaf.name)
            if len(lower) > 1:
                raise EvalkitError(
                    f"lm-eval's group {group.name} averages {mean.metric}, of which less is better in {lower[True]} and more in "
                    f"{lower[False]}; mend their higher_is_better, or leave one of them out"
                )

    def _aggregation(self, leaf: str, metric: str) -> Aggregation | None:
        found: Aggregation | None = self._loaded[leaf].task.aggregation().get(metric.partition(",")[0])
        return found

    def _id(self, leaf: str, number: int) -> str:
        return f"{leaf}/{number}" if isinstance(self.member, Group) else str(number)

    def _place(self, doc: Doc) -> tuple[str, int]:
        """The task that a document is of, and its number there."""
        leaf, _, number = doc.id.rpartition("/")
        return leaf or self.leaves[0].name, int(number)


def tasks(spec: str, options: LmEvalOptions, sampling: Sampling | None) -> list[LmEvalTask]:
    """The tasks of NAME or NAME@stable: one, or those of a tag or of a group without a figure. Raises EvalkitError."""
    name, _, protocol = spec.partition("@")
    if protocol not in ("", STABLE):
        raise EvalkitError(
            f"lm_eval:{name} has no protocol {protocol!r}; leave it out for lm-eval's shots, or give @{STABLE} for the same in any subset"
        )
    if not options.fewshot_as_multiturn and not options.apply_chat_template:
        raise EvalkitError("--no-fewshot-as-multiturn has no effect without --apply-chat-template; leave it out, or give both")
    if options.protocol_file is not None:
        raise EvalkitError(f"lm_eval:{name} takes no protocol from a file, since its own file says all; leave --protocol-file out")
    names = index(options.include_path)
    return [LmEvalTask(member, bool(protocol), options, sampling) for member in members_of(name, names)]


def key_of(metric: str, filter_name: str) -> str:
    """A metric's name in run.json: lm-eval's own key, METRIC,FILTER, without the filter that does nothing."""
    return metric if filter_name == UNFILTERED else f"{metric},{filter_name}"


def _own_results(task: Any) -> bool:
    """May its results have other names than its metrics? By code of the task's own, or by a metric that returns several values."""
    from lm_eval.api.task import ConfigurableTask

    several = task.OUTPUT_TYPE == "generate_until" and any(metric != "exact_match" for metric in task.aggregation())
    return several or callable(task.config.process_results) or type(task).process_results is not ConfigurableTask.process_results


def _is_made_by_code(task: Any) -> bool:
    """Does the task's own Python make its prompt, its target or its choices?"""
    return any(callable(getattr(task.config, each)) for each in TARGET_FIELDS)


def _name(leaf: Leaf) -> str:
    return leaf.name


def _distinct(member: Leaf | Group) -> list[Leaf]:
    """The tasks, each once. Raises EvalkitError for two of one name."""
    found: dict[str, Leaf] = {}
    for leaf in member.leaves():
        first = found.setdefault(leaf.name, leaf)
        if differ := [key for key in {**first.config, **leaf.config} if first.config.get(key) != leaf.config.get(key)]:
            one, other = (f"{each.config.get(differ[0], 'not set')!s:.40}" for each in (first, leaf))
            raise EvalkitError(
                f"lm-eval's group {member.name} has the task {leaf.name} twice, with {differ[0]}: {one} and {other}; "
                "leave one out, or give them names of their own"
            )
    return list(found.values())


def _means(
    group: Group, figures: Mapping[str, Mapping[str, Estimate]], values: Mapping[str, Mapping[str, Sequence[Any]]]
) -> dict[str, Estimate]:
    """A group's figures over the tasks that have the metric. lm-eval weighs a task by its documents, whatever metric they lack."""
    names = list(dict.fromkeys(map(_name, group.leaves())))
    found: dict[str, Estimate] = {}
    for mean in group.means:
        keys = dict.fromkeys(key for name in names for key in figures.get(name, {}) if _fits(key, mean))
        for key in keys:
            having = {name: (figures[name][key], values[name][key]) for name in names if key in figures.get(name, {})}
            found[key] = group_figure(having, mean.by_documents)
    return found


def _fits(key: str, mean: Mean) -> bool:
    metric, _, name = key.partition(",")
    return metric == mean.metric and (mean.filters is None or (name or UNFILTERED) in mean.filters)
