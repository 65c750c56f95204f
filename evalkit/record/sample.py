"""One document of a run: `Sample`, as it was answered, and `SampleRow`, its line of samples/TASK.jsonl."""

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
    """A document with its requests, responses and scores. `cluster` names what it shares with others, "" for nothing."""

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
    def truncated(self) -> bool:
        return any(r.truncated for r in self.responses)

    @property
    def merged(self) -> bool:
        return any(isinstance(r, Loglikelihoods) and r.merged for r in self.responses)

    @property
    def cut_off(self) -> bool:
        return any(isinstance(r, Generated) and r.finish_reason == "length" for r in self.responses)

    @property
    def empty(self) -> bool:
        """Has one of its prompts no answer but blanks? Of a sampled prompt, one of the answers will do."""
        said: dict[tuple[str, object], bool] = {}
        for request, response in zip(self.requests, self.responses, strict=False):
            if isinstance(request, Generate) and isinstance(response, Generated):
                prompt = (request.context, request.messages)
                said[prompt] = said.get(prompt, False) or bool(response.text.strip())
        return not all(said.values())

    @property
    def unanswered(self) -> bool:
        return any(map(is_refused, self.responses))

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
            requests=tuple(self.requests),
            responses=tuple(self.responses),
        )
