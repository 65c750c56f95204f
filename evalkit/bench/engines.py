"""The engines that `evalkit bench` times. Each takes all prompts at once and reports what it computed."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.bench.roofline import Shape
from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError, RunIncomplete, first_line, unknown
from evalkit.lm import ENGINES
from evalkit.lm.base import LM
from evalkit.lm.http import RequestFailed, RetryPolicy, concurrently

if TYPE_CHECKING:
    from evalkit.lm.native_tokens import GenerateRequest, Generation

WARM_UP = 3  # tokens: kernels are chosen and memory is taken before the clock starts
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Work:
    """Every request: random input tokens (drawn with `seed`), and a fixed number of output tokens, whatever the model generates."""

    prompt_tokens: int
    output_tokens: int
    num_requests: int
    seed: int


@dataclass(frozen=True, slots=True)
class Done:
    """Input and output tokens of all requests, and how many answers ended early."""

    prompt_tokens: int
    output_tokens: int
    short_answers: int = 0


class Timed(ABC):
    """One loaded model. `prepare` is not timed, `run` is."""

    lm: LM
    shape: Shape | None = None  # None: the model's work is not known

    @abstractmethod
    def prepare(self, work: Work) -> None:
        """Draw the prompts and warm up. Raises EvalkitError if they do not fit the model."""

    @abstractmethod
    def run(self, advance: Callable[[int], Any]) -> Done:
        """Answer every request."""


def open_engine(model: ModelSpec, num_requests: int) -> Timed:
    """Load `model.name` behind `model.engine`. Raises EvalkitError."""
    name, _, argument = model.engine.partition(":")
    if model.engine == "native":
        return _Native(model)
    if model.engine == "llama_cpp":
        return _LlamaCpp(model)
    if name == "openai" and argument:
        return _OpenAI(model, argument, num_requests)
    if name == "lm_eval" and argument:
        return _LmEval(model, argument)
    raise unknown("engine", model.engine, [engine for engine in ENGINES if not engine.startswith("replay")])


class _InProcess(Timed):
    """An engine that runs token ids here, and goes on past the end of text where it is asked to."""

    max_seq_len: int
    vocab_size: int
    stop_ids: frozenset[int]
    generate: Callable[[Sequence[GenerateRequest]], Iterator[tuple[int, Generation]]]

    def prepare(self, work: Work) -> None:
        from evalkit.lm.native_tokens import GenerateRequest

        draw = random.Random(work.seed)
        if work.prompt_tokens + work.output_tokens > self.max_seq_len:
            raise EvalkitError(
                f"--prompt-tokens {work.prompt_tokens} and --output-tokens {work.output_tokens} exceed "
                f"the model's max_seq_len of {self.max_seq_len}"
            )
        ids = [token for token in range(self.vocab_size) if token not in self.stop_ids]
        prompts = [draw.choices(ids, k=work.prompt_tokens) for _ in range(work.num_requests)]
        self.requests = [GenerateRequest(prompt, max_new_tokens=work.output_tokens, ignore_eos=True) for prompt in prompts]
        warm_up = draw.choices(ids, k=work.prompt_tokens)
        list(self.generate([GenerateRequest(warm_up, max_new_tokens=min(WARM_UP, work.output_tokens), ignore_eos=True)]))

    def run(self, advance: Callable[[int], Any]) -> Done:
        prompts = outputs = 0
        for done, (i, answer) in enumerate(self.generate(self.requests), start=1):
            prompts, outputs = prompts + len(self.requests[i].prompt), outputs + len(answer.tokens)
            advance(done)
        return Done(prompts, outputs, sum(request.max_new_tokens for request in self.requests) - outputs)


class _Native(_InProcess):
    def __init__(self, model: ModelSpec):
        from evalkit.lm.native import NativeLM
        from evalkit.lm.native_tokens import TokenModel
        from evalkit.lm.shape import shape_of

        self.lm = NativeLM.load(model)
        tokens = TokenModel(self.lm)
        self.max_seq_len, self.vocab_size, self.stop_ids = tokens.max_seq_len, tokens.vocab_size, tokens.stop_ids
        self.generate = tokens.generate
        self.shape = shape_of(self.lm.backend.config, self.lm.width, self.lm.backend.dtype.itemsize)


class _LlamaCpp(_InProcess):
    def __init__(self, model: ModelSpec):
        from evalkit.lm.llama_cpp.engine import LlamaCppLM

        self.lm = lm = LlamaCppLM.open(model)
        self.max_seq_len, self.vocab_size, self.stop_ids = lm.max_seq_len, lm.model.vocab_size, lm.tokenizer.stop_ids
        self.generate = lm.generator.generate


class _OpenAI(Timed):
    def __init__(self, model: ModelSpec, url: str, num_requests: int):
        from evalkit.lm.openai import OpenAILM

        if model.spec is None:
            raise EvalkitError(f"--engine openai:{url} needs a model, as the server names it")
        # one attempt: a repeated request would be timed twice; the last in the queue may wait long
        self.lm = self.remote = OpenAILM(url, model.spec, RetryPolicy(attempts=1, timeout=DAY, deadline=DAY), num_requests)

    def prepare(self, work: Work) -> None:
        draw, vocab = random.Random(work.seed), self.remote.entry.get("vocab_size")
        # servers do not tell; every current model's vocabulary has these ids, and few of them are special tokens
        ids = range(vocab) if isinstance(vocab, int) else range(1000, 30000)
        self.work = work
        self.prompts = [draw.choices(ids, k=work.prompt_tokens) for _ in range(work.num_requests)]
        self._all([draw.choices(ids, k=work.prompt_tokens)], min(WARM_UP, work.output_tokens), lambda done: None)

    def run(self, advance: Callable[[int], Any]) -> Done:
        return self._all(self.prompts, self.work.output_tokens, advance)

    def _all(self, prompts: list[list[int]], tokens: int, advance: Callable[[int], Any]) -> Done:
        used = []
        try:
            for _, each in concurrently(lambda prompt: self.remote.complete_ids(prompt, tokens), prompts, len(prompts)):
                used.append(each)
                advance(len(used))
        except RequestFailed as error:
            raise error if error.refused else RunIncomplete(str(error)) from None
        return Done(sum(p for p, _ in used), sum(o for _, o in used), sum(o < tokens for _, o in used))


class _LmEval(Timed):
    """Prompts are texts here, as close to the requested length as possible; output tokens are counted as requested."""

    def __init__(self, model: ModelSpec, class_name: str):
        from evalkit.lm.lm_eval import LmEvalLM
        from evalkit.lm.shape import shape_of_spec

        self.lm = self.peer = LmEvalLM.load(model, class_name)
        self.class_name = class_name
        self.shape = shape_of_spec(model.name, 4 if self.peer.settings["dtype"] == "float32" else 2)

    def prepare(self, work: Work) -> None:
        draw, self.work = random.Random(work.seed), work
        self.prompts = [self._text(draw, work.prompt_tokens) for _ in range(work.num_requests)]
        self._ask(self.prompts[:1], min(WARM_UP, work.output_tokens))

    def run(self, advance: Callable[[int], Any]) -> Done:
        self._ask(self.prompts, self.work.output_tokens)
        advance(len(self.prompts))
        tokens = sum(len(self._encode(prompt)) for prompt in self.prompts)
        return Done(tokens, self.work.output_tokens * len(self.prompts))

    def _ask(self, prompts: list[str], tokens: int) -> None:
        from lm_eval.api.instance import Instance

        go_on = {"ignore_eos": True} if "vllm" in self.class_name else {"min_new_tokens": tokens}
        arguments = {"until": [], "max_gen_toks": tokens, "do_sample": False, **go_on}
        asked = [Instance(request_type="generate_until", doc={}, arguments=(p, dict(arguments)), idx=i) for i, p in enumerate(prompts)]
        try:
            self.peer.lm.generate_until(asked, disable_tqdm=True)
        except Exception as error:  # the classes raise whatever their engine raises
            raise EvalkitError(f"lm_eval:{self.class_name} can't be timed: {first_line(error)}") from error

    def _text(self, draw: random.Random, tokens: int) -> str:
        tokenizer = self.peer.lm.tokenizer
        special = set(tokenizer.all_special_ids)
        ids = [token for token in range(len(tokenizer)) if token not in special]
        drawn = draw.choices(ids, k=tokens)
        for _ in range(10):  # the tokens of a decoded text may differ from those it was made from: cut or fill until they settle
            found = self._encode(tokenizer.decode(drawn))
            if len(found) == tokens:
                break
            drawn = [*found, *draw.choices(ids, k=max(0, tokens - len(found)))][:tokens]
        return str(tokenizer.decode(drawn))

    def _encode(self, text: str) -> list[int]:
        return list(self.peer.lm.tok_encode(text))
