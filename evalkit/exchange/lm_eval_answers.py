"""lm-eval's results as answers to compare: each figure is lm-eval's own, recomputed from the samples, or the run is refused.

A group is one task where its own figure is the mean over its leaves' documents ("micro", weight_by_size) or over its leaves ("macro").
Any other group is taken apart: its tasks are compared one by one, each by its own metric. A task is compared by its first metric that is
a number a document (or BLEU) and that lm-eval averages, or by the one that is asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evalkit.errors import EvalkitError, unknown
from evalkit.exchange.lm_eval_read import Leaf, Results, Row
from evalkit.record.figure import averagings, figure, require_figure
from evalkit.record.pairs import TAIL, Answer, RunAnswers, TaskAnswers, cluster_of, score_of

_MEANS = {"mean", "nanmean"}  # aggregations; a document without a number is refused in either
_NOT_A_MEAN = {"perplexity"}  # metrics whose documents have numbers that lm-eval does not average, whatever the configuration says
_SHOWN = 12  # names of tasks in a message


@dataclass(frozen=True, slots=True)
class LmEvalTask:
    """What is compared as one task: a group or a single task, and the leaves that it is made of."""

    answers: TaskAnswers
    leaves: Sequence[Leaf]

    @property
    def protocol(self) -> str:
        """The protocol of our export, or else a name that no published figure of ours is under."""
        return self.answers.protocol.get("protocol", "").partition("@")[2] or f"lm-eval's {self.answers.name}"

    @property
    def n_total(self) -> int | None:
        """How many documents the benchmark has; None where lm-eval does not say so of every leaf."""
        totals = [leaf.n_total for leaf in self.leaves if leaf.n_total is not None]
        return sum(totals) if len(totals) == len(self.leaves) else None


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
                    yield self._task(self.results.leaves[name], self.metric)
                except EvalkitError as error:
                    refused.append(error)
            elif name not in self.results.groups:
                refused.append(EvalkitError(f"{name:.80} is named by a group, and has no samples; run lm-eval with --log_samples"))
            return
        stated = [key for key in self.results.figures.get(name, {}) if self._asked(key)]
        for key in stated:
            if group := self._group(name, key):
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
            tasks = [self._task(leaf, key).answers for leaf in leaves]
        except EvalkitError:  # said where the leaf is read by itself
            return None
        if len({task.lower_is_better for task in tasks}) > 1 or len({leaf.evalkit_protocol for leaf in leaves}) > 1:
            return None
        joined = {doc: answer for task in tasks for doc, answer in task.answers.items()}
        protocol = {setting: value for task in tasks for setting, value in task.protocol.items()}
        if "protocol" in protocol:
            protocol["protocol"] = f"{name}@{leaves[0].evalkit_protocol}"
        group = replace(tasks[0], name=name, protocol=protocol, answers=joined)
        fitting = averagings(group, self.results.figures[name][key])
        return LmEvalTask(replace(group, averagings=fitting), leaves) if fitting else None

    def _leaves(self, name: str, above: tuple[str, ...]) -> list[str]:
        """The leaves below a group, each once; a group that names itself has a leaf of its own name."""
        children = () if name in above else self.results.groups.get(name, ())
        found = [leaf for child in children for leaf in self._leaves(child, (*above, name))]
        return list(dict.fromkeys(found or ([name] if name in self.results.leaves else [])))

    def _task(self, leaf: Leaf, metric: str | None) -> LmEvalTask:
        """One leaf by itself. Raises EvalkitError where its samples are not all there, or do not give its own figure."""
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
        key = f"{name},{chosen}"
        if lacking := n - sum(name in row.metrics for row in rows[chosen].values()):
            everywhere = [pair for pair in _pairs(rows) if sum(pair[0] in row.metrics for row in rows[pair[1]].values()) == n]
            fix = f"pass --metric {','.join(everywhere[0])}" if everywhere else "only a metric that all documents have can be compared"
            raise EvalkitError(f"{leaf.file}: {lacking:,} of {n:,} documents have no {key}; {fix}")
        answers = {f"{leaf.name}/{doc}": _answer(row, leaf, name, self.cluster) for doc, row in rows[chosen].items()}
        protocol = leaf.protocol if not leaf.evalkit_protocol else {**leaf.protocol, "protocol": f"{leaf.name}@{leaf.evalkit_protocol}"}
        task = TaskAnswers(leaf.name, protocol, key, frozenset({"micro"}), answers, lower_is_better=name in leaf.lower_is_better)
        stated = self.results.figures.get(leaf.name, {}).get(key)
        # lm-eval states BLEU in points, our export in 0..1
        points = 100 if figure(task).is_bleu and not leaf.evalkit_protocol else 1
        require_figure(task, stated, str(leaf.file), points)
        return LmEvalTask(task, [leaf])

    def _choose(self, leaf: Leaf, rows: Mapping[str, Mapping[str, Row]], metric: str | None) -> tuple[str, str]:
        """(metric, filter): the one that is asked for, or the first whose documents have numbers that lm-eval averages."""
        pairs = _pairs(rows)
        if metric is not None:
            if fitting := next((pair for pair in pairs if metric in (pair[0], ",".join(pair))), None):
                return fitting
            raise unknown(f"metric of {leaf.name}", metric, [",".join(pair) for pair in pairs])
        for name, chosen in pairs:
            averaged = leaf.aggregations.get(name, "mean") in _MEANS and name not in _NOT_A_MEAN
            if (averaged or name == "bleu") and any(_is_score(row, name) for row in rows[chosen].values()):
                return name, chosen
        offered = ", ".join(",".join(pair) for pair in pairs) or "none"
        raise EvalkitError(f"{leaf.file} has no metric that lm-eval averages over documents, nor BLEU (metrics: {offered})")


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
