"""One document of a run: `Sample`, as it was answered, and `SampleRow`, its line of samples/TASK.jsonl."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evalkit.codec import OPTIONAL, encode
from evalkit.hashing import sha256_json
from evalkit.tasks import Doc, Generate, Generated, Loglikelihoods, Request, Response, Scored, is_refused

Score = float | tuple[tuple[str, ...], str]  # a number, or (references, hypothesis) where only the corpus has one


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedTurn:
    """A judgment of one turn: both readers' ratings, and the judge's text (None where it said nothing)."""

    turn: int
    repeat: int
    published: float | None
    strict: float | None
    judgment: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """A document with its requests, responses and scores. `cluster` names what it shares with others, "" for nothing.

    `parts`: what it adds to metrics that only all documents together have (a log-likelihood and its words, to a perplexity).
    """

    doc_id: str
    group: str
    cluster: str = field(default="", metadata=OPTIONAL)
    doc_hash: str
    prompt_hash: str
    doc: Mapping[str, Any]
    target: str
    extracted: str
    extraction_failed: bool
    metrics: Mapping[str, Score]
    parts: Mapping[str, Any] = field(default_factory=dict, metadata=OPTIONAL)
    requests: tuple[Request, ...]
    responses: tuple[Response, ...]
    judgments: tuple[RatedTurn, ...] = field(default=(), metadata=OPTIONAL)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was asked, what came back, what it scored."""

    doc: Doc
    requests: Sequence[Request]
    responses: Sequence[Response]
    scored: Scored

    @property
    def problems(self) -> frozenset[str]:
        """Which of run.json's counts it adds to."""
        return problems_of(self.requests, self.responses, self.scored.extraction_failed)

    def row(self) -> SampleRow:
        """The sample's line."""
        return SampleRow(
            doc_id=self.doc.id,
            group=self.doc.group,
            cluster=self.doc.cluster,
            doc_hash=sha256_json(dict(self.doc.fields)),
            prompt_hash=sha256_json(encode(self.requests)),
            doc=self.doc.fields,
            target=self.scored.target,
            extracted=self.scored.extracted,
            extraction_failed=self.scored.extraction_failed,
            metrics=self.scored.metrics,
            parts=_finite(self.scored.parts),
            requests=tuple(self.requests),
            responses=tuple(self.responses),
        )


def _finite(value: Any) -> Any:
    """None for a NaN or an infinity, at any depth: they are no JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return type(value)(map(_finite, value)) if isinstance(value, list | tuple) else value


def problems_of(requests: Sequence[Request], responses: Sequence[Response], extraction_failed: bool) -> frozenset[str]:
    """Which of run.json's counts (schema.Counts) a document adds to, but for `unscored`."""
    found = {
        "extraction_failed": extraction_failed,
        "truncated": any(r.truncated for r in responses),
        "boundary_merged": any(isinstance(r, Loglikelihoods) and r.merged for r in responses),
        "stopped_by_length": any(isinstance(r, Generated) and r.finish_reason == "length" for r in responses),
        "cut_by_protocol": any(isinstance(r, Loglikelihoods) and r.cut_by_protocol for r in responses),
        "empty": _is_empty(requests, responses),
        "unanswered": any(map(is_refused, responses)),
    }
    return frozenset(name for name, holds in found.items() if holds)


def _is_empty(requests: Sequence[Request], responses: Sequence[Response]) -> bool:
    """Has one of the prompts no answer but blanks? Of a sampled prompt, one of the answers will do."""
    said: dict[tuple[str, object], bool] = {}
    for request, response in zip(requests, responses, strict=False):
        if isinstance(request, Generate) and isinstance(response, Generated):
            prompt = (request.context, request.messages)
            said[prompt] = said.get(prompt, False) or bool(response.text.strip())
    return not all(said.values())
