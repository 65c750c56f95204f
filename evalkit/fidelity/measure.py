"""A copy beside its reference: both models in memory, the same tokens through both, position by position.

No logits are kept: an engine holds its hidden states for a batch of requests, and both give the logits of one position at a time.
The reference runs again for each copy, so that at no time more than two models are in memory, and nothing is stored on disk.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.fidelity.answers import compare_answers
from evalkit.fidelity.divergence import Positions
from evalkit.fidelity.record import Speed, TaskFidelity
from evalkit.files import shortened
from evalkit.lm.base import LM, require_finite
from evalkit.lm.distributions import GivesDistributions, NextToken, TokenRequest
from evalkit.progress import Reporter
from evalkit.record.sample import Sample
from evalkit.runner.plan import Plan
from evalkit.runner.run import score_docs
from evalkit.runner.workload import num_shared
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods, Request, Response

BATCH = 128  # requests that are run together, so that prompts of one subject share their beginning
BATCH_POSITIONS = 4096  # at most, but for a single request: an engine holds a hidden state for each


@dataclass(slots=True)
class Model:
    """An opened model, what tables call it, and how fast it was. `engine` is `lm` again, by what it offers here."""

    name: str
    spec: ModelSpec
    lm: LM
    engine: GivesDistributions
    speed: Speed = field(default_factory=Speed)

    @property
    def folder_name(self) -> str:
        """A name for its folder, no other copy's: `name` may be a path, which would lead out of --out, or "reference"."""
        return shortened(f"{Path(self.name).name}-{self.lm.fingerprint.rpartition(':')[2][:12]}")

    def prepare(self, reporter: Reporter) -> None:
        """Read the weights, unless they are read already."""
        if not self.lm.ready:
            with reporter.bar(f"loading {self.name}", 100, counted=False) as advance:
                self.lm.prepare(lambda done, total: advance(done * 100 // total))


@dataclass(slots=True)
class Asked:
    """One task: its plan with greedy requests, the token ids of each distinct request, and the reference's answers once they are known."""

    name: str
    plan: Plan
    tokens: Mapping[Request, TokenRequest]
    answers: dict[Generate, tuple[Generated, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def generates(self) -> list[Generate]:
        return [request for request in self.tokens if isinstance(request, Generate)]

    @property
    def scored(self) -> list[tuple[Request, TokenRequest]]:
        """What both models score: options, and the reference's answers, where they have a token."""
        answered = [(request, self._with_answer(request, tokens)) for request, tokens in self.tokens.items()]
        return [(request, tokens) for request, tokens in answered if tokens.continuations]

    def _with_answer(self, request: Request, tokens: TokenRequest) -> TokenRequest:
        if isinstance(request, Loglikelihood):
            return tokens
        _, answer = self.answers[request]
        return replace(tokens, continuations=(answer,) if answer else ())

    @property
    def owners(self) -> dict[Request, int]:
        """The first document that asks each request, by its number."""
        found: dict[Request, int] = {}
        for number, requests in enumerate(self.plan.requests):
            for request in requests:
                found.setdefault(request, number)
        return found


def asked(name: str, plan: Plan, reference: Model) -> Asked:
    """The task in the reference's tokens. Answers are greedy, whatever the protocol's temperature."""
    greedy = [[replace(each, temperature=0.0) if isinstance(each, Generate) else each for each in some] for some in plan.requests]
    distinct = list(dict.fromkeys(request for some in greedy for request in some))
    return Asked(name, replace(plan, requests=greedy), {request: reference.engine.token_request(request) for request in distinct})


def require_same_tokens(task: Asked, reference: Model, copy: Model) -> None:
    """Raises EvalkitError where the copy makes other token ids of a prompt than the reference."""
    owners = task.owners
    for request, ours in task.tokens.items():
        try:
            theirs = copy.engine.token_request(request)
        except EvalkitError as error:
            raise EvalkitError(f"{copy.name}: {error}") from None
        if ours == theirs:
            continue
        doc = task.plan.docs[owners[request]].id
        if ours.truncated != theirs.truncated:
            why = f"its prompt is cut by {ours.truncated} and by {theirs.truncated} tokens, as their longest sequences differ"
        else:
            one, other = ((*each.context, *(token for some in each.continuations for token in some)) for each in (ours, theirs))
            at = num_shared(one, other)
            why = f"their tokens differ from token {at} on: {list(one[at : at + 3])} and {list(other[at : at + 3])}"
        raise EvalkitError(
            f"{copy.name} is no copy of {reference.name}: {task.name} document {doc}: {why}; a copy has the reference's tokenizer and "
            "chat template (for scores of different models: evalkit run, then evalkit compare)"
        )


def answer(task: Asked, model: Model, reporter: Reporter) -> dict[Generate, tuple[Generated, tuple[int, ...]]]:
    """The model's own answers to the prompts that ask for one, with their tokens."""
    requests = task.generates
    found: dict[Generate, tuple[Generated, tuple[int, ...]]] = {}
    if requests:
        start = time.perf_counter()
        with reporter.bar(f"{task.name}: answers of {model.name}", len(requests)) as advance:
            for i, generated, tokens in model.engine.generate_tokens(requests):
                found[requests[i]] = generated, tuple(tokens)
                advance(len(found))
        seconds, count = time.perf_counter() - start, sum(len(tokens) for _, tokens in found.values())
        model.speed += Speed(generated_tokens=count, generated_seconds=seconds)
    return found


def measure(task: Asked, reference: Model, copy: Model, folder: Path, allow_unsafe_code: bool, reporter: Reporter) -> TaskFidelity:
    """One copy on one task, whose reference answers are known. `folder`: where programs are kept, if the answers are any."""
    own = answer(task, copy, reporter)
    docs, owners, scored = task.plan.docs, task.owners, task.scored
    positions = Positions([doc.cluster or doc.id for doc in docs])
    responses: list[dict[Request, Response]] = [
        {request: generated for request, (generated, _) in answers.items()} for answers in (task.answers, own)
    ]
    with reporter.bar(f"{task.name}: {copy.name}", len(scored), status=_Computed((reference.lm, copy.lm))) as advance:
        for done, (request, tokens, pair) in enumerate(_lockstep(scored, reference, copy, positions, owners), start=1):
            if isinstance(request, Loglikelihood):
                for known, logprobs in zip(responses, pair, strict=True):
                    known[request] = logprobs.response(tokens)
                    require_finite(request, known[request])
            advance(done)
    if not positions.kl:
        raise EvalkitError(f"{task.name}: {reference.name} answers every document with no token, so there is nothing to compare")
    samples = [
        _samples(task.plan, known, folder / part, allow_unsafe_code, reporter)
        for known, part in zip(responses, ("reference", copy.folder_name), strict=True)
    ]
    with_tokens = {owners[request] for request, _ in scored}
    return TaskFidelity(
        divergence=positions.divergence([doc.id for doc in docs]),
        perplexity=positions.perplexity(),
        padding=positions.padding,
        answers=compare_answers(task.name, task.plan, *samples),
        empty=len(set(owners.values()) - with_tokens),
    )


def _samples(plan: Plan, known: Mapping[Request, Response], folder: Path, allow_unsafe_code: bool, reporter: Reporter) -> list[Sample]:
    responses = [[known[request] for request in requests] for requests in plan.requests]
    return score_docs(plan.task, plan.docs, plan.requests, responses, folder, allow_unsafe_code, reporter)


@dataclass(slots=True)
class Logprobs:
    """A request's token log-probabilities by continuation, to the last bit as the engine's own scores are computed."""

    rows: list[list[float]]
    greedy: list[bool]

    @classmethod
    def of(cls, tokens: TokenRequest) -> "Logprobs":
        """None yet."""
        return cls([[] for _ in tokens.continuations], [True for _ in tokens.continuations])

    def add(self, found: NextToken, scored: Sequence[tuple[int, int]]) -> None:
        likeliest = int(found.logits.argmax())
        for number, token in scored:
            self.rows[number].append(float(found.logits[token] - found.logsumexp))
            self.greedy[number] &= token == likeliest

    def response(self, tokens: TokenRequest) -> Loglikelihoods:
        return Loglikelihoods(tuple(map(sum, self.rows)), tuple(self.greedy), tokens.truncated, tokens.merged, tokens.cut_by_protocol)


def _lockstep(
    scored: Sequence[tuple[Request, TokenRequest]], reference: Model, copy: Model, positions: Positions, owners: Mapping[Request, int]
) -> Iterator[tuple[Request, TokenRequest, tuple[Logprobs, Logprobs]]]:
    """Run both models over every request, each position of one beside that of the other; yields the requests as they are done."""
    for batch in batches(scored):
        requests = [tokens for _, tokens in batch]
        ours, theirs = (_Timed(model.engine.distributions(requests)) for model in (reference, copy))
        for request, tokens in batch:
            pair = (Logprobs.of(tokens), Logprobs.of(tokens))
            for group in tokens.scored.values():
                found = next(ours), next(theirs)
                positions.add(owners[request], *found, [token for _, token in group])
                for logprobs, one in zip(pair, found, strict=True):
                    logprobs.add(one, group)
            yield request, tokens, pair
        count = sum(tokens.num_tokens for tokens in requests)
        for model, timed in ((reference, ours), (copy, theirs)):
            timed.require_end()
            model.speed += Speed(scored_tokens=count, scored_seconds=timed.seconds)


def batches(scored: Sequence[tuple[Request, TokenRequest]]) -> Iterator[list[tuple[Request, TokenRequest]]]:
    """Requests in order, BATCH at a time and no more positions than BATCH_POSITIONS, but for a request that has more by itself."""
    batch: list[tuple[Request, TokenRequest]] = []
    total = 0
    for each in scored:
        count = len(each[1].scored)
        if batch and (len(batch) == BATCH or total + count > BATCH_POSITIONS):
            yield batch
            batch, total = [], 0
        batch.append(each)
        total += count
    if batch:
        yield batch


class _Computed:
    """What the progress says while a batch is computed: tokens so far."""

    def __init__(self, engines: Sequence[LM]):
        self.engines, self.before = engines, sum(engine.tokens().computed for engine in engines)

    def __str__(self) -> str:
        return f"{sum(engine.tokens().computed for engine in self.engines) - self.before:,} tokens computed"


class _Timed:
    """An engine's distributions, and the seconds that were spent in it."""

    def __init__(self, rows: Iterator[NextToken]):
        self.rows, self.seconds = rows, 0.0

    def __next__(self) -> NextToken:
        start = time.perf_counter()
        try:
            return next(self.rows)
        finally:
            self.seconds += time.perf_counter() - start

    def require_end(self) -> None:
        """Raises RuntimeError where the engine has more distributions than were asked for."""
        if next(self.rows, None) is not None:
            raise RuntimeError("the engine gives more distributions than the requests have positions")
