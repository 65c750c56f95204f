"""A loaded model, and contexts that run its tokens: what lies between llama.cpp's pointers and numpy arrays.

llama.cpp computes in a thread of its own, so that Ctrl-C reaches Python meanwhile and can stop it.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.lm.llama_cpp.library import Batch, ContextParams, library

PASS = 512  # tokens that llama.cpp computes at once
OUTPUTS = 128  # of them whose logits it keeps: with a vocabulary of 150,000 they take 77 MB
CELL = 256  # llama.cpp's contexts have multiples of so many tokens
TYPES = {"float32": 0, "float16": 1, "bfloat16": 30}  # ggml_type of keys and values
_ABORTED = 2
_FULL = 1


class _Thread:
    """The one thread that calls llama.cpp. `stop` is what its abort callback reads between two operations.

    The callback has to be a C function, since a Python one would cost as much as the operations of a small model. strlen is one: of an
    empty text it is 0, go on, and of a text of one letter it is 1, stop.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "llama.cpp")
        self.stop = ctypes.create_string_buffer(2)
        self.should_stop = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's result. An interrupt is raised once the function has stopped."""
        running = self._pool.submit(function, *arguments)
        try:
            return running.result()
        except BaseException:
            self.stop[0] = b"x"
            running.exception()  # waits; after a second interrupt the program ends, and it still has to stop
            self.stop[0] = b"\0"
            raise


_thread = _Thread()


class Model:
    """A GGUF file that llama.cpp has loaded. Raises EvalkitError, in one line, where it can't load or can't run it."""

    def __init__(self, path: Path, vocabulary_only: bool = False):
        self.path, self.library = path, library()
        params = self.library.llama_model_default_params()
        params.vocab_only, params.n_gpu_layers = vocabulary_only, 0
        self.library.why()
        self.pointer = _thread.call(self.library.llama_model_load_from_file, os.fsencode(path), params)
        if not self.pointer:
            raise EvalkitError(f"llama.cpp can't load {path}: {self.library.why()}")
        weakref.finalize(self, self.library.llama_model_free, self.pointer)
        self.vocabulary = self.library.llama_model_get_vocab(self.pointer)
        self.vocab_size = int(self.library.llama_vocab_n_tokens(self.vocabulary))
        lacking = [
            (self.library.llama_model_has_encoder(self.pointer), "it has an encoder"),
            (not self.library.llama_model_has_decoder(self.pointer), "it has no decoder"),
            (self.library.llama_model_is_diffusion(self.pointer), "it is a diffusion model"),
            (not self.library.llama_vocab_type(self.vocabulary), "it has no vocabulary"),
        ]
        for is_so, what in lacking:
            if is_so:
                raise EvalkitError(f"{path}: {what}; only models that continue a text from left to right can be evaluated")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a context computes. `kv`: the precision of keys and values, a key of TYPES.

    Flash attention is off: with it, llama.cpp rounds float32 keys and values to float16, and how it adds up a single token's attention
    depends on the number of threads. Scoring would be some 7% faster, decoding 8% slower.
    """

    kv: str
    threads: int
    flash_attention: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens to run in a sequence, from position `begin` on; `wanted` are the indices of those whose logits are asked for."""

    sequence: int
    begin: int
    tokens: Sequence[int]
    wanted: Sequence[int] = ()


