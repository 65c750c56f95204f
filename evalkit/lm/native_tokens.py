"""The native back-end by token ids instead of texts, for the server and the bench."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from evalkit.bench.roofline import Shape
from evalkit.errors import EvalkitError
from evalkit.lm.native import NativeLM, one_line, random_configuration
from moe_lm import known
from moe_lm.config import ModelConfig
from moe_lm.count import count
from moe_lm.engine.generator import Generator
from moe_lm.engine.in_flight import InFlight
from moe_lm.engine.request import GenerateRequest, Generation, PromptScores, PromptScoresRequest, TokenScore
from moe_lm.errors import ModelError, NotFinite

__all__ = [
    "GenerateRequest",
    "Generation",
    "InFlight",
    "PromptScores",
    "PromptScoresRequest",
    "TokenModel",
    "TokenScore",
    "fault_of",
    "shape_of",
    "shape_of_spec",
]


SERVED = 256  # sequences in a step of a server
CHUNK = 256  # tokens of long prompts in a step of a server: streams wait no longer for the next token


class TokenModel:
    """A loaded model. Not thread-safe, `encode` aside: one thread owns it."""

    def __init__(self, lm: NativeLM):
        self.lm, self.decode = lm, lm.tokenizer.decode
        self.vocab_size = lm.config.vocab_size
        self.stop_ids = lm.tokenizer.stop_ids

    @property
    def max_seq_len(self) -> int:
        """The model's longest sequence, or as many tokens as there is memory for."""
        return min(self.lm.config.max_seq_len, self.lm.pool.num_tokens)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, in any thread. Raises EvalkitError for invalid Unicode and for a token without a row in the model."""
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise EvalkitError("the prompt holds a lone surrogate, which is no character; send valid Unicode")
        # the tokenizers library runs batches without Python's global lock, single texts with it
        with one_line():
            (ids,) = self.lm.tokenizer.encode_batch([text])
        return ids

    def serving(self) -> Generator:
        """The generator, laid out for requests that come and go."""
        self.lm.lay_out(self.lm.scorer.token_budget, SERVED, True, CHUNK)
        return self.lm.generator

    def chat(self, messages: Sequence[dict[str, str]]) -> tuple[list[int], tuple[str, ...]]:
        """The conversation in the chat template, and the template's stop strings.

        Raises EvalkitError if there is no template, or it refuses.
        """
        prompt = self.lm._conversation(messages)
        return self.encode(prompt.text), tuple(prompt.until)

    def token_text(self, token: int) -> str:
        """The text of a single token; special tokens by their names."""
        return self.lm.tokenizer.fast.decode([token], skip_special_tokens=False)

    def check(self, prompt: Sequence[int]) -> None:
        """Raises EvalkitError for an empty prompt and for ids outside the vocabulary, which would crash the pass they are in."""
        if not prompt:
            raise EvalkitError("the prompt is empty: it needs at least one token")
        if not 0 <= min(prompt) <= max(prompt) < self.vocab_size:
            raise EvalkitError(f"the prompt holds token {max(prompt, key=abs)}; ids run from 0 to {self.vocab_size - 1}")

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


def shape_of(config: ModelConfig, width: int) -> Shape:
    """The work of a decoder with this configuration, at `width` bytes per number."""
    parameters, moe = count(config), config.moe
    embedding = config.vocab_size * config.hidden_size
    sparse_layers = sum(config.is_sparse(layer) for layer in range(config.num_hidden_layers)) if moe else 0
    expert = 3 * config.hidden_size * moe.moe_intermediate_size if moe else 0
    top_k = moe.num_experts_per_tok if moe else 0
    return Shape(
        width=width,
        embedding=embedding,
        head=embedding,
        always=parameters.activated_non_embedding - sparse_layers * top_k * expert,
        expert=expert,
        experts=moe.num_experts if moe else 0,
        top_k=top_k,
        sparse_layers=sparse_layers,
        kv_per_token=2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim,
        attention_width=config.num_hidden_layers * config.num_attention_heads * config.head_dim,
        window=config.sliding_window,
        full_attention=len(config.full_attention_layers) / config.num_hidden_layers,
        head_is_tied=config.tie_word_embeddings,
    )


def shape_of_spec(spec: str, width: int) -> Shape | None:
    """The shape of a model that is not loaded: with random weights, or in a folder; None if only loading tells.

    Raises EvalkitError for a configuration that is unknown or cannot be read.
    """
    if spec.startswith("random:"):
        return shape_of(random_configuration(spec), width)
    with one_line():
        return shape_of(known.in_folder(Path(spec)), width) if Path(spec).is_dir() else None
