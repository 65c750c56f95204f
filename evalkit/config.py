"""ModelSpec: a model and how it is computed. RunConfig: everything that decides what a run computes."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.codec import TomlFile, decode_given
from evalkit.errors import EvalkitError, unknown
from evalkit.files import shortened
from evalkit.tasks import Sampling
from evalkit.tasks.lm_eval.options import LmEvalOptions

DEMO_MODEL = "demo"
RUNS = "results/runs"  # the folder that runs are kept in
DEVICES = ("auto", "cpu", "cuda")
FLOATS = ("float32", "bfloat16", "float16")
DTYPES = ("auto", *FLOATS, "int8")  # int8: products with quantised weights in 8-bit integers, everything else in float32
OWN = "python:"  # how the engine of a model of one's own begins
RENDERING = ("native", "llama_cpp")  # engines that render the chat template here
MOST_WORKERS = 1_024  # of one driver, which takes no more answers than so many give (docs/scaling.md)
KERNELS = ("auto", "reference", "cpu", "triton")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model, the engine that runs it, and how it is computed. `spec` is None where no model was named: the demo model.

    `chat_template_args` are variables of the model's chat template, as transformers' apply_chat_template takes them.
    """

    spec: str | None = None
    engine: str = "native"
    device: str = "auto"
    dtype: str = "auto"
    kernel: str = "auto"
    chat_template_args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        kind, _, number = self.device.partition(":")
        if kind == "cuda" and number:
            raise EvalkitError(f"device is {self.device!r}; choose the GPU by CUDA_VISIBLE_DEVICES={number}, and give the device cuda")
        choices = (("device", self.device, DEVICES), ("dtype", self.dtype, DTYPES), ("kernel", self.kernel, KERNELS))
        for name, value, known in choices:
            if value not in known:
                raise unknown(name, value, known)
        if self.kernel != "auto" and self.engine != "native":
            raise EvalkitError(f"kernel is {self.kernel!r}, and the engine {self.engine}; only the native engine has a choice of kernels")
        if self.dtype == "int8" and self.engine != "native":
            raise EvalkitError(f"dtype is 'int8', and the engine {self.engine}; only the native engine computes so: leave the dtype out")
        if self.chat_template_args and self.engine not in RENDERING:
            raise EvalkitError(
                f"chat_template_args is {dict(self.chat_template_args)!r}, and the engine {self.engine}; "
                f"only {' and '.join(RENDERING)} render the chat template: give them to that engine's server, or leave them out"
            )

    @property
    def name(self) -> str:
        """What the model is found by: the SPEC that was given, the class of a python engine, or the demo model's name."""
        return self.spec or (self.engine.rpartition(":")[2] if self.engine.startswith(OWN) else DEMO_MODEL)


