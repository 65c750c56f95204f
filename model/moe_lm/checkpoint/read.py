"""Reads checkpoints: opening one gives its configuration, tokenizer and sha256; its weights are read later, when they are needed.

Whatever can be checked without reading the weights is checked when the checkpoint is opened. Parameters are read one at a time.
"""

import hashlib
import mmap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import torch

from moe_lm.checkpoint import folder, gguf
from moe_lm.checkpoint.weights import Parameters, Progress, Stored, Weights
from moe_lm.config import ModelConfig
from moe_lm.errors import ModelError
from moe_lm.model import Decoder
from moe_lm.rope import LongRopeScaling
from moe_lm.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint without the values of its weights; `sha256` is over all its bytes (weights, configuration, tokenizer).

    `read` returns the model in a precision and on a device, its quantised weights as they are stored if so asked (there are some where it
    `is_quantized`); `stream` yields its parameters one after another, in float32. Both raise ModelError for NaN or infinite values, and
    where the files have changed since they were hashed.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    sha256: str
    read: "Read"
    stream: Callable[[], Parameters]
    notices: tuple[str, ...] = ()  # what a user should know about how the files were read, a line each
    stored: Stored | None = None  # None for random weights
    num_bytes: int = 0  # of all its files
    find_width: Callable[[], float] = lambda: 4.0  # see `width`, for which many tensors may have to be read
    find_quantized: Callable[[], bool] = lambda: False

    @property
    def width(self) -> float:
        """Bytes of a weight, on average, if quantised ones stay as they are stored and others become float32."""
        return self.find_width()

    @property
    def is_quantized(self) -> bool:
        """Has it weights that products read as they are stored?"""
        return self.find_quantized()


class Read(Protocol):
    """Reads a checkpoint's weights: see `Checkpoint`."""

    def __call__(self, dtype: torch.dtype, device: str, progress: Progress | None, quantized: bool = False) -> Decoder: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run."""

    model: Decoder
    tokenizer: Tokenizer
    sha256: str


def load(path: Path, dtype: torch.dtype = torch.float32, device: str = "cpu", progress: Progress | None = None) -> Loaded:
    """Open a checkpoint and read its weights at once. Raises ModelError as `open_checkpoint` and `Checkpoint.read` do."""
    checkpoint = open_checkpoint(path)
    return Loaded(checkpoint.read(dtype, device, progress), checkpoint.tokenizer, checkpoint.sha256)


def open_checkpoint(path: Path) -> Checkpoint:
    """Hash and check a .gguf file, a folder with one, or one with config.json, *.safetensors and tokenizer.json; no weight is read.

    Raises ModelError, in one line, for a missing, truncated or unsupported file and a missing, surplus or misshapen tensor.
    """
    parse: Callable[[Path], tuple[Tokenizer, Weights]]
    if path.is_dir() and not (path / "config.json").exists():
        path = gguf.model_in(path) or path
    if path.is_dir():
        files, parse = folder.files_of(path), folder.parse
    elif path.suffix == ".gguf":
        files, parse = gguf.files_of(path), gguf.parse
    else:
        raise ModelError(f"{path} is neither a .gguf file nor a folder with config.json and *.safetensors")
    stamps = _stamps(files)
    with _hashing(files) as digest:
        tokenizer, weights = parse(path)
        weights.check()
        tokenizer.fit(weights.config.vocab_size)
        sha256 = digest()

    def check_unchanged() -> None:
        if _stamps(files) != stamps:
            raise ModelError(f"{path} changed after it was opened; run the same command again")

    def read(dtype: torch.dtype, device: str, progress: Progress | None, quantized: bool = False) -> Decoder:
        check_unchanged()
        model = weights.read(dtype, device, progress, quantized)
        check_unchanged()
        return model

    def stream() -> Parameters:
        check_unchanged()
        yield from weights.stream()
        check_unchanged()

    notices = (*weights.notices, *tokenizer.notices, *_context_notices(weights.config))
    size = sum(size for _, size, _ in stamps)
    found = cache(weights.width), cache(weights.is_quantized)
    return Checkpoint(weights.config, tokenizer, sha256, read, stream, notices, weights.stored, size, *found)


def _context_notices(config: ModelConfig) -> Iterator[str]:
    scaling = config.rope_scaling
    if isinstance(scaling, LongRopeScaling) and config.max_seq_len < scaling.max_position_embeddings:
        yield (
            f"rope_type longrope: sequences end at {config.max_seq_len:,} tokens, where another set of frequencies would begin; "
            f"the model goes on to {scaling.max_position_embeddings:,}"
        )


def _stamps(files: Sequence[Path]) -> list[tuple[int, int, int]]:
    """Inode, size and ctime of each file: they change when a file is replaced or written to (mtime could be set back)."""
    try:
        return [(stat.st_ino, stat.st_size, stat.st_ctime_ns) for stat in (file.stat() for file in files)]
    except OSError as error:
        raise ModelError(f"cannot read {error.filename}: {error.strerror}") from None


@contextmanager
def _hashing(files: Sequence[Path]) -> Iterator[Callable[[], str]]:
    """`sha256_of`, computed while the block does other work, which need not wait for it where it fails."""
    abandoned = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(sha256_of, files, abandoned.is_set)
        try:
            yield digest.result
        except BaseException:
            abandoned.set()
            raise


def sha256_of(files: Iterable[Path], abandoned: Callable[[], bool] = lambda: False) -> str:
    """One digest over the files' contents, in the given order; a single file's is what `sha256sum` prints. "" where it is abandoned."""
    # blocks so large that the thread waits seldom for Python's global lock; mapped, for the C heap keeps what it has once given back
    digest = hashlib.sha256()
    with mmap.mmap(-1, 1 << 24) as room:
        for file in files:
            with open(file, "rb", buffering=0) as f:
                while size := f.readinto(room):
                    digest.update(memoryview(room)[:size])
                    if abandoned():
                        return ""
    return digest.hexdigest()
