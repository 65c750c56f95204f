"""The native back-end by token ids instead of texts, for the server and the bench."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evalkit.codec import is_text
from evalkit.errors import EvalkitError
from evalkit.lm.native import NativeLM
from evalkit.lm.tokenized import one_line
from moe_lm.engine.generator import Generator
from moe_lm.engine.in_flight import InFlight
from moe_lm.engine.memory import trim_heap
from moe_lm.engine.request import GenerateRequest, Generation, PromptScores, PromptScoresRequest, TokenScore
from moe_lm.errors import ModelError, NotFinite
from moe_lm.tokenizer.chat import TemplateRefusal
from moe_lm.tokenizer.token_text import TokenTexts

__all__ = [
    "Dropped",
    "GenerateRequest",
    "Generation",
    "InFlight",
    "PromptScores",
    "PromptScoresRequest",
    "TokenModel",
    "TokenScore",
    "fault_of",
    "trim_heap",
]


class Dropped(EvalkitError):
    """The chat template does not read the request's field `field`."""

    def __init__(self, message: str, field: str):
        super().__init__(message)
        self.field = field


SERVED = 256  # sequences in a step of a server
CHUNK = 256  # tokens of long prompts in a step of a server: it bounds how long a stream waits for its next token


class TokenModel:
    """A loaded model. Not thread-safe, texts to tokens and back aside: one thread owns it.

    `texts` has the text of single tokens, `special` the special ones by id.
    """

    def __init__(self, lm: NativeLM, max_model_len: int | None = None):
        """`max_model_len`: the longest sequence, prompt and answer, if it is to be shorter than the model's. Raises EvalkitError."""
        if max_model_len is not None and not 1 <= max_model_len <= lm.config.max_seq_len:
            raise EvalkitError(f"--max-model-len is {max_model_len}; the model takes 1 to {lm.config.max_seq_len} tokens")
        self.lm, self.decode = lm, lm.tokenizer.decode
        self.vocab_size = lm.config.vocab_size
        self.stop_ids, self.special = lm.tokenizer.stop_ids, lm.tokenizer.special
        self.texts = TokenTexts(lm.tokenizer.fast)
        self._longest = max_model_len or lm.config.max_seq_len

    @property
    def max_seq_len(self) -> int:
        """The model's longest sequence, or as many tokens as there is memory for."""
        return min(self._longest, self.lm.pool.num_tokens)

    def visible(self, stop: str) -> str:
        """What the text shows of a stop string: all but the names of special tokens."""
        for name in self.special.values():
            stop = stop.replace(name, "")
        return stop

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """The token ids of a text, in any thread; with BOS, if the model wants one.

        Raises EvalkitError for invalid Unicode and for a token without a row in the model.
        """
        if not is_text(text):
            raise EvalkitError("the prompt holds a lone surrogate, which is no character; send valid Unicode")
        # the tokenizers library runs batches without Python's global lock, single texts with it
        with one_line():
            (ids,) = self.lm.tokenizer.encode_batch([text])
        bos_id = self.lm.tokenizer.bos_id
        was_added = bos_id is not None and not text.startswith(self.lm.tokenizer.fast.id_to_token(bos_id) or "")
        return ids[1:] if was_added and not bos else ids

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of token ids, special tokens written out, without the BOS in front: `encode` adds it again."""
        ids, bos = list(tokens), self.lm.tokenizer.bos_id
        if bos is not None and ids[:1] == [bos]:
            ids = ids[1:]
        return self.lm.tokenizer.fast.decode(ids, skip_special_tokens=False)

    def tokenizer_info(self) -> dict[str, Any]:
        """The tokenizer's settings under the names of tokenizer_config.json."""
        tokenizer = self.lm.tokenizer
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokenizer.bos_token or None,
            "eos_token": tokenizer.eos_token or None,
            "pad_token": None,
            "add_bos_token": tokenizer.bos_id is not None,
            "model_max_length": self.max_seq_len,
            "chat_template": tokenizer.chat_template,
        }

    def serving(self) -> Generator:
        """The generator, laid out for requests that come and go."""
        self.lm.lay_out(self.lm.scorer.token_budget, SERVED, True, CHUNK)
        return self.lm.generator

    def chat(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> tuple[list[int], tuple[str, ...]]:
        """The conversation in the chat template, with its `settings` (`moe_lm.tokenizer.chat.render`), and the template's stop strings.

        Raises EvalkitError if there is no template, or it refuses; Dropped, which names the field, if it would not read what it is given.
        """
        if self.lm.stand_in:
            return self._stand_in_chat(messages, settings)
        try:
            return self.encode(self.lm.render(messages, **settings)), ()
        except TemplateRefusal as error:
            raise Dropped(str(error), error.field) from None
        except ModelError as error:
            raise EvalkitError(str(error)) from None

    def _stand_in_chat(self, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> tuple[list[int], tuple[str, ...]]:
        """As `chat`, in FastChat's template, which takes roles and texts alone."""
        given = [name for name in ("tools", "documents") if settings.get(name)] + [*settings.get("arguments", {})]
        given += [f"messages.{i}.{name}" for i, message in enumerate(messages) for name in message.keys() - {"role", "content"}]
        given += [f"messages.{i}.content" for i, message in enumerate(messages) if not isinstance(message["content"], str)]
        if given:
            raise Dropped(f"FastChat's template, which this model has, takes no {given[0]!r}; leave it out", given[0])
        prompt = self.lm._conversation(messages)
        return self.encode(prompt.text), tuple(prompt.until)

    def check(self, prompt: Sequence[int]) -> None:
        """Raises EvalkitError for an empty prompt and for ids outside the vocabulary, which would crash the pass they are in."""
        if not prompt:
            raise EvalkitError("the prompt is empty: it needs at least one token")
        if not 0 <= min(prompt) <= max(prompt) < self.vocab_size:
            raise EvalkitError(f"the prompt holds token {max(prompt, key=abs)}; ids run from 0 to {self.vocab_size - 1}")

    def check_request(self, request: GenerateRequest) -> None:
        """Raises EvalkitError for a request that would fail whatever else is in flight."""
        with one_line():
            self.lm.generator.check(request)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Yield (index, answer) as each ends. Raises EvalkitError if a request does not fit the model."""
        with one_line():
            yield from self.lm.generator.generate(requests)


def fault_of(error: BaseException) -> Exception:
    """What a failed request is answered with: EvalkitError where the request is to blame, otherwise what happened."""
    if isinstance(error, ModelError) and not isinstance(error, NotFinite):
        return EvalkitError(str(error))
    # a panic of a Rust library is not an Exception, and would end the server
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
