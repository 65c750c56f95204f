"""How many of a prompt's first tokens to drop so that it fits: the same rule for every back-end."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.errors import EvalkitError
from evalkit.tasks import Generate, Loglikelihood


@dataclass(frozen=True, slots=True)
class Cut:
    """Tokens dropped from a context's front: those that its protocol leaves out, and those that then did not fit."""

    by_protocol: int
    truncated: int

    @property
    def dropped(self) -> int:
        """Of both kinds."""
        return self.by_protocol + self.truncated


def context_cut(request: Loglikelihood, context: int, continuations: Sequence[int], capacity: int | None) -> Cut:
    """What to drop from the front of a context of `context` tokens before its continuations are scored.

    `continuations` are their lengths; `capacity` is the longest context and continuation that the engine scores together, or None if
    unknown. Raises EvalkitError if a continuation leaves no room for any context.
    """
    kept = context
    if request.truncate_above is not None and request.truncate_to is not None and context > request.truncate_above:
        kept = request.truncate_to
    room = kept if capacity is None else capacity - max(continuations)
    if room < 1:
        raise EvalkitError(f"a continuation of {max(continuations)} tokens leaves no room for a context: the engine scores {capacity}")
    return Cut(context - kept, max(0, kept - room))


def answer_length(request: Generate, prompt: int) -> int:
    """The most tokens that an answer to a prompt of `prompt` tokens may have; at least 1, for no engine answers with none."""
    if request.max_total_tokens is None:
        return request.max_new_tokens
    return max(1, min(request.max_new_tokens, request.max_total_tokens - prompt))


def prompt_cut(prompt: int, max_new_tokens: int, max_seq_len: int) -> int:
    """Tokens to drop from the front of a prompt of `prompt` tokens so that the answer fits behind it. Raises EvalkitError."""
    if max_new_tokens >= max_seq_len:
        raise EvalkitError(f"max_new_tokens {max_new_tokens} leaves no room for a prompt: max_seq_len is {max_seq_len}")
    return max(0, prompt - (max_seq_len - max_new_tokens))
