"""lm-eval's results as answers to compare: each figure is lm-eval's own, recomputed from the samples, or the run is refused.

A group is one task where its own figure is the mean over its leaves' documents ("micro", weight_by_size) or over its leaves ("macro").
Any other group is taken apart: its tasks are compared one by one, each by its own metric. A task is compared by its first metric that is
a number a document (or BLEU) and that lm-eval averages, or by the one that is asked for. Where no metric is of all documents (RULER
has one for each length), those that share the documents out are compared side by side.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evalkit.errors import EvalkitError, unknown
from evalkit.exchange.lm_eval_read import Leaf, Results, Row
from evalkit.exchange.stated import bounds_of, require_error, require_within
from evalkit.record.figure import agrees, averagings, estimate, figure, require_figure
from evalkit.record.pairs import TAIL, Answer, RunAnswers, TaskAnswers, cluster_of, score_of

_MEANS = {"mean", "nanmean"}  # aggregations; a document without a number is refused in either
_OWN_FUNCTION = ("def ", "<function ")  # an aggregation of the task's own, of which lm-eval writes the source
_NOT_A_MEAN = {"perplexity"}  # metrics whose documents have numbers that lm-eval does not average, whatever the configuration says
_SHOWN = 12  # names of tasks in a message


@dataclass(frozen=True, slots=True)
class LmEvalTask:
    """What is compared as one task: a group or a single task, or one of the metrics that share its documents out, and its leaves.

    `name`: as lm-eval's results have it; `left_out`: how many of its documents do not have the metric.
    """

    answers: TaskAnswers
    leaves: Sequence[Leaf]
    name: str
    left_out: int = 0

    @property
    def protocol(self) -> str:
        """The protocol of our export, or else a name that no published figure of ours is under."""
        return self.answers.protocol.get("protocol", "").partition("@")[2] or f"lm-eval's {self.answers.name}"

    @property
    def n_total(self) -> int | None:
        """How many documents the benchmark has; None where lm-eval does not say so of every leaf, or of the metric."""
        totals = [leaf.n_total for leaf in self.leaves if leaf.n_total is not None]
        return sum(totals) if len(totals) == len(self.leaves) and not self.left_out else None


def answers_of(
    results: Results, path: str, wanted: Sequence[str] = (), metric: str | None = None, cluster: str | None = None
) -> RunAnswers:
    """`metric`: acc_norm, or with its filter: exact_match,strict-match; `cluster`: the field of a document that names its source.

    Raises EvalkitError for an unknown task or metric, and where samples are missing or do not give the file's own figures.
    """
    tasks, notes = read_tasks(results, wanted, metric, cluster)
    return RunAnswers(path, "lm-eval", results.model, {task.answers.name: task.answers for task in tasks}, (*results.notes, *notes))


def read_tasks(
    results: Results, wanted: Sequence[str] = (), metric: str | None = None, cluster: str | None = None
) -> tuple[list[LmEvalTask], list[str]]:
    """(tasks, notes on groups that were taken apart). `wanted`: groups or tasks, all by default. Raises EvalkitError as `answers_of`."""
    known = {*results.leaves, *results.groups}
    if odd := [name for name in wanted if name not in known]:
        raise unknown(f"task in {results.folder}:", odd[0], known)
    children = {child for group, names in results.groups.items() for child in names if child != group}
    tops = list(wanted) or [name for name in dict.fromkeys([*results.groups, *results.leaves]) if name not in children]
    reader = _Reader(results, metric, cluster)
    found: dict[str, LmEvalTask] = {}
    notes: list[str] = []
    refused: list[EvalkitError] = []
    for task in (task for top in tops for task in reader.expand(top, (), notes, refused)):
        found.setdefault(task.answers.name, task)
    if refused and not wanted and found:
        raise EvalkitError(f"{refused[0]}; to compare the others, pass --tasks {_listed([*found])}")
    if refused:
        raise refused[0]
    if not found:
        raise EvalkitError(f"{results.folder}: its groups name each other, so none is the whole; pass --tasks {_listed(sorted(known))}")
    return list(found.values()), notes


def _listed(names: Sequence[str]) -> str:
    return ",".join(names[:_SHOWN]) + (",.." if len(names) > _SHOWN else "")


@dataclass(frozen=True, slots=True)
class _Reader:
    results: Results
    metric: str | None
    cluster: str | None

    def expand(self, name: str, above: tuple[str, ...], notes: list[str], refused: list[EvalkitError]) -> Iterator[LmEvalTask]:
        """The task, or the group if its figure can be recomputed, or else what the group is made of."""
        children = [] if name in above else [child for child in self.results.groups.get(name, ()) if child not in above]
        if not children:
            if name in self.results.leaves:
                try:
                    yield from self._tasks(self.results.leaves[name], self.metric, notes)
                except EvalkitError as error:
                    refused.append(error)
            elif name not in self.results.groups:
                refused.append(EvalkitError(f"{name:.80} is named by a group, and has no samples; run lm-eval with --log_samples"))
            return
        stated = [key for key in self.results.figures.get(name, {}) if self._asked(key)]
        for key in stated:
            if group := self._group(name, key):
                if group.left_out:
                    notes.append(f"{name}: {key} leaves out {group.left_out:,} of its tasks' documents, as lm-eval's figure does")
                yield group
                return
        if stated:
            notes.append(f"{name}: its own figure is no mean over all of its tasks; they are compared one by one")
        for child in children:
            yield from self.expand(child, (*above, name), notes, refused)

    def _asked(self, key: str) -> bool:
        """Is this key of a group's figures a metric that may be compared?"""
        metric, comma, _ = key.partition(",")
        return bool(comma) and not metric.endswith("_stderr") and self.metric in (None, metric, key)

    def _group(self, name: str, key: str) -> LmEvalTask | None:
        """A group by one of its own metrics; None where that is not in all leaves, or is no mean of them."""
        leaves = [self.results.leaves[leaf] for leaf in self._leaves(name, ())]
        if not leaves:
            return None
        try:
            parts = [part for leaf in leaves for part in self._tasks(leaf, key, [])]
        except EvalkitError:  # said where the leaf is read by itself
            return None
        left_out = sum(part.left_out for part in parts)
        if left_out and self.metric is None:
            return None
        tasks = [part.answers for part in parts]
        if len({task.lower_is_better for task in tasks}) > 1 or len({leaf.evalkit_protocol for leaf in leaves}) > 1:
            return None
        joined = {doc: answer for task in tasks for doc, answer in task.answers.items()}
        protocol = {setting: value for task in tasks for setting, value in task.protocol.items()}
        if "protocol" in protocol:
            protocol["protocol"] = f"{name}@{leaves[0].evalkit_protocol}"
        group = replace(tasks[0], name=name, protocol=protocol, answers=joined)
        fitting = averagings(group, self.results.figures[name][key])
        return LmEvalTask(replace(group, averagings=fitting), leaves, name, left_out) if fitting else None

    def _leaves(self, name: str, above: tuple[str, ...]) -> list[str]:
        """The leaves below a group, each once; a group that names itself has a leaf of its own name."""
        children = () if name in above else self.results.groups.get(name, ())
        found = [leaf for child in children for leaf in self._leaves(child, (*above, name))]
        return list(dict.fromkeys(found or ([name] if name in self.results.leaves else [])))

    def _tasks(self, leaf: Leaf, metric: str | None, notes: list[str]) -> list[LmEvalTask]:
        """One leaf by itself, by one metric, or by several that share its documents out.

        Raises EvalkitError where its samples are not all there, or do not give its own figure.
        """
        rows: dict[str, dict[str, Row]] = {}  # by filter and document
        for row in leaf.rows():
            if row.doc_id in (of_filter := rows.setdefault(row.filter, {})):
                raise EvalkitError(f"{leaf.file}: document {row.doc_id} is there twice under filter {row.filter!r}; run lm-eval again")
            of_filter[row.doc_id] = row
        n = len({doc for of_filter in rows.values() for doc in of_filter})
        if leaf.n is not None and n != leaf.n:
            # lm-eval does not count documents that have no metric at all
            why = "run lm-eval again" if n < leaf.n else "only a metric that all documents have can be compared"
            raise EvalkitError(f"{leaf.file} holds {n:,} documents of {leaf.name}, and its results are of {leaf.n:,}; {why}")
        name, chosen = self._choose(leaf, rows, metric)
        its = self._rows_of(leaf, rows, name, chosen)
        key = f"{name},{chosen}"
        if len(its) == n:
            return [self._task(leaf, leaf.name, name, chosen, its)]
        if metric is not None and its:
            notes.append(f"{leaf.name}: {key} is of {len(its):,} of its {n:,} documents; lm-eval's figure leaves the others out too")
            return [self._task(leaf, leaf.name, name, chosen, its, n - len(its))]
        everywhere = [pair for pair in _pairs(rows) if len(self._rows_of(leaf, rows, *pair)) == n]
        parts, shared_out = {name: its}, set(its)
        for other in (each for each, of_filter in _pairs(rows) if of_filter == chosen and each != name and self._is_mean(leaf, each)):
            if (more := self._rows_of(leaf, rows, other, chosen)) and shared_out.isdisjoint(more):
                parts[other] = more
                shared_out.update(more)
        if everywhere or len(shared_out) < n:
            fix = f"pass --metric {','.join(everywhere[0])}" if everywhere else "only a metric that all documents have can be compared"
            raise EvalkitError(f"{leaf.file}: {n - len(its):,} of {n:,} documents have no {key}; {fix}")
        notes.append(f"{leaf.name}: no metric is of all its {n:,} documents; each is compared over its own")
        return [self._task(leaf, f"{leaf.name}/{part}", part, chosen, some, n - len(some)) for part, some in parts.items()]

    def _task(self, leaf: Leaf, name: str, metric: str, chosen: str, rows: Mapping[str, Row], left_out: int = 0) -> LmEvalTask:
        """One metric over these documents. Raises EvalkitError where they do not give lm-eval's own figure."""
        key = f"{metric},{chosen}"
        answers = {f"{leaf.name}/{doc}": _answer(row, leaf, metric, self.cluster) for doc, row in rows.items()}
        protocol = leaf.protocol if not leaf.evalkit_protocol else {**leaf.protocol, "protocol": f"{leaf.name}@{leaf.evalkit_protocol}"}
        task = TaskAnswers(name, protocol, key, frozenset({"micro"}), answers, lower_is_better=metric in leaf.lower_is_better)
        # lm-eval states BLEU in points, our export in 0..1
        points = 100 if figure(task).is_bleu and not leaf.evalkit_protocol else 1
        require_figure(task, self._stated(leaf, key), str(leaf.file), points)
        for doc in rows:
            require_within(answers[f"{leaf.name}/{doc}"].score, bounds_of(metric), f"{leaf.file}: document {doc}: {metric}")
        stderr = self._stated(leaf, f"{metric}_stderr,{chosen}")
        if leaf.n is None and leaf.aggregations.get(metric) == "mean":
            self._require_error(task, leaf, stderr)
        elif (mean := estimate(task)) is not None:
            require_error(stderr, mean, f"{leaf.file}: {key} of {name}")
        return LmEvalTask(task, [leaf], leaf.name, left_out)

    def _require_error(self, task: TaskAnswers, leaf: Leaf, stated: Any) -> None:
        """Before 0.4.3 lm-eval did not say of how many documents a figure is: its standard error does."""
        mean = estimate(task)
        if mean is not None and isinstance(stated, float) and not agrees(stated, mean.stderr):
            found = f"{mean.stderr:.10g} over the {mean.n:,} samples, and the file says {stated:.10g}"
            raise EvalkitError(f"not comparable: {leaf.file}: the standard error of {task.metric} is {found}; run lm-eval again")

    def _stated(self, leaf: Leaf, key: str) -> Any:
        return self.results.figures.get(leaf.name, {}).get(key)

    def _rows_of(self, leaf: Leaf, rows: Mapping[str, Mapping[str, Row]], metric: str, chosen: str) -> dict[str, Row]:
        """The documents that have a metric: without those that are marked as having none, where lm-eval's figure leaves them out too."""
        have = {doc: row for doc, row in rows[chosen].items() if metric in row.metrics}
        unmarked = {doc: row for doc, row in have.items() if not _is_mark(row.metrics[metric])}
        stated = self._stated(leaf, f"{metric},{chosen}")
        if len(unmarked) == len(have) or (not unmarked and not _is_mark(stated)):
            return have
        numbers = [float(row.metrics[metric]) for row in unmarked.values() if _is_score(row, metric)]
        is_their_mean = len(numbers) == len(unmarked) and (not numbers or agrees(stated, math.fsum(numbers) / len(numbers)))
        return unmarked if is_their_mean else have

    def _is_mean(self, leaf: Leaf, metric: str) -> bool:
        """Does lm-eval average this metric? A task's own function may do so; whether it does, its figure tells."""
        aggregation = leaf.aggregations.get(metric, "mean")
        return (aggregation in _MEANS or aggregation.startswith(_OWN_FUNCTION)) and metric not in _NOT_A_MEAN

    def _choose(self, leaf: Leaf, rows: Mapping[str, Mapping[str, Row]], metric: str | None) -> tuple[str, str]:
        """(metric, filter): the one that is asked for, or the first whose documents have numbers that lm-eval averages."""
        pairs = _pairs(rows)
        if metric is not None:
            if fitting := next((pair for pair in pairs if metric in (pair[0], ",".join(pair))), None):
                return fitting
            raise unknown(f"metric of {leaf.name}", metric, [",".join(pair) for pair in pairs])
        for name, chosen in pairs:
            scores = [row.metrics[name] for row in self._rows_of(leaf, rows, name, chosen).values() if _is_score(row, name)]
            if leaf.aggregations.get(name, "").startswith(_OWN_FUNCTION):
                is_mean = scores and agrees(self._stated(leaf, f"{name},{chosen}"), math.fsum(map(float, scores)) / len(scores))
            else:
                is_mean = scores and (self._is_mean(leaf, name) or name == "bleu")
            if is_mean:
                return name, chosen
        offered = ", ".join(",".join(pair) for pair in pairs) or "none"
        raise EvalkitError(f"{leaf.file} has no metric that lm-eval averages over documents, nor BLEU (metrics: {offered})")


