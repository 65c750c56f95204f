"""What commands share: the options, and how parsed arguments become a configuration.

An option that was not given is absent from the arguments: a configuration file and the dataclass's defaults then decide.
"""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_origin

from evalkit.config import DEMO_MODEL, DEVICES, DTYPES, KERNELS, ModelSpec, RunConfig
from evalkit.fields import annotations, without_none

if TYPE_CHECKING:  # rich would slow --help down
    from evalkit.progress import Reporter

# the options of `evalkit run`, by RunConfig's fields: (what stands for the value, help); other commands take some of them
SHARED = {
    "tasks": ("T[,T]", "mmlu, gsm8k, or with a protocol: gsm8k@lm-eval (see evalkit ls tasks)"),
    "model": ("SPEC", f"hub id, folder, .gguf file, or a name from evalkit ls models (default: {DEMO_MODEL})"),
    "engine": ("ENGINE", "native, lm_eval:hf, lm_eval:vllm, .., openai:URL, replay:RUN"),
    "data": ("DATA", "hub, sample, or a folder (default: EVALKIT_DATA, else hub; sample for the demo model)"),
    "limit": ("N", "at most N documents a task (of the multilingual suite: a cell), always the same ones"),
    "seed": ("N", "for sampled answers"),
    "temperature": ("X", "for tasks that can be sampled (default: the protocol's; 0 is greedy)"),
    "repeats": ("N", "answers a document, sampled"),
    "allow_unsafe_code": ("", "run model-written code without a full sandbox"),
    "device": ("", "(default: auto, cuda where there is one)"),
    "dtype": ("", "(default: auto, float32 on cpu and bfloat16 on cuda)"),
    "kernel": ("", "(default: auto, cpu or without a compiler torch on cpu, triton on cuda)"),
    "out": ("DIR", "where runs are kept"),
    "name": ("NAME", "the run's folder (default: made of model, tasks, data and limit)"),
    "fresh": ("", "start anew instead of resuming"),
    "quiet": ("", "print the result only"),
}
MODEL = ("model", "device", "dtype", "kernel")
CHOICES = {"device": DEVICES, "dtype": DTYPES, "kernel": KERNELS}


def add_shared(command: ArgumentParser, *names: str, required: bool = False, **helps: str) -> None:
    """Options of `evalkit run` by name; `helps` replaces what a command says of one of them."""
    for name in names:
        metavar, text = SHARED[name]
        settings: dict[str, Any] = {"choices": CHOICES[name]} if name in CHOICES else {"metavar": metavar} if metavar else {}
        add_option(command, RunConfig, name, helps.get(name, text), required=required, **settings)


def add_option(command: ArgumentParser, config: type, field: str, help: str, flag: str = "", **settings: Any) -> None:
    """An option that fills a field of the configuration: its type and its default are the field's."""
    annotation = without_none(annotations(config)[field])
    default = next(each.default for each in fields(config) if each.name == field)
    if annotation is bool:
        settings["action"] = "store_true"
    else:
        settings["type"] = _names if get_origin(annotation) is tuple else annotation
        if "(default: " not in help and isinstance(default, str | int | float):
            help = f"{help} (default: {default:g})" if isinstance(default, float) else f"{help} (default: {default})"
    command.add_argument(flag or f"--{field.replace('_', '-')}", dest=field, default=SUPPRESS, help=help.strip(), **settings)


def add_pairing(command: ArgumentParser) -> None:
    """How two runs are put side by side."""
    command.add_argument("--tasks", type=_names, default=(), metavar="T[,T]", help="only these of the runs' tasks")
    command.add_argument("--metric", help="instead of the headline: acc_norm; of lm-eval's with its filter: exact_match,strict-match")
    command.add_argument("--cluster", metavar="FIELD", help="the field of a document that names its source: a passage, a sentence")


def add_published(command: ArgumentParser, default: str | None = "qwen1.5-moe", help: str = "(default: %(default)s)") -> None:
    """Which published table is meant."""
    command.add_argument("--published", metavar="NAME", default=default, help=f"a published table, or a .toml file with one {help}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def given(arguments: Namespace, config: type) -> dict[str, Any]:
    """What was given for the configuration's fields."""
    return {field.name: getattr(arguments, field.name) for field in fields(config) if hasattr(arguments, field.name)}


def model_of(arguments: Namespace) -> ModelSpec:
    """The model that the arguments name. Raises EvalkitError."""
    return ModelSpec(getattr(arguments, "model", None), **given(arguments, ModelSpec))


def with_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with EVALKIT_DATA for `data` where they do not say: the one place that reads it."""
    data = settings.get("data") or os.environ.get("EVALKIT_DATA")
    return {**settings, "data": data} if data else dict(settings)


def reporter_of(arguments: Namespace) -> Reporter:
    """Where the command says how far it is."""
    from evalkit.progress import Reporter

    return Reporter(getattr(arguments, "quiet", False))