class Context:
    """Keys and values (or states) of several sequences, and the passes that fill them.

    `unified`: sequences share one memory of `length` tokens in all, and attention is computed over all of it; otherwise each sequence has
    `length` of its own.
    """

    def __init__(self, model: Model, settings: Settings, length: int, sequences: int, unified: bool):
        """Raises EvalkitError where llama.cpp can't make it, mostly for lack of memory."""
        self.model, self.library = model, model.library
        params = self.library.llama_context_default_params()
        params.n_ctx = _padded(length) * (1 if unified else sequences)
        params.n_batch = params.n_ubatch = PASS
        params.n_seq_max, params.kv_unified = sequences, unified
        params.n_outputs_max = OUTPUTS
        params.n_threads = params.n_threads_batch = settings.threads
        params.type_k = params.type_v = TYPES[settings.kv]
        params.flash_attn_type = int(settings.flash_attention)
        params.offload_kqv = params.op_offload = False
        params.abort_callback = _thread.should_stop
        params.abort_callback_data = ctypes.cast(_thread.stop, ctypes.c_void_p)
        self.library.why()
        self.pointer = _thread.call(self.library.llama_init_from_model, model.pointer, params)
        if not self.pointer:
            raise EvalkitError(
                f"llama.cpp can't hold {sequences} sequences of {length:,} tokens of {model.path.name}: {self.library.why()}; "
                "free some memory, or use a smaller model"
            )
        weakref.finalize(self, self.library.llama_free, self.pointer)
        self.memory = self.library.llama_get_memory(self.pointer)
        self._check(params, length)

    def _check(self, params: ContextParams, length: int) -> None:
        """Does the context have what it was asked to have? A structure that is laid out otherwise than it seems would show here."""
        lib, pointer, at_once = self.library, self.pointer, min(PASS, params.n_ctx)
        found = lib.llama_n_batch(pointer), lib.llama_n_ubatch(pointer), lib.llama_n_seq_max(pointer), lib.llama_n_threads(pointer)
        expected = at_once, at_once, params.n_seq_max, params.n_threads
        if found != expected or lib.llama_n_ctx_seq(pointer) < length:
            raise EvalkitError(f"{lib.build()} made a context of {found} where {expected} was asked for; this is a fault of evalkit")

    def copy(self, source: int, target: int) -> None:
        """Let an empty sequence begin with all tokens of another."""
        self.library.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def cut(self, sequence: int, length: int) -> int:
        """Keep a sequence's first `length` tokens; returns how many are kept: none where the model's state can't go back."""
        if length and self.library.llama_memory_seq_rm(self.memory, sequence, length, -1):
            return length
        self.library.llama_memory_seq_rm(self.memory, sequence, -1, -1)
        return 0

    def run(self, parts: Sequence[Part]) -> Iterator[tuple[Part, int, np.ndarray]]:
        """Yield (part, index of the token, its logits [V]) of every token wanted. The logits hold until the next is asked for."""
        owner = [part for part in parts for _ in part.tokens]
        index = [i for part in parts for i in range(len(part.tokens))]
        tokens = np.array([token for part in parts for token in part.tokens], np.int32)
        positions = np.array([part.begin + i for part, i in zip(owner, index, strict=True)], np.int32)
        sequences = np.array([part.sequence for part in owner], np.int32)
        wanted = np.zeros(len(tokens), np.int8)
        first = 0
        for part in parts:
            wanted[[first + i for i in part.wanted]] = 1
            first += len(part.tokens)
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self.model.vocab_size:
            raise EvalkitError(f"a token is not below the vocabulary's size of {self.model.vocab_size} in {self.model.path.name}")
        for begin, end in _passes(wanted):
            self._decode(tokens[begin:end], positions[begin:end], sequences[begin:end], wanted[begin:end])
            for at in np.flatnonzero(wanted[begin:end]).tolist():
                row = self.library.llama_get_logits_ith(self.pointer, at)
                if not row:
                    raise EvalkitError(f"llama.cpp gave no logits: {self.library.why()}")
                yield owner[begin + at], index[begin + at], np.ctypeslib.as_array(row, (self.model.vocab_size,))

    def _decode(self, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, wanted: np.ndarray) -> None:
        """One pass; all arrays are contiguous and of the types that `Batch` names."""
        ones = np.ones(len(tokens), np.int32)
        pointers = np.arange(len(tokens), dtype=np.uint64) * np.uint64(4) + np.uint64(sequences.ctypes.data)  # one sequence a token
        batch = Batch(
            len(tokens),
            tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            None,
            positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            ones.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            pointers.ctypes.data,
            wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        self.library.why()
        status = _thread.call(self.library.llama_decode, self.pointer, batch)
        if status == _FULL:
            raise EvalkitError(f"llama.cpp's memory of keys and values is full; this is a fault of evalkit ({self.library.build()})")
        if status:
            raise EvalkitError(f"llama.cpp failed on {self.model.path.name}, status {status}: {self.library.why()}")


def _padded(length: int) -> int:
    return -(-length // CELL) * CELL


def _passes(wanted: np.ndarray) -> Iterator[tuple[int, int]]:
    """(begin, end) of the passes: at most PASS tokens each, and OUTPUTS of them wanted."""
    begin = outputs = 0
    for i, is_wanted in enumerate(wanted.tolist()):
        if i - begin == PASS or outputs + is_wanted > OUTPUTS:
            yield begin, i
            begin, outputs = i, 0
        outputs += is_wanted
    if begin < len(wanted):
        yield begin, len(wanted)
