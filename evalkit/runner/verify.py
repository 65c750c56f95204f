"""`evalkit verify`: the same documents in several layouts, every log-probability and every generated token compared, bit for bit.

A layout is the way requests are put into passes: tokens per pass, answers at a time, their order, with or without shared prefixes. No
answer may depend on it. Conversations are verified on their first turn.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from evalkit.codec import encode
from evalkit.config import ModelSpec, RunConfig
from evalkit.data.sources import open_source
from evalkit.lm.base import LM, require_finite
from evalkit.record.schema import ModelInfo
from evalkit.record.write import model_info
from evalkit.runner.plan import Plan, plan
from evalkit.table import Table
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods, Request
from evalkit.tasks.registry import resolve_all

if TYPE_CHECKING:
    from evalkit.progress import Reporter

SCHEMA = 1
HEAD = (
    "layout",
    "tokens a pass",
    "answers at a time",
    "seconds",
    "times the first",
    "tokens computed",
    "largest difference",
    "documents differing",
)


@dataclass(frozen=True, slots=True)
class Layout:
    """`shuffle`: None for the given order, else the seed of another; `alone`: one request at a time, so that none shares a prefix; `parts`:
    so many calls, each with its share of every subject, between which prefixes are kept.
    """

    name: str
    token_budget: int = 2048
    max_running: int = 64
    shuffle: int | None = None
    alone: bool = False
    parts: int = 1


LAYOUTS = (
    Layout("as a run has it"),
    Layout("batch 32", 1024, 32),
    Layout("batch 8", 512, 8),
    Layout("batch 1", 256, 1),
    Layout("shuffled", shuffle=1),
    Layout("shuffled, batch 8", 512, 8, shuffle=2),
    Layout("in 4 parts, prefixes kept", parts=4),
    Layout("each alone, nothing shared", alone=True),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, with the ids of the generated tokens where the engine reports them."""

    response: Loglikelihoods | Generated
    tokens: tuple[int, ...] = ()


Answers = dict[Request, Answer]


@runtime_checkable
class LaidOut(Protocol):
    """An engine that can be told how to batch and that reports the tokens it generates: the native one."""

    def lay_out(self, token_budget: int, max_running: int, keep_prefixes: bool) -> None: ...

    def generate_tokens(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated, list[int]]]: ...


@dataclass(frozen=True, slots=True)
class LayoutOutcome:
    """One layout: its cost, and how far its answers are from the first layout's."""

    layout: Layout
    seconds: float
    computed: int  # tokens, 0 where the engine does not count
    largest: float  # difference of a log-probability
    differing: tuple[str, ...]  # "task document", of documents with any response that is not the same


@dataclass(frozen=True, slots=True)
class Report:
    """All layouts' outcomes, the first one's first."""

    outcomes: Sequence[LayoutOutcome]
    num_docs: int
    model: ModelInfo
    laid_out: bool  # could the engine be told how to batch?

    @property
    def is_invariant(self) -> bool:
        return not any(outcome.differing for outcome in self.outcomes)


def verify(config: RunConfig, reporter: Reporter, open_lm: Callable[[ModelSpec], LM] | None = None) -> Report:
    """Run every layout that the engine supports. `open_lm` opens the engine. Raises EvalkitError for bad input."""
    from evalkit import lm as back_ends

    tasks = resolve_all(config.tasks, config.sampling, config.lm_eval_options)
    plans = {name: plan(task, open_source(config.data_spec), config.limit) for name, task in tasks.items()}
    requests = list(dict.fromkeys(request for each in plans.values() for asked in each.requests for request in asked))
    lm = (open_lm or back_ends.open_lm)(config.model_spec)
    outcomes: list[LayoutOutcome] = []
    first: Answers = {}
    laid_out = isinstance(lm, LaidOut)
    for layout in LAYOUTS if laid_out else [each for each in LAYOUTS if _any_engine(each)]:
        if isinstance(lm, LaidOut):
            lm.lay_out(layout.token_budget, layout.max_running, keep_prefixes=not layout.alone)
        started, before = time.monotonic(), lm.tokens().computed
        with reporter.bar(layout.name, len(requests)) as advance:
            found = answers(lm, requests, layout, advance)
        seconds, computed = time.monotonic() - started, lm.tokens().computed - before
        first = first or found
        outcomes.append(LayoutOutcome(layout, seconds, computed, *_compare(plans, first, found)))
    return Report(outcomes, sum(len(each.docs) for each in plans.values()), model_info(config.model_spec.name, config.engine, lm), laid_out)