DEMO = ModelSpec()


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One `evalkit run`. `None` for model and data means the demo: the demo model on the bundled sample."""

    tasks: tuple[str, ...]
    model: str | None = None
    engine: str = "native"
    data: str | None = None
    limit: int | None = None
    seed: int = 0
    temperature: float | None = None
    repeats: int = 1
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = True
    system_instruction: str | None = None
    protocol_file: str | None = None
    include_path: str | None = None
    allow_task_code: bool = False
    allow_unsafe_code: bool = False
    device: str = "auto"
    dtype: str = "auto"
    kernel: str = "auto"
    chat_template_args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    shard: str | None = None
    workers: int | None = None
    ray: str | None = None
    out: str = RUNS
    name: str | None = None
    fresh: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.tasks, str) or not all(isinstance(task, str) for task in self.tasks):
            raise EvalkitError(f"tasks is {self.tasks!r}; give a list of names, as in tasks = ['mmlu', 'gsm8k']")
        if self.limit is not None and self.limit < 1:
            raise EvalkitError(f"limit is {self.limit}; give at least 1 document, or leave it out for all")
        if isinstance(self.temperature, int):  # 1 and 1.0 are one setting, and a request's key is made of it
            object.__setattr__(self, "temperature", float(self.temperature))
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise EvalkitError(f"temperature is {self.temperature}; give 0 (greedy) or more")
        if self.repeats < 1 or (self.repeats > 1 and not self.temperature):
            raise EvalkitError(f"repeats is {self.repeats} at temperature {self.temperature or 0}; repeats need a temperature above 0")
        if self.workers is not None and self.workers < self.num_servers:
            least = "1, or leave it out" if self.num_servers == 1 else f"{self.num_servers}, one a server"
            raise EvalkitError(f"workers is {self.workers}; give at least {least}")
        if self.workers is not None and self.workers > MOST_WORKERS:
            raise EvalkitError(f"workers is {self.workers}; give {MOST_WORKERS} at most, or cut the run into shards (docs/scaling.md)")
        if self.ray == "":
            raise EvalkitError("ray is ''; give a cluster's address, auto or local")
        _ = self.model_spec  # refuses what the model cannot be computed with
        _ = self.lm_eval_options
        _ = self.part
        require_folder_name(self.name)

    @property
    def model_spec(self) -> ModelSpec:
        """The model and how it is computed, apart from what it is asked."""
        return ModelSpec(self.model, self.engine, self.device, self.dtype, self.kernel, self.chat_template_args)

    @property
    def sampling(self) -> Sampling:
        """How often and how each document is answered."""
        return Sampling(self.repeats, self.temperature, self.seed)

    @property
    def lm_eval_options(self) -> LmEvalOptions:
        """What is set of prompts, of lm-eval's tasks and others. Raises EvalkitError for options that do not go together."""
        return LmEvalOptions(
            num_fewshot=self.num_fewshot,
            apply_chat_template=self.apply_chat_template,
            fewshot_as_multiturn=self.fewshot_as_multiturn,
            system_instruction=self.system_instruction,
            include_path=self.include_path,
            allow_task_code=self.allow_task_code,
            protocol_file=self.protocol_file,
        )

    @property
    def num_workers(self) -> int:
        """As many as were asked for, or one a server; they decide nothing of what is computed."""
        return self.workers or self.num_servers

    @property
    def num_servers(self) -> int:
        """Of openai:URL,URL as many as it names; 1 of any other engine."""
        return self.engine.count(",") + 1 if self.engine.startswith("openai:") else 1

    @property
    def part(self) -> tuple[int, int] | None:
        """Shard I of N, as (I, N), I from 1; None for the whole run. Raises EvalkitError for a text that names none."""
        if self.shard is None:
            return None
        found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", self.shard)
        if found is None or int(found[1]) > int(found[2]):
            raise EvalkitError(f"shard is {self.shard!r}; give I/N, shard I of N, as in 1/4, 2/4, 3/4 and 4/4 (N is 999999 at most)")
        return int(found[1]), int(found[2])

    @property
    def is_demo(self) -> bool:
        """No model was named, none is replayed, and none is one's own: the demo model answers."""
        return self.model is None and not self.engine.startswith(("replay:", OWN))

    @property
    def data_spec(self) -> str:
        """The hub for a named model, the bundled sample for the demo; an explicit choice wins."""
        return self.data or ("sample" if self.model is None and not self.engine.startswith(OWN) else "hub")

    @property
    def run_name(self) -> str:
        """The run's folder: given, or made of model, engine, tasks, data and limit, so that the same command finds its run again."""
        if self.name:
            return shortened(self.name)
        model = Path(self.model_spec.name).name.removesuffix(".gguf") or "model"
        parts = [model, "+".join(self.tasks), Path(self.data_spec).name]
        parts += [self.engine.partition(",")[0]] if self.engine != "native" else []
        parts += [f"limit{self.limit}"] if self.limit else []
        parts += [f"t{self.temperature:g}x{self.repeats}"] if self.temperature is not None else []
        parts += [f"seed{self.seed}"] if self.seed else []
        parts += [Path(self.protocol_file).stem] if self.protocol_file else []
        parts += [self.lm_eval_options.suffix[1:]] if self.lm_eval_options.suffix else []
        parts += [f"{key}-{json.dumps(value)}" for key, value in self.chat_template_args.items()]
        parts += ["shard{}of{}".format(*self.part)] if self.part else []
        return shortened(re.sub(r"[^\w.@+-]+", "-", "--".join(parts)).lower())

    @property
    def folder(self) -> Path:
        return Path(self.out) / self.run_name


def require_folder_name(name: str | None) -> None:
    """Raises EvalkitError for a name that cannot be a run's folder: a path, or one that leads to another folder."""
    if name is not None and (not re.fullmatch(r"[\w.@+-]+", name) or set(name) == {"."}):
        raise EvalkitError(f"name is {name!r}; use letters, digits and . _ - + @, and not dots alone: it becomes a folder")


def read_toml(path: str) -> dict[str, Any]:
    """The settings of a run.toml: RunConfig's fields by name. Raises EvalkitError for unknown keys and values of another type."""
    return decode_given(RunConfig, TomlFile.read(Path(path)), "see evalkit run --help")
