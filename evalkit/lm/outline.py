"""A native model by its headers: its work, its tokenizer and its files, without torch, without hashing and without reading weights.

For a plan, which has to answer at once. What a run computes with is opened, hashed and checked by `evalkit.lm.native`.
"""

from collections.abc import Sequence
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.bench.roofline import Shape
from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.hashing import sha256_json
from evalkit.lm.conversation import template_for
from evalkit.lm.native import NOT_QUANTIZED, NUMERICS, device_of, dtype_of, random_configuration
from evalkit.lm.pass_speed import Like
from evalkit.lm.shape import shape_of, width_of
from evalkit.lm.tokenized import one_line
from moe_lm import known
from moe_lm.checkpoint.folder import kind_of
from moe_lm.checkpoint.gguf_config import hf_config
from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.config import ModelConfig, from_hf
from moe_lm.tokenizer.tokenizer import Tokenizer

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 4}  # bytes of an activation, and of a weight that is not quantised


class Outline:
    """The checkpoint at `path`, a .gguf file or a folder; None for "random:CONFIG". A folder's weights need not be there.

    Raises EvalkitError where moe_lm cannot run it.

    `stamp` changes with the files, and with all else that makes a run's answers others: precision, device, kernels, versions.
    """

    def __init__(self, model: ModelSpec, path: Path | None):
        settings = [NUMERICS, version("torch"), device_of(model), dtype_of(model), model.kernel]
        self._metadata: Any = None
        self._spec, self._path = model.name, path
        self.kind: str | None = None  # of most quantised weights, where they are computed as they are stored
        dtype = dtype_of(model)
        self._width: float = WIDTHS[dtype]
        with one_line():
            self.config, files = self._read(model, path)
        if dtype == "int8" and not self.kind:
            raise EvalkitError(f"--dtype int8: {NOT_QUANTIZED.format(model.name)}; use --dtype float32")
        self.shape: Shape = shape_of(self.config, self._width, WIDTHS[dtype])
        self.stamp = sha256_json([*settings, repr(self.config), [(f.name, (s := f.stat()).st_size, s.st_mtime_ns) for f in files]])

    def _read(self, model: ModelSpec, path: Path | None) -> tuple[ModelConfig, list[Path]]:
        if path is None:
            return random_configuration(model.name), []
        as_stored = device_of(model) == "cpu" and model.kernel in ("auto", "cpu") and dtype_of(model) in ("float32", "int8")
        if path.is_dir():
            config = known.in_folder(path)
            if as_stored and (kind := kind_of(path, config.hidden_size)):
                self.kind, self._width = kind, width_of(config, kind)
            return config, sorted(file for file in path.iterdir() if file.is_file())
        file = GGUFFile(path)
        self._metadata = file.metadata
        if as_stored:
            self.kind, self._width = file.kind, file.width()
        return from_hf(hf_config(file.metadata, {name: tensor.shape for name, tensor in file.tensors.items()})), file.paths

    @property
    def like(self) -> Like:
        """What to measure this device's speed on."""
        return Like.of(self.kind, self.config.hidden_size)

    @property
    def has_template(self) -> bool:
        """Can it answer conversations: has it a chat template, or a name that FastChat has one for?"""
        if self._path is None:
            return False  # the tokenizer of bytes has none
        with one_line():
            held = self._metadata.get("tokenizer.chat_template") if self._metadata else self._tokenizer.chat_template
        return bool(held or template_for(self._spec))

    def count(self, texts: Sequence[str]) -> int:
        """How many tokens the texts have, all in all. Raises EvalkitError for a tokenizer that is not readable."""
        if self._path is None:
            return sum(len(text.encode()) for text in texts)  # random weights come with a tokenizer of bytes
        with one_line():
            return sum(map(len, self._tokenizer.encode_batch(list(texts))))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        assert self._path is not None
        return _of_gguf(_Metadata(self._metadata)) if self._metadata else Tokenizer.from_folder(self._path)


class _Metadata:
    """A GGUF's metadata as a key: models of one family have one vocabulary, and building its tokenizer takes a second."""

    def __init__(self, metadata: Any):
        self.metadata = metadata
        values = [metadata.get(f"tokenizer.ggml.{part}") for part in ("model", "pre", "tokens", "merges")]
        self._key = tuple(value.tobytes() if isinstance(value, np.ndarray) else value for value in values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Metadata) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@cache
def _of_gguf(metadata: _Metadata) -> Tokenizer:
    return Tokenizer.from_gguf(metadata.metadata)
