"""FidelityConfig: a reference, its copies, and what they are compared on. The command line reads its defaults from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evalkit.config import ModelSpec, RunConfig
from evalkit.errors import EvalkitError, unknown
from evalkit.files import shortened

SETTINGS = ("engine", "device", "dtype", "kernel")  # what a model may have of its own: SPEC,dtype=bfloat16


@dataclass(frozen=True, slots=True)
class FidelityConfig:
    """One `evalkit fidelity`. A model is SPEC[,SETTING=VALUE..]; the settings here hold for models that do not have their own."""

    reference: str
    copies: tuple[str, ...]
    tasks: tuple[str, ...]
    engine: str = "native"
    device: str = "auto"
    dtype: str = "auto"
    kernel: str = "auto"
    chat_template_args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    data: str = "hub"
    limit: int | None = None
    allow_unsafe_code: bool = False
    out: str | None = None
    fresh: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        RunConfig(self.tasks, limit=self.limit)  # refuses what no run takes
        if not self.copies:
            raise EvalkitError("no copy given; give at least one beside the reference")
        if self.fresh and self.out is None:
            raise EvalkitError("--fresh measures again what --out DIR holds; give --out, or leave --fresh out")
        if twice := [copy for i, copy in enumerate(self.copies) if self.model(copy) in map(self.model, self.copies[:i])]:
            raise EvalkitError(f"a copy is given twice: {twice[0]}")
        _ = self.model(self.reference)

    def model(self, text: str) -> ModelSpec:
        """The model that SPEC[,SETTING=VALUE..] names. Raises EvalkitError."""
        shared = ModelSpec(None, self.engine, self.device, self.dtype, self.kernel, self.chat_template_args)
        spec, own = text, dict[str, str]()
        while "," in spec and not Path(spec).expanduser().exists():
            head, _, setting = spec.rpartition(",")
            name, sign, value = setting.partition("=")
            if not sign:
                break
            if name not in SETTINGS:
                raise unknown(f"setting in {text!r}:", name, SETTINGS)
            if name in own:
                raise EvalkitError(f"{text}: {name} is given twice")
            own[name], spec = value, head
        if not spec:
            raise EvalkitError(f"{text!r} names no model; give SPEC or SPEC,SETTING=VALUE, as in ./model.gguf,dtype=float32")
        return replace(shared, spec=spec, **own)  # type: ignore[arg-type]

    def name(self, text: str) -> str:
        """What a model is called in tables: its file's name and its own settings, or the whole where two models would have the same."""
        names = [self._short(each) for each in dict.fromkeys((self.reference, *self.copies))]
        return self._short(text) if names.count(self._short(text)) == 1 else shortened(text)

    def _short(self, text: str) -> str:
        model = self.model(text)
        own = [setting.partition("=")[2] for setting in text.removeprefix(model.name).split(",")[1:]]
        return shortened(", ".join([Path(model.name).name.removesuffix(".gguf") or model.name, *own]))
