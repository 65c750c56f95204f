"""`--engine llama_cpp`: evaluates any GGUF file that llama.cpp can run, log-likelihoods included."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.config import ModelSpec
from evalkit.data.hub_files import commit_of
from evalkit.errors import EvalkitError
from evalkit.hashing import sha256_json
from evalkit.lm.base import OnLoad, Tokens
from evalkit.lm.distributions import NextToken, TokenRequest
from evalkit.lm.llama_cpp.context import OUTPUTS, PASS, TYPES, Model, Settings
from evalkit.lm.llama_cpp.generator import SLOTS, Generator
from evalkit.lm.llama_cpp.library import library
from evalkit.lm.llama_cpp.scorer import BRANCHES, BUDGET, Scorer
from evalkit.lm.llama_cpp.vocabulary import GgmlTokenizer
from evalkit.lm.models import find
from evalkit.lm.native import free_memory
from evalkit.lm.tokenized import TextTokens, TokenizedLM, one_line
from moe_lm.checkpoint.gguf import files_of, model_in, stored
from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.checkpoint.read import sha256_of
from moe_lm.engine.in_flight import Vocabulary
from moe_lm.engine.scorer import ScoreRequest
from moe_lm.errors import ModelError
from moe_lm.tokenizer.library import attempt
from moe_lm.tokenizer.tokenizer import Tokenizer

# raise it when what is run for a request changes: old answers then no longer match this model's fingerprint
NUMERICS = 1
NOT_INVARIANT = "llama.cpp promises no layout invariance: an answer may differ in its last digits with what is asked beside it"


class LlamaCppLM(TokenizedLM):
    """A GGUF file in llama.cpp. Texts become token ids, and answers end, by moe_lm's rules wherever moe_lm reads the file's tokenizer.

    The weights are read by `prepare`, or at the first request.
    """

    sharing = 1  # engines in this memory

    def __init__(self, path: Path, model: ModelSpec):
        """Raises EvalkitError, in one line, for a file that llama.cpp can't run."""
        self.path, self.device = path, "cpu"
        kv = model.dtype if model.dtype != "auto" else "float16"
        if kv not in TYPES:
            raise EvalkitError(f"--dtype {kv}: llama.cpp keeps keys and values in {', '.join(TYPES)}; the weights are computed as stored")
        if model.device == "cuda":
            raise EvalkitError("--device cuda: the llama_cpp engine runs on the CPU; leave --device out")
        self.settings = Settings(kv, _threads())
        with one_line():
            file = GGUFFile(path)
            self.files = files_of(path)
            self.stored, self.sha256 = stored(file), sha256_of(self.files)
        self.family = str(file.metadata.get("general.architecture"))
        self._max_seq_len = self._positive(file.metadata, "context_length")
        self.parameters = _parameters(file, self.family)
        self.kv_bytes = _kv_bytes(file.metadata, self.family, kv)
        tokenizer, self.reads_tokenizer = self._tokenizer(file.metadata)
        super().__init__(model.name, tokenizer, model.chat_template_args)
        self.notices = [NOT_INVARIANT]
        if not self.reads_tokenizer:
            self.notices.append("texts become tokens by llama.cpp's own tokenizer: moe_lm does not read this file's")
        numerics = [NUMERICS, library().build(), asdict(self.settings) | {"threads": None}, PASS, OUTPUTS, BUDGET, BRANCHES, SLOTS]
        self.fingerprint = "sha256:" + sha256_json(["llama_cpp", self.sha256, tokenizer.sha256(), numerics, *self.template])
        self.revision = commit_of(path)

    @classmethod
    def open(cls, model: ModelSpec) -> LlamaCppLM:
        """Find and check the file that `model.name` names. Raises EvalkitError in one line."""
        library()  # a missing wheel is told before a file is hashed
        with one_line():
            found = find(model.name, checked=False)
            path = (model_in(found.path) or found.path) if found.path.is_dir() else found.path
        if found.upcycle:
            raise EvalkitError(f"model {model.name} is upcycled when it is loaded, for the native engine only; try --model smollm2-135m")
        if path.suffix != ".gguf":
            raise EvalkitError(f"{path} is no GGUF file, as llama.cpp needs; write one with evalkit quantize, or use the native engine")
        lm = cls(path, model)
        found.check(lm.sha256)
        return lm

    def _positive(self, metadata: Mapping[str, Any], key: str) -> int:
        value = metadata.get(f"{self.family}.{key}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise EvalkitError(f"{self.path}: {self.family}.{key} is {value!r}, expected a positive number; convert the model again")
        return value

    def _tokenizer(self, metadata: Mapping[str, Any]) -> tuple[TextTokens, bool]:
        """moe_lm's tokenizer, or else llama.cpp's own, and whether it is moe_lm's."""
        try:
            return attempt("its tokenizer is not readable", Tokenizer.from_gguf, metadata), True
        except ModelError:
            return GgmlTokenizer(Model(self.path, vocabulary_only=True), metadata), False

    @property
    def max_seq_len(self) -> int:
        return self._max_seq_len

    @property
    def ready(self) -> bool:
        return "model" in vars(self)

    def prepare(self, on_load: OnLoad | None = None) -> None:
        _ = self.model

    @cached_property
    def model(self) -> Model:
        model = Model(self.path)
        if isinstance(self.tokenizer, Tokenizer):
            with one_line():
                self.tokenizer.fit(model.vocab_size)
        return model

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.model, self.settings, self.max_seq_len)

    @cached_property
    def generator(self) -> Generator:
        return self._generator(SLOTS)

    def share_memory(self, engines: int, weights: int | None = None) -> None:
        self.sharing = engines

    def distributions(self, requests: Sequence[TokenRequest]) -> Iterator[NextToken]:
        """See `evalkit.lm.distributions`."""
        with one_line():
            for logits_V, logsumexp in self.scorer.distributions([ScoreRequest(each.context, each.continuations) for each in requests]):
                yield NextToken(logits_V, np.float64(logsumexp))

    @property
    def file_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def _generator(self, slots: int, keep_prefixes: bool = True) -> Generator:
        vocabulary = Vocabulary(self.tokenizer.decode, self.tokenizer.stop_ids, self.tokenizer.special)
        memory = free_memory("cpu") // (2 * self.sharing) // max(1, self.kv_bytes)
        return Generator(self.model, self.settings, vocabulary, self.max_seq_len, slots, keep_prefixes, memory)

    def lay_out(self, token_budget: int, max_running: int, keep_prefixes: bool) -> None:
        """Start over with so many tokens of neighbouring requests, and answers, at a time; with prompts' prefixes kept or not."""
        self.scorer = Scorer(self.model, self.settings, self.max_seq_len, token_budget)
        self.generator = self._generator(min(max_running, SLOTS), keep_prefixes)

    def describe(self) -> dict[str, Any]:
        revision = {"revision": self.revision} if self.revision else {}
        return {
            "family": self.family,
            "parameters": self.parameters,
            "weights": {**asdict(self.stored), "sha256": self.sha256, **revision},
            "dtype": f"as stored, KV {self.settings.kv}",
            "device": self.device,
            "kernel": f"{library().build()}, flash attention {'on' if self.settings.flash_attention else 'off'}",
            "layout_invariant": False,
            "max_seq_len": self.max_seq_len,
            **self.describe_template(),
            "notices": self.notices,
        }

    def tokens(self) -> Tokens:
        used = [vars(self)[each].usage for each in ("scorer", "generator") if each in vars(self)]
        return Tokens(sum(u.computed for u in used), sum(u.shared for u in used))

    def unfinished(self) -> Sequence[int]:
        return self.generator.unfinished if "generator" in vars(self) else ()