def _any_engine(layout: Layout) -> bool:
    """Does every engine support this layout? Only the native one can be told the tokens per pass and the answers at a time."""
    first = LAYOUTS[0]
    return (layout.token_budget, layout.max_running) == (first.token_budget, first.max_running)


def answers(lm: LM, requests: Sequence[Request], layout: Layout, advance: Callable[[int], Any] = lambda done: None) -> Answers:
    """Every request's answer in this layout."""
    order = list(requests)
    if layout.shuffle is not None:
        random.Random(layout.shuffle).shuffle(order)
    found: Answers = {}
    parts = len(order) if layout.alone else layout.parts
    for group in (order[i::parts] for i in range(parts)):
        for request, answer in _ask(lm, group):
            found[request] = answer
            advance(len(found))
    return found


def _ask(lm: LM, requests: Sequence[Request]) -> Iterator[tuple[Request, Answer]]:
    if texts := [request for request in requests if isinstance(request, Loglikelihood) and request.rolling]:
        for i, logprob in lm.loglikelihood_rolling([text.continuations[0] for text in texts]):
            whole = Loglikelihoods((logprob,), (False,))
            require_finite(texts[i], whole)
            yield texts[i], Answer(whole)
    if scored := [request for request in requests if isinstance(request, Loglikelihood) and not request.rolling]:
        for i, likelihoods in lm.loglikelihood(scored):
            require_finite(scored[i], likelihoods)
            yield scored[i], Answer(likelihoods)
    if asked := [request for request in requests if isinstance(request, Generate)]:
        if isinstance(lm, LaidOut):
            for i, generated, tokens in lm.generate_tokens(asked):
                yield asked[i], Answer(generated, tuple(tokens))
        else:
            for i, generated in lm.generate(asked):
                yield asked[i], Answer(generated)


def _compare(plans: dict[str, Plan], first: Answers, found: Answers) -> tuple[float, tuple[str, ...]]:
    """The largest difference of a log-probability, and the documents with any answer that is not the same."""
    largest = 0.0
    for request, answer in found.items():
        here, there = answer.response, first[request].response
        if isinstance(here, Loglikelihoods) and isinstance(there, Loglikelihoods):
            largest = max([largest, *(abs(a - b) for a, b in zip(here.logprobs, there.logprobs, strict=True))])
    differing = (
        f"{name} {doc.id}"
        for name, each in plans.items()
        for doc, asked in zip(each.docs, each.requests, strict=True)
        if any(found[request] != first[request] for request in asked)
    )
    return largest, tuple(differing)


def as_json(report: Report) -> Mapping[str, Any]:
    """The document of --json."""
    layouts = [
        {
            **encode(found.layout),
            "seconds": found.seconds,
            "tokens": {"computed": found.computed},
            "largest_difference": found.largest,
            "differing": found.differing,
        }
        for found in report.outcomes
    ]
    head = {"schema": SCHEMA, "kind": "verify", "invariant": report.is_invariant, "laid_out": report.laid_out, "n": report.num_docs}
    return head | {"model": encode(report.model), "layouts": layouts}


def show(config: RunConfig, report: Report) -> None:
    """Print the outcomes to standard output."""
    from evalkit.progress import console

    screen, first = console(), report.outcomes[0]
    title = f"{config.model_spec.name}, {', '.join(config.tasks)}: {report.num_docs:,} documents in {len(report.outcomes)} layouts"
    rows = []
    for found in report.outcomes:
        layout = found.layout
        rows.append(
            (
                layout.name,
                f"{layout.token_budget:,}" if report.laid_out else "its own",
                "1" if layout.alone else f"{layout.max_running}" if report.laid_out else "its own",
                f"{found.seconds:.1f}",
                f"{found.seconds / first.seconds:.2f}",
                f"{found.computed:,}" if found.computed else "-",
                "-" if found is first else f"{found.largest:.3g}",
                "-" if found is first else f"{len(found.differing):,}",
            )
        )
    Table(title, HEAD, rows).show(screen)
    for found in report.outcomes:
        if found.differing:
            some = ", ".join(found.differing[:5]) + (", .." if len(found.differing) > 5 else "")
            screen.print(f"{found.layout.name}: {len(found.differing):,} of {report.num_docs:,} documents differ: {some}", soft_wrap=True)
    how = report.model.how
    if report.is_invariant:
        text = f"invariant: every log-probability and every generated token is the same in all {len(report.outcomes)} layouts ({how})"
    else:
        text = f"not invariant: an answer of this model depends on what is asked beside it ({how})"
    screen.print(text, soft_wrap=True)
    if report.model.layout_invariant is False:
        text = f"no layout invariance is promised by {report.model.computed_by}: other documents or layouts may differ"
        screen.print(text, soft_wrap=True)
