"""What a task will ask: its documents and their requests, before any model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.data.sources import FolderSource, HubSource, documents
from evalkit.record.schema import DataInfo
from evalkit.tasks import Doc, Request, SuiteTask, Task


@dataclass(frozen=True, slots=True)
class Plan:
    """One task with the documents to run, before any model is loaded."""

    task: Task
    docs: Sequence[Doc]
    requests: Sequence[Sequence[Request]]  # the first requests of each document
    n_total: int
    data: DataInfo


def plan(task: Task, source: FolderSource | HubSource, limit: int | None) -> Plan:
    """Load a task's documents and make their requests. Raises DataError."""
    if isinstance(task, SuiteTask):
        from evalkit.stats import suite  # scipy and sacrebleu: seconds, for suites alone

        suite.require(task.cells())
    docs = documents(task, source)
    chosen = spread(docs, limit, each_group=isinstance(task, SuiteTask))
    return Plan(task, chosen, [task.requests(doc) for doc in chosen], len(docs), source.describe(type(task)))


def spread(docs: Sequence[Doc], limit: int | None, each_group: bool = False) -> Sequence[Doc]:
    """At most `limit` documents, spread evenly over the groups, the first ones of each; always the same ones for one limit.

    With `each_group` at most `limit` of each group, spread evenly over it, since a group may have ordered parts.
    """
    if limit is None or limit >= len(docs):
        return docs
    groups: dict[str, list[int]] = {}
    for i, doc in enumerate(docs):
        groups.setdefault(doc.group, []).append(i)
    ordered = list(groups.values())
    if each_group:
        return [docs[i] for members in ordered for i in (members[k * len(members) // limit] for k in range(min(limit, len(members))))]
    if limit < len(ordered):  # fewer documents than groups: one each of evenly spread groups
        return [docs[ordered[k * len(ordered) // limit][0]] for k in range(limit)]
    rounds = (members[depth] for depth in range(max(map(len, ordered))) for members in ordered if depth < len(members))
    return [docs[i] for i in sorted(next(rounds) for _ in range(limit))]
