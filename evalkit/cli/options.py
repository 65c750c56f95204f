"""Options that commands share, and how parsed arguments become a configuration.

An option that was not given is absent from the arguments, so that a configuration file or the dataclass's default decides.
"""

from __future__ import annotations

import os
from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace, _ActionsContainer
from collections.abc import Mapping
from dataclasses import fields
from json import JSONDecodeError
from types import MappingProxyType, NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from evalkit.codec import parse_json
from evalkit.config import DEMO_MODEL, DEVICES, DTYPES, KERNELS, ModelSpec, RunConfig

if TYPE_CHECKING:  # rich would slow --help down
    from evalkit.progress import Reporter

# the options of `evalkit run` by RunConfig's fields: (metavar, help); other commands take some of them
SHARED = {
    "tasks": (
        "T[,T]",
        "tasks to run, with or without a protocol: mmlu,gsm8k@lm-eval (see evalkit ls tasks), lm-eval's: lm_eval:arc_easy, or your own: "
        "capitals.csv, my_tasks.py:capitals (docs/tasks.md)",
    ),
    "model": ("SPEC", f"hub id, folder, .gguf file, random:CONFIG, or a name from evalkit ls models (default: {DEMO_MODEL})"),
    "engine": (
        "ENGINE",
        "native, llama_cpp (a .gguf file in llama.cpp), lm_eval:CLASS (as lm_eval:hf), openai:URL[,URL], replay:RUN, or python:FILE:CLASS "
        "(a model of your own: docs/models.md)",
    ),
    "data": ("DATA", "data source: hub, sample, or a folder (default: EVALKIT_DATA, else hub; for the demo model, sample)"),
    "limit": ("N", "at most N documents per task (per cell of a suite); the same ones for the same N"),
    "seed": ("N", "seed of the sampling"),
    "temperature": ("X", "sampling temperature, for tasks that can be sampled; 0 is greedy (default: the protocol's)"),
    "repeats": ("N", "sampled answers per document"),
    "num_fewshot": ("K", "shots of each document (default: as the protocol has it); another number is another protocol: qwen+3-shot"),
    "apply_chat_template": ("", "ask in the model's chat template; the protocol is then another one: qwen+chat"),
    "fewshot_as_multiturn": (
        "",
        "under the chat template, shots are turns of the conversation (lm-eval's default), or parts of the one question",
    ),
    "system_instruction": ("TEXT", "what the prompts begin with; with the chat template, a system message"),
    "protocol_file": ("FILE.toml", "protocol of your own for a built-in task, in the schema of evalkit_tasks/protocols (docs/tasks.md)"),
    "include_path": ("DIR", "folder of lm-eval task files of your own, found by their names before lm-eval's own"),
    "allow_task_code": (
        "",
        "run the Python of lm_eval:NAME tasks that have some, and metrics that they download; of a recorded run, also its FILE.py",
    ),
    "allow_unsafe_code": ("", "run model-written code even if the sandbox is incomplete"),
    "device": ("", "device to run on (default: auto, a GPU if there is one)"),
    "dtype": ("", "precision of weights and activations (default: auto, float32 on a CPU and bfloat16 on a GPU); int8: see docs/models.md"),
    "kernel": ("", "kernels to compute with (default: auto: cpu, or reference if those are not built; triton on a GPU)"),
    "chat_template_args": ("KEY=VALUE", "variable of the chat template, such as enable_thinking=false; may be given several times"),
    "shard": ("I/N", "answer shard I of N alone, for evalkit merge (docs/scaling.md)"),
    "workers": ("N", "processes on this machine that answer, or actors with --ray: the same samples (default: 1, or one a server)"),
    "ray": ("ADDRESS", "answer on a Ray cluster: its address, auto (the one this machine is in), or local (one made here)"),
    "out": ("DIR", "folder of all runs"),
    "name": ("NAME", "name of the run's folder (default: made from model, tasks, data and limit)"),
    "fresh": ("", "start over instead of resuming"),
    "quiet": ("", "print only the result"),
}
MODEL = ("model", "device", "dtype", "kernel")
FLAGS = {"chat_template_args": "--chat-template-arg"}
CHOICES = {"device": DEVICES, "dtype": DTYPES, "kernel": KERNELS}


