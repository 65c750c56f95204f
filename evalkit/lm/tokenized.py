"""What every back-end shares that runs a model by token ids: from a request's text to the ids that are run, and back."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from evalkit.errors import EvalkitError
from evalkit.lm import conversation
from evalkit.lm.base import LM
from evalkit.lm.distributions import TokenRequest
from evalkit.lm.prompt_cut import answer_length, context_cut, prompt_cut
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods

if TYPE_CHECKING:
    from moe_lm.engine.request import GenerateRequest, Generation
    from moe_lm.engine.scorer import Score, ScoreRequest


@contextmanager
def one_line(way_out: str = "") -> Iterator[None]:
    """Convert moe_lm's refusals to bad input: one line, exit code 2; `way_out` is added where moe_lm does not implement the model."""
    from moe_lm.errors import ModelError, Unsupported

    try:
        yield
    except Unsupported as error:
        raise EvalkitError(f"{error}{way_out}") from None
    except ModelError as error:
        raise EvalkitError(str(error)) from None


class TextTokens(Protocol):
    """Texts to token ids and back, as `moe_lm.tokenizer.tokenizer.Tokenizer` does it."""

    bos_id: int | None
    prefix_id: int | None
    stop_ids: frozenset[int]
    special: dict[int, str]
    chat_template: str | None
    bos_token: str
    eos_token: str

    def encode(self, text: str) -> list[int]: ...

    def encode_plain(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def sha256(self) -> str: ...


class ScoresTokens(Protocol):
    """Scores continuations by token ids, as moe_lm's scorer does. Raises ModelError."""

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, list[Score]]]: ...


