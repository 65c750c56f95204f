"""What an engine may offer besides its answers: the whole distribution over the vocabulary wherever a token is scored.

Two models are compared on the same token ids (`evalkit fidelity`): those of the reference's prompts, of their continuations, and of
the answers that it generates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from evalkit.tasks import Generate, Generated, Loglikelihood

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GIVING = ("native", "llama_cpp")  # the engines that offer it


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """Token ids of a context and of the continuations that are scored after it.

    `truncated`, `merged` and `cut_by_protocol` are those of its response.
    """

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    truncated: int = 0
    merged: int = 0
    cut_by_protocol: int = 0

    @property
    def scored(self) -> Mapping[tuple[int, ...], Sequence[tuple[int, int]]]:
        """The distinct beginnings of continuations after which tokens are scored, in order, and (continuation, token) of each of those."""
        found: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for number, tokens in enumerate(self.continuations):
            for j, token in enumerate(tokens):
                found.setdefault(tokens[:j], []).append((number, token))
        return found

    @property
    def num_tokens(self) -> int:
        """Of the context, and of each distinct continuation."""
        return len(self.context) + sum(map(len, set(self.continuations)))


@dataclass(frozen=True, slots=True, eq=False)
class NextToken:
    """The distribution of the next token: logits [V], and log(sum(exp(logits))) in the precision of the engine's own scores: those are
    a logit less this, to the last bit.
    """

    logits: "NDArray[np.float32]"
    logsumexp: "np.float32 | np.float64"


@runtime_checkable
class GivesDistributions(Protocol):
    """An engine whose whole distributions can be had. All raise EvalkitError for what does not fit the model."""

    @property
    def file_bytes(self) -> int | None:
        """The size of the model's files; None where there are none, or it is not known."""

    def token_request(self, request: Loglikelihood | Generate) -> TokenRequest:
        """The token ids that the engine makes of a request; of a prompt that is to be answered, without continuations."""

    def generate_tokens(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated, list[int]]]:
        """As `LM.generate`, with the ids of the generated tokens."""

    def distributions(self, requests: Sequence[TokenRequest]) -> Iterator[NextToken]:
        """One for each key of `TokenRequest.scored`, in its order, request after request; valid until the next one is asked for."""