def add_shared(command: _ActionsContainer, *names: str, required: bool = False, helps: Mapping[str, str] = MappingProxyType({})) -> None:
    """Add options of `evalkit run` by name; `helps` replaces their help texts for a command."""
    for name in names:
        metavar, text = SHARED[name]
        settings: dict[str, Any] = {"choices": CHOICES[name]} if name in CHOICES else {"metavar": metavar} if metavar else {}
        add_option(command, RunConfig, name, helps.get(name, text), FLAGS.get(name, ""), required=required, **settings)


def add_option(command: _ActionsContainer, config: type, field: str, help: str, flag: str = "", *older: str, **settings: Any) -> None:
    """Add an option for a field of the configuration, with the field's type and default; `older` are earlier spellings of its flag."""
    annotation = _without_none(get_type_hints(config)[field])
    default = next(each.default for each in fields(config) if each.name == field)
    if annotation is bool:
        settings["action"] = BooleanOptionalAction if default is True else "store_true"
    elif get_origin(annotation) is Mapping:
        settings |= {"type": _pair, "action": _Pairs}
    else:
        settings["type"] = _names if get_origin(annotation) is tuple else annotation
        if "(default: " not in help and isinstance(default, str | int | float):
            help = f"{help} (default: {default:g})" if isinstance(default, float) else f"{help} (default: {default})"
    command.add_argument(flag or f"--{field.replace('_', '-')}", *older, dest=field, default=SUPPRESS, help=help.strip(), **settings)


def add_pairing(command: ArgumentParser) -> None:
    """Add the options that say how two runs are paired."""
    command.add_argument("--tasks", type=_names, default=(), metavar="T[,T]", help="tasks to compare (default: all)")
    command.add_argument(
        "--metric",
        help="metric to compare, such as acc_norm; for lm-eval with its filter: exact_match,strict-match (default: the task's headline)",
    )
    command.add_argument(
        "--cluster", metavar="FIELD", help="document field that names a shared source, such as a passage; errors are then clustered by it"
    )


def add_published(command: ArgumentParser, default: str | None = "qwen1.5-moe", help: str = "(default: %(default)s)") -> None:
    """Add the option that names a published table."""
    command.add_argument(
        "--published", metavar="TABLE", default=default, help=f"a published table: a name of evalkit ls tables, or a .toml file {help}"
    )


def _without_none(annotation: Any) -> Any:
    """`X` of `X | None`; any other annotation as it stands."""
    kinds = [each for each in get_args(annotation) if each is not NoneType]
    return kinds[0] if isinstance(annotation, UnionType) else annotation


def _pair(text: str) -> tuple[str, Any]:
    """KEY=VALUE: the value is read as JSON, or as true or false in capitals too; if it is neither, it is a text."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise ArgumentTypeError(f"{text!r} is not KEY=VALUE, as in enable_thinking=false")
    try:
        return key, parse_json(value.lower() if value.lower() in ("true", "false") else value)
    except JSONDecodeError:
        return key, value
    except ValueError as error:  # a key twice, or nested too deep
        raise ArgumentTypeError(f"{key}: {error}") from None


class _Pairs(Action):
    """Adds a pair to those that were given before it."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None) -> None:
        key, value = values
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), key: value})


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def given(arguments: Namespace, config: type) -> dict[str, Any]:
    """The arguments that were given for fields of the configuration."""
    return {field.name: getattr(arguments, field.name) for field in fields(config) if hasattr(arguments, field.name)}


def model_of(arguments: Namespace) -> ModelSpec:
    """The model that the arguments name. Raises EvalkitError."""
    return ModelSpec(getattr(arguments, "model", None), **given(arguments, ModelSpec))


def with_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with `data` from EVALKIT_DATA if they lack it. No other code reads that variable."""
    data = settings.get("data") or os.environ.get("EVALKIT_DATA")
    return {**settings, "data": data} if data else dict(settings)


def reporter_of(arguments: Namespace) -> Reporter:
    """The reporter of the command's progress."""
    from evalkit.progress import Reporter

    return Reporter(getattr(arguments, "quiet", False))
