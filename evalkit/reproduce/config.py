"""ReproduceConfig: everything that decides what is reproduced, and where."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evalkit.config import ModelSpec, RunConfig
from evalkit.errors import EvalkitError
from evalkit.judge.config import JudgeConfig

REPRODUCED = "results/reproduced"


@dataclass(frozen=True, slots=True)
class ReproduceConfig:
    """One `evalkit reproduce`. `budget`: hours; `judge_model` and `judge_url` name the judge of judged benchmarks."""

    table: str
    models: tuple[str, ...] = ()
    plan: bool = False
    warm_up: bool = False
    budget: float | None = None
    limit: int | None = None
    data: str = "hub"
    judge_model: str | None = None
    judge_url: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    kernel: str = "auto"
    allow_unsafe_code: bool = False
    out: str = REPRODUCED
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.budget is not None and not 0 < self.budget < float("inf"):
            raise EvalkitError(f"budget is {self.budget} hours; give more than 0, or leave it out for all that can be had")
        _ = self.run(self.model(None), ("none",))  # refuses what no run takes

    @property
    def folder(self) -> Path:
        """Where this reproduction's runs, measurements and report are: one folder for one way to make the figures."""
        changed = [value for value in (self.device, self.dtype, self.kernel) if value != "auto"]
        parts = [Path(self.table).name.removesuffix(".toml"), *(["sample"] if self.data == "sample" else []), *changed]
        parts += [f"limit{self.limit}"] if self.limit else []
        return Path(self.out) / re.sub(r"[^\w.@+-]+", "-", "-".join(parts))

    def model(self, spec: str | None) -> ModelSpec:
        """The model with this SPEC, computed as asked."""
        return ModelSpec(spec, device=self.device, dtype=self.dtype, kernel=self.kernel)

    def judge(self, run: Path) -> JudgeConfig:
        """The judge of a run's answers."""
        judge = JudgeConfig(run, self.judge_model or "", data=self.data)
        return replace(judge, url=self.judge_url) if self.judge_url else judge

    def run(self, model: ModelSpec, tasks: Sequence[str], name: str | None = None) -> RunConfig:
        """The run of these tasks on one model, in a folder of this reproduction."""
        return RunConfig(
            tuple(tasks),
            model=model.spec,
            data=self.data,
            limit=self.limit,
            device=self.device,
            dtype=self.dtype,
            kernel=self.kernel,
            allow_unsafe_code=self.allow_unsafe_code,
            out=str(self.folder),
            name=name,
            quiet=self.quiet,
        )