def _threads() -> int:
    """One a core that this process may use; fewer where OMP_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdigit() and int(asked) else cores


def _parameters(file: GGUFFile, family: str) -> dict[str, int]:
    """All of them, and those that a token uses: of each stack of experts as many as are chosen."""
    experts, used = (file.metadata.get(f"{family}.{key}") for key in ("expert_count", "expert_used_count"))
    share = used / experts if isinstance(experts, int) and isinstance(used, int) and 0 < used <= experts else 1.0
    sizes = {name: math.prod(info.shape) for name, info in file.tensors.items() if not name.startswith("rope_")}
    activated = sum(round(size * share) if "_exps." in name else size for name, size in sizes.items())
    return {"total": sum(sizes.values()), "activated": activated}


def _kv_bytes(metadata: Mapping[str, Any], family: str, kv: str) -> int:
    """Bytes of keys and values that a token takes, by the file's header; 0 where it does not tell."""

    def number(key: str) -> int:
        value = metadata.get(f"{family}.{key}", 0)
        found = max(value, default=0) if hasattr(value, "__len__") and not isinstance(value, str) else value
        return int(found) if isinstance(found, int | float) or hasattr(found, "item") else 0

    heads = number("attention.head_count")
    width = number("attention.key_length") or (number("embedding_length") // heads if heads else 0)
    per_head = width + (number("attention.value_length") or width)
    return number("block_count") * (number("attention.head_count_kv") or heads) * per_head * (4 if kv == "float32" else 2)