def _is_mark(value: Any) -> bool:
    """What lm-eval's tasks write where a metric is not of a document: -1 (RULER's lengths), and NaN for `nanmean`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and (value == -1 or value != value)


def _pairs(rows: Mapping[str, Mapping[str, Row]]) -> list[tuple[str, str]]:
    """All (metric, filter) of a samples file, in its order."""
    return list(dict.fromkeys((name, chosen) for chosen, of_filter in rows.items() for row in of_filter.values() for name in row.metrics))


def _is_score(row: Row, metric: str) -> bool:
    try:
        score_of(row.metrics.get(metric), metric)
    except EvalkitError:
        return False
    return True


def _answer(row: Row, leaf: Leaf, metric: str, cluster: str | None) -> Answer:
    try:
        score = score_of(row.metrics[metric], metric)
    except EvalkitError as error:
        raise EvalkitError(f"{leaf.file}: document {row.doc_id}: {error}") from None
    logprobs = [logprob for logprob, _ in row.logprobs]
    if logprobs:  # the likeliest continuation stands for the answer
        likeliest = row.asked[min(max(range(len(logprobs)), key=logprobs.__getitem__), len(row.asked) - 1)]
        shown = str(likeliest[1]) if len(likeliest) > 1 else ""
    else:
        shown = " ".join(row.filtered)
    return Answer(
        row.doc_hash,
        row.prompt_hash,
        leaf.name,
        cluster_of(row.doc if isinstance(row.doc, dict) else {}, cluster) if cluster else "",
        score,
        str(row.asked[0][0])[-TAIL:],
        row.target,
        shown,
        (*logprobs, *row.texts),
    )
