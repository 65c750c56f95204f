"""The native back-end: moe_lm. Only evalkit/lm/ imports the model package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from evalkit.config import ModelSpec
from evalkit.data.hub_files import commit_of
from evalkit.errors import EvalkitError
from evalkit.hashing import sha256_json
from evalkit.lm.base import OnLoad, Tokens
from evalkit.lm.distributions import NextToken, TokenRequest
from evalkit.lm.models import find
from evalkit.lm.tokenized import TokenizedLM, one_line

if TYPE_CHECKING:
    import torch

    from moe_lm.backends.base import Backend
    from moe_lm.checkpoint.read import Checkpoint
    from moe_lm.config import ModelConfig
    from moe_lm.engine.generator import Generator
    from moe_lm.engine.pages import PagePool
    from moe_lm.engine.scorer import Scorer
    from moe_lm.tokenizer.tokenizer import Tokenizer
    from moe_lm.upcycle.preserve import Upcycle

# raise it when moe_lm's arithmetic, or how it reads a checkpoint, changes: old answers then no longer match this model's fingerprint
NUMERICS = 13
GPUS = ("nvidia[0-9]*", "nvmap", "dxg", "kfd")  # in /dev: NVIDIA's, a Tegra's, one below Windows, AMD's
NOT_QUANTIZED = "{} has no quantised weights of a kind that is computed so (a GGUF file's Q4_K or GPTQ's 4 bits, for example)"


def device_of(model: ModelSpec) -> str:
    """ "cpu" or "cuda". torch is asked only where there may be a GPU."""
    if model.device != "auto":
        return model.device
    if not any(any(Path("/dev").glob(name)) for name in GPUS):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_of(model: ModelSpec) -> str:
    """The precision that is computed in."""
    return model.dtype if model.dtype != "auto" else "float32" if device_of(model) == "cpu" else "bfloat16"


def known_configurations() -> list[str]:
    """The names of the well-known configurations in moe_lm."""
    from moe_lm.known import names

    return names()


def count_parameters(model: str | Path) -> dict[str, int]:
    """Total, activated and activated non-embedding parameters of a known configuration, or of a folder's config.json.

    No weights are read and torch is not imported. Raises EvalkitError for an unknown name or a config.json that moe_lm cannot read.
    """
    from moe_lm import known
    from moe_lm.count import count

    with one_line():
        return asdict(count(known.in_folder(model) if isinstance(model, Path) else known.config(model)))


def free_memory(device: str) -> int:
    """Bytes that a model may take: of the GPU, or of the machine and of the container that this process runs in."""
    from moe_lm.engine import memory

    return memory.free_memory(device)


def random_configuration(spec: str) -> ModelConfig:
    """What "random:CONFIG" names: a known configuration, by name or hub id, a config.json or a folder with one. Raises EvalkitError."""
    from moe_lm import known
    from moe_lm.config import from_hf
    from moe_lm.files import read_json

    name = spec.removeprefix("random:")
    path = Path(name).expanduser()
    with one_line():
        if path.is_file():
            return from_hf(read_json(path))
        if path.is_dir():
            return known.in_folder(path)
        by_hub_id = name.rpartition("/")[2].lower()  # random:Qwen/Qwen1.5-MoE-A2.7B
        return known.config(by_hub_id if by_hub_id in known.names() else name)


class NativeLM(TokenizedLM):
    """A moe_lm checkpoint on one device. On a CPU, answers do not depend on batch, order or other requests.

    The weights are read by `prepare`, or at the first request.
    """

    tokenizer: Tokenizer
    kv_memory: int | None = None  # bytes for keys and values
    shared_weights: int | None = None  # descriptor of a file
    sharing = 1  # engines in this memory: their keys and values take half of what is free, all together
    keeps_prefixes = False  # between calls, for requests that are scored; the generator keeps them in any case
    revision: str | None = None  # the hub's commit that the checkpoint is of

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: str,
        recipe: Upcycle | None,
        dtype: str,
        device: str,
        kernel: str,
        chat_template_args: Mapping[str, Any] = MappingProxyType({}),
    ):
        import torch

        from moe_lm.backends import choose, why_not_cpu
        from moe_lm.upcycle.preserve import preserved

        super().__init__(spec, checkpoint.tokenizer, chat_template_args)
        self.checkpoint, self.recipe = checkpoint, recipe
        self.config = preserved(checkpoint.config, recipe) if recipe else checkpoint.config
        self.dtype = dtype
        place = torch.empty(0, dtype=self._torch_dtype, device=device)  # a device that does not work fails here
        self.device = str(place.device)
        self.kernel = choose(kernel, place.device.type, place.dtype)
        self.notices = [*checkpoint.notices]
        if dtype == "int8":
            self._check_int8(place.device.type)
        if self.kernel == "reference" and place.device.type == "cpu" and (reason := why_not_cpu(place.dtype)):
            self.notices.append(f"plain torch computes, slower and without layout invariance: {reason}")
        numerics = [NUMERICS, self.dtype, place.device.type, self.kernel, torch.__version__]
        self.fingerprint = "sha256:" + sha256_json([checkpoint.sha256, repr(recipe), self.tokenizer.sha256(), numerics, *self.template])

    @classmethod
    def load(cls, model: ModelSpec, on_load: OnLoad | None = None) -> NativeLM:
        """`open`, then read the weights. Raises EvalkitError in one line."""
        lm = cls.open(model)
        lm.prepare(on_load)
        return lm

    @classmethod
    def open(cls, model: ModelSpec) -> NativeLM:
        """Find and check the model that `model.name` names. Raises EvalkitError in one line."""
        import torch

        from moe_lm.checkpoint.random_weights import random_checkpoint
        from moe_lm.checkpoint.read import open_checkpoint
        from moe_lm.upcycle.preserve import Upcycle

        device, dtype = device_of(model), dtype_of(model)
        if device == "cuda" and not torch.cuda.is_available():
            raise EvalkitError("--device cuda: no CUDA device is visible to torch; use --device cpu")
        if model.name.startswith("random:"):
            with one_line():
                checkpoint = random_checkpoint(random_configuration(model.name))
                return cls(checkpoint, model.name, None, dtype, device, model.kernel, model.chat_template_args)
        other = "llama_cpp" if model.name.endswith(".gguf") else "lm_eval:hf"
        with one_line(f"; another engine may run it, such as --engine {other}"):
            found = find(model.name, checked=False)
            checkpoint, recipe = open_checkpoint(found.path), Upcycle() if found.upcycle else None
            found.check(checkpoint.sha256)
            lm = cls(checkpoint, model.name, recipe, dtype, device, model.kernel, model.chat_template_args)
            lm.revision = commit_of(found.path)
            return lm

    @property
    def max_seq_len(self) -> int:
        return self.config.max_seq_len

    @property
    def ready(self) -> bool:
        return "backend" in vars(self)

    def prepare(self, on_load: OnLoad | None = None) -> None:
        if not self.ready:
            self.backend = self._read(on_load)

    @cached_property
    def backend(self) -> Backend:
        return self._read(None)

    @cached_property
    def pool(self) -> PagePool:
        """The memory for keys and values: `kv_memory` bytes, by default half of what is free. Raises EvalkitError if they do not fit."""
        from moe_lm.engine.pages import pool_for

        shared = free_memory(self.device) // (2 * self.sharing) if self.sharing > 1 else None
        with one_line():
            return pool_for(self.backend, shared if self.kv_memory is None else self.kv_memory)

    @cached_property
    def scorer(self) -> Scorer:
        from moe_lm.engine.scorer import Scorer

        return Scorer(self.backend, pool=self.pool, keep_prefixes=self.keeps_prefixes)

    @cached_property
    def generator(self) -> Generator:
        from moe_lm.engine.generator import Generator

        tokenizer = self.tokenizer
        return Generator(self.backend, tokenizer.decode, tokenizer.stop_ids, pool=self.pool, special=tokenizer.special)

    def keep_prefixes(self) -> None:
        self.keeps_prefixes = True

    def share_memory(self, engines: int, weights: int | None = None) -> None:
        self.sharing, self.shared_weights = engines, weights

    def distributions(self, requests: Sequence[TokenRequest]) -> Iterator[NextToken]:
        """See `evalkit.lm.distributions`."""
        import numpy as np

        from moe_lm.engine.scorer import ScoreRequest

        with one_line():
            for logits_V, logsumexp in self.scorer.distributions([ScoreRequest(each.context, each.continuations) for each in requests]):
                yield NextToken(logits_V.numpy(force=True), np.float32(logsumexp))

    def _read(self, on_load: OnLoad | None) -> Backend:
        from moe_lm.backends import build
        from moe_lm.engine.memory import trim_heap
        from moe_lm.upcycle.preserve import preserve

        trim_heap()  # what building the tokenizer took
        with one_line(), self._sharing_weights():
            model = self.checkpoint.read(self._torch_dtype, self.device, on_load, self.computes_blocks)
            if self.recipe:
                model = preserve(model, self.recipe)
            backend = build(model, self.kernel, self.dtype == "int8")
        trim_heap()  # what reading the weights took
        return backend

    def _sharing_weights(self) -> AbstractContextManager[None]:
        if self.shared_weights is None or self.kernel != "cpu":
            return nullcontext()
        from moe_lm.backends.cpu.shared import sharing

        return sharing(self.shared_weights)

    @property
    def _torch_dtype(self) -> torch.dtype:
        import torch

        return torch.float32 if self.dtype == "int8" else getattr(torch, self.dtype)

    @property
    def computes_blocks(self) -> bool:
        """Are quantised weights computed as they are stored? Otherwise they are expanded when they are read."""
        from moe_lm.backends import backend_class

        in_float32 = self.dtype in ("float32", "int8")
        return backend_class(self.kernel).quantized and in_float32 and self.checkpoint.is_quantized and not self.recipe

    @property
    def width(self) -> float:
        """Bytes of a weight in memory, on average."""
        return self.checkpoint.width if self.computes_blocks else self._torch_dtype.itemsize

    def _check_int8(self, device: str) -> None:
        """Raises EvalkitError where there is nothing that could be computed in 8-bit integers, or no kernels that do it."""
        from moe_lm.backends import why_not_cpu

        if not self.checkpoint.is_quantized:
            reason = NOT_QUANTIZED.format(self.spec)
        elif self.recipe:
            reason = f"{self.spec} is upcycled when it is loaded, for which its weights are expanded"
        elif device != "cpu" or self.kernel != "cpu":
            missing = why_not_cpu(self._torch_dtype) if device == "cpu" else ""
            reason = missing or f"only --kernel cpu, on a CPU, computes so, and here it is {self.kernel} on {device}"
        else:
            return
        raise EvalkitError(f"--dtype int8: {reason}; use --dtype float32")

    def lay_out(self, token_budget: int, max_running: int, keep_prefixes: bool, chunk: int | None = None) -> None:
        """Start over with the given tokens per pass (`chunk`: of long prompts), sequences at a time, and with prompts' pages kept or not.

        No answer may depend on it.
        """
        from moe_lm.engine.generator import Generator
        from moe_lm.engine.scorer import Scorer

        vars(self).pop("pool", None)
        self.scorer = Scorer(self.backend, token_budget, self.pool, keep_prefixes)
        tokenizer = self.tokenizer
        self.generator = Generator(
            self.backend,
            tokenizer.decode,
            tokenizer.stop_ids,
            max_running,
            token_budget,
            chunk=chunk,
            pool=self.pool,
            keep_prefixes=keep_prefixes,
            special=tokenizer.special,
        )

    def describe(self) -> dict[str, Any]:
        from moe_lm.backends import backend_class
        from moe_lm.count import count

        parameters = count(self.config)
        return {
            "family": self.config.family,
            "parameters": {"total": parameters.total, "activated": parameters.activated},
            **({"weights": self.stored} if self.stored else {}),
            "dtype": self.dtype,
            "device": self.device,
            "kernel": self.kernel,
            "layout_invariant": backend_class(self.kernel).invariant,
            "max_seq_len": self.config.max_seq_len,
            **self.describe_template(),
            **({"notices": [*self.checkpoint.notices]} if self.checkpoint.notices else {}),
        }

    @property
    def file_bytes(self) -> int | None:
        """The size of the checkpoint's files; None for random weights."""
        return self.checkpoint.num_bytes or None

    @property
    def stored(self) -> dict[str, Any]:
        """run.json's `model.weights`; {} for random weights."""
        stored, revision = self.checkpoint.stored, self.revision
        known = {"revision": revision} if revision else {}
        return {**asdict(stored), "sha256": self.checkpoint.sha256, **known} if stored else {}

    def tokens(self) -> Tokens:
        used = [vars(self)[each].usage for each in ("scorer", "generator") if each in vars(self)]
        return Tokens(sum(u.computed for u in used), sum(u.shared for u in used))

    def unfinished(self) -> Sequence[int]:
        return self.generator.unfinished if "generator" in vars(self) else ()