class GeneratesTokens(Protocol):
    """Generates token ids, as moe_lm's generator does. Raises ModelError."""

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]: ...


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Token ids of what is to be answered, how many were cut off in front, what ends the answer, and its longest."""

    ids: list[int]
    truncated: int
    until: tuple[str, ...]
    length: int


class TokenizedLM(LM):
    """A model whose tokenizer and chat template are here. A subclass has the engine and the fingerprint.

    `template`: what belongs into the fingerprint beside the tokenizer's digest, which has the model's own chat template.
    """

    def __init__(self, spec: str, tokenizer: TextTokens, chat_template_args: Mapping[str, Any] = MappingProxyType({})):
        """Raises EvalkitError for arguments that the chat template does not read."""
        self.spec, self.tokenizer = spec, tokenizer
        # FastChat's template replaces one that the model lacks, and is then part of the fingerprint
        self.stand_in = None if tokenizer.chat_template else conversation.template_for(spec)
        self.template: list[Any] = [f"{conversation.REQUIREMENT} {self.stand_in}"] if self.stand_in else []
        self.chat_template_args = dict(chat_template_args)
        if chat_template_args:
            self._check_chat_template_args()
            self.template.append(self.chat_template_args)

    @property
    @abstractmethod
    def max_seq_len(self) -> int:
        """The most tokens that the model runs in one sequence."""

    @property
    @abstractmethod
    def scorer(self) -> ScoresTokens:
        """What scores; the weights are read by then."""

    @property
    @abstractmethod
    def generator(self) -> GeneratesTokens:
        """What generates; the weights are read by then."""

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt, BOS included. Raises EvalkitError for a token that the model has no row for."""
        with one_line():
            return self.tokenizer.encode(text)

    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        from moe_lm.engine.scorer import ScoreRequest

        with one_line():
            encoded = [self._encode(request) for request in requests]
            for i, scores in self.scorer.score([ScoreRequest(each.context, each.continuations) for each in encoded]):
                found = tuple(s.logprob for s in scores), tuple(s.is_greedy for s in scores)
                yield i, Loglikelihoods(*found, encoded[i].truncated, encoded[i].merged, encoded[i].cut_by_protocol)

    def token_request(self, request: Loglikelihood | Generate) -> TokenRequest:
        """The token ids of a request; of a prompt that is to be answered, without continuations. Raises EvalkitError."""
        if isinstance(request, Generate):
            prompt = self._prompt(request)
            return TokenRequest(tuple(prompt.ids), (), prompt.truncated)
        with one_line():
            return self._encode(request)

    def _encode(self, request: Loglikelihood) -> TokenRequest:
        """Context and continuation ids, as in lm-eval: the whole text is encoded, then cut where the context ends."""
        messages = [{"role": role, "content": content} for role, content in request.messages]
        prompt = (self.chat_prompt(messages) if messages else "") + request.context
        context_text = prompt.rstrip()
        moved = prompt[len(context_text) :]  # trailing blanks go to the continuation: " A" is one token
        if context_text:
            texts = (context_text + moved + text for text in request.continuations)
            context, *wholes = self.tokenizer.encode_batch((context_text, *texts))
        else:
            context = [self._prefix_id()]
            wholes = [[*context, *self.tokenizer.encode_plain(moved + text)] for text in request.continuations]
        continuations, merged = [], 0
        for text, whole in zip(request.continuations, wholes, strict=True):
            merged += whole[: len(context)] != context
            if not (continuation := whole[len(context) :]):
                raise EvalkitError(f"continuation {text!r} adds no token to its context")
            continuations.append(tuple(continuation))
        # the last token is scored but not run
        cut = context_cut(request, len(context), [len(c) for c in continuations], self.max_seq_len + 1)
        return TokenRequest(tuple(context[cut.dropped :]), tuple(continuations), cut.truncated, merged, cut.by_protocol)

    def _prefix_id(self) -> int:
        """The token before a text whose first token is scored."""
        if self.tokenizer.prefix_id is None:
            raise EvalkitError("an empty context needs a BOS or end-of-text token, and this tokenizer has neither")
        return self.tokenizer.prefix_id

    def loglikelihood_rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
        """As lm-eval: the first token after BOS or end of text, windows of max_seq_len new tokens after what fits before them."""
        from moe_lm.engine.scorer import ScoreRequest

        windows: list[ScoreRequest] = []
        owner: list[int] = []
        size = self.max_seq_len
        for i, text in enumerate(texts):
            ids = self.encode(text)
            if self.tokenizer.bos_id is None:
                ids = [self._prefix_id(), *ids]
            for start in range(1, len(ids), size):
                end = min(start + size, len(ids))
                windows.append(ScoreRequest(ids[max(0, end - size - 1) : start], [ids[start:end]]))
                owner.append(i)
        missing = Counter(owner)
        totals = [0.0] * len(texts)
        yield from ((i, 0.0) for i in range(len(texts)) if not missing[i])
        with one_line():
            for w, (score,) in self.scorer.score(windows):
                i = owner[w]
                totals[i] += score.logprob
                missing[i] -= 1
                if not missing[i]:
                    yield i, totals[i]

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        for i, generated, _ in self.generate_tokens(requests):
            yield i, generated

    def generate_tokens(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated, list[int]]]:
        """As `generate`, with the ids of the generated tokens."""
        from moe_lm.engine.request import GenerateRequest

        prompts = [self._prompt(request) for request in requests]
        encoded = [
            GenerateRequest(prompt.ids, prompt.until, prompt.length, request.temperature, request.seed)
            for prompt, request in zip(prompts, requests, strict=True)
        ]
        with one_line():
            for i, found in self.generator.generate(encoded):
                yield i, Generated(found.text, found.finish_reason, len(found.tokens), prompts[i].truncated), found.tokens

    def _prompt(self, request: Generate) -> _Prompt:
        messages = [{"role": role, "content": content} for role, content in request.messages]
        prompt = self._conversation(messages) if messages else conversation.Prompt("", ())
        ids = self.encode(prompt.text + request.context)
        if not ids:
            raise EvalkitError(
                "a prompt to be answered is empty, and this tokenizer puts no token in front; begin it with a character at least"
            )
        length = answer_length(request, len(ids))
        cut = prompt_cut(len(ids), length, self.max_seq_len)
        return _Prompt(ids[cut:], cut, (*request.until, *prompt.until), length)

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The messages ({"role", "content"}) in the model's chat template, up to the answer.

        Raises EvalkitError if neither the model nor FastChat has a template, or the template refuses the messages.
        """
        return self._conversation(messages).text

    def _check_chat_template_args(self) -> None:
        """Raises EvalkitError where the model's template does not read one of them."""
        from moe_lm.errors import ModelError
        from moe_lm.tokenizer.chat import TemplateRefusal

        if not self.tokenizer.chat_template:
            raise EvalkitError(f"--chat-template-arg {next(iter(self.chat_template_args))}: {self.spec} has no chat template; leave it out")
        with suppress(ModelError):  # the template may refuse this conversation for another reason
            try:
                self.render([{"role": "user", "content": "Hello"}])
            except TemplateRefusal as error:
                raise EvalkitError(f"--chat-template-arg: {error}") from None

    def _conversation(self, messages: Sequence[Mapping[str, str]]) -> conversation.Prompt:
        if self.stand_in:
            return conversation.write(self.stand_in, messages)
        with one_line():
            return conversation.Prompt(self.render(messages), ())

    def render(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> str:
        """The model's own chat template with `settings` (`moe_lm.tokenizer.chat.render`). Raises ModelError."""
        from moe_lm.tokenizer.chat import render

        tokenizer, arguments = self.tokenizer, self.chat_template_args | settings.pop("arguments", {})
        return render(messages, tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token, arguments=arguments, **settings)

    def describe_template(self) -> dict[str, Any]:
        """run.json's `model.chat_template` and `chat_template_args`, where they are not the model's own."""
        return {
            **({"chat_template": f"{conversation.REQUIREMENT} {self.stand_in}"} if self.stand_in else {}),
            **({"chat_template_args": self.chat_template_args} if self.chat_template_args else {}),
        }
