"""The running score: a task's headline over the documents answered so far, shown beside the progress. No figure is taken from it."""

from collections.abc import Mapping, Sequence

from evalkit.tasks import AggregatedTask, Doc, Request, Response, Task


class RunningScore:
    """Scores each document once all its requests are answered; shows nothing for tasks whose responses alone do not decide."""

    def __init__(self, task: Task, docs: Sequence[Doc], requests: Sequence[Sequence[Request]]):
        self.task, self.docs, self.requests = task, docs, requests
        self.total, self.count = 0.0, 0
        self.waits: dict[Request, list[int]] = {}
        self.missing = [len(set(some)) for some in requests]
        for i, some in enumerate(requests):
            for request in set(some):
                self.waits.setdefault(request, []).append(i)

    def add(self, request: Request, known: Mapping[Request, Response]) -> str:
        """One more request is answered, as `known` holds; returns what to show, "" for nothing."""
        for i in self.waits[request]:
            self.missing[i] -= 1
            if not self.missing[i]:
                self._score(i, known)
        return self.text

    def _score(self, i: int, known: Mapping[Request, Response]) -> None:
        scored = self.task.score(self.docs[i], [known[request] for request in self.requests[i]])
        headline = self.task.protocol.headline
        value = scored.metrics.get(headline)
        # a corpus metric has no number per document, or one that is no share of anything
        if isinstance(value, int | float) and not (isinstance(self.task, AggregatedTask) and not self.task.is_mean(headline)):
            self.total += value
            self.count += 1

    @property
    def text(self) -> str:
        """ "acc 45.2", a share of right answers in percent."""
        if not self.count:
            return ""
        return f"{self.task.protocol.headline} {100 * self.total / self.count:.1f}"
