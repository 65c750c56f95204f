"""BenchConfig: what `evalkit bench` measures. The command line reads its defaults from it."""

import re
from dataclasses import dataclass
from pathlib import Path

from evalkit.config import RUNS, ModelSpec
from evalkit.errors import EvalkitError

MODELS = ("random:qwen1.5-moe-a2.7b", "random:qwen1.5-7b")  # the blog's two


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """One `evalkit bench`. The defaults are the blog's protocol; its number of requests is unpublished, and vLLM's script sends 1000."""

    models: tuple[str, ...] = MODELS
    engine: str = "native"
    prompt_tokens: int = 1000
    output_tokens: int = 1000
    num_requests: int = 1000
    repeats: int = 1
    device: str = "auto"
    dtype: str = "auto"
    kernel: str = "auto"
    seed: int = 0
    out: str = RUNS

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens", "num_requests", "repeats"):
            if getattr(self, name) < 1:
                raise EvalkitError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give at least 1")
        if len(set(self.models)) < len(self.models):
            raise EvalkitError(f"a model is given twice: {', '.join(self.models)}")
        for model in self.models:
            self.model_spec(model)  # refuses an unknown device, dtype or kernel

    def model_spec(self, model: str) -> ModelSpec:
        """The ModelSpec of one of the models."""
        return ModelSpec(model, self.engine, self.device, self.dtype, self.kernel)

    def folder(self, model: str) -> Path:
        """The record's folder, named after what was measured, so that the same command replaces its record."""
        last = Path(model).name.removesuffix(".gguf")
        parts = ["bench", last, self.engine, f"{self.prompt_tokens}-{self.output_tokens}x{self.num_requests}"]
        return Path(self.out) / re.sub(r"[^\w.@+-]+", "-", "--".join(parts)).lower()
