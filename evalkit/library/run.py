"""`evalkit.run` and `evalkit.load_run`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from evalkit.cli.options import with_data
from evalkit.codec import decode
from evalkit.config import RUNS, RunConfig
from evalkit.errors import EvalkitError
from evalkit.library.given import Place, names_of
from evalkit.library.result import Run
from evalkit.record.read import read_run, run_folder
from evalkit.tasks import Generate, Loglikelihood


class Model(Protocol):
    """A model of a program's own; what each method gives is in docs/models.md."""

    def loglikelihood(self, requests: list[Loglikelihood], /) -> Iterable[Any]: ...

    def loglikelihood_rolling(self, texts: list[str], /) -> Iterable[Any]: ...

    def generate(self, requests: list[Generate], /) -> Iterable[Any]: ...


def run(
    tasks: str | Sequence[str],
    model: Place | Model | Callable[[str], str] | None = None,
    engine: str = "native",
    data: Place | None = None,
    limit: int | None = None,
    seed: int = 0,
    temperature: float | None = None,
    repeats: int = 1,
    num_fewshot: int | None = None,
    apply_chat_template: bool = False,
    fewshot_as_multiturn: bool = True,
    system_instruction: str | None = None,
    protocol_file: Place | None = None,
    include_path: Place | None = None,
    allow_task_code: bool = False,
    allow_unsafe_code: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    kernel: str = "auto",
    chat_template_args: Mapping[str, Any] | None = None,
    shard: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    out: Place = RUNS,
    name: str | None = None,
    fresh: bool = False,
    quiet: bool = True,
) -> Run:
    """`evalkit run` with the same settings, defaults and folder: the same call again, or the command, resumes the run.

    `tasks`: names, or one text as on the command line; `model`: a SPEC, or an object with the three methods of docs/models.md, or a
    callable, prompt -> text, for tasks that generate. Progress goes to standard error unless `quiet`. Raises EvalkitError (bad input) and
    RunIncomplete (stopped early; what is done is kept), which Ctrl-C and, in the main thread, SIGTERM do too.
    """
    settings: dict[str, Any] = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in locals().items()}
    settings |= {"tasks": names_of(tasks), "chat_template_args": dict(chat_template_args or {})}
    own = None
    if not isinstance(settings["model"], str | None):
        from evalkit.lm.python.engine import own_model, require_no_device

        if workers is not None or ray is not None:
            raise EvalkitError(
                "a model that is an object is in this process alone; leave workers and ray out, or give engine='python:FILE:CLASS'"
            )
        own = own_model(model, engine)
        settings |= {"model": own.spec, "engine": "python"}
    config: RunConfig = decode(RunConfig, with_data(settings), "evalkit.run", "see help(evalkit.run)")
    if own:
        require_no_device(config.model_spec)

    from evalkit.progress import Reporter
    from evalkit.runner import run as runner
    from evalkit.runner.staged import run_command

    command = _call(config) if own else run_command(config)
    return Run.of(runner.run(config, Reporter(config.quiet), own, command), config.folder)


def load_run(path: Place) -> Run:
    """The run of a folder, or of a run.json, finished or not (`is_complete`). Raises EvalkitError where there is none that can be read."""
    return Run.of(read_run(os.fspath(path)), run_folder(os.fspath(path)))


def _call(config: RunConfig) -> str:
    """The call that resumes a run of an object, which no command line can name."""
    given = {
        each.name: getattr(config, each.name)
        for each in inspect.signature(run).parameters.values()
        if each.name not in ("tasks", "model", "engine", "fresh", "quiet", "name") and getattr(config, each.name) not in (each.default, {})
    }
    settings = "".join(f", {key}={value!r}" for key, value in given.items())
    return f"evalkit.run({list(config.tasks)!r}, model=<{config.model}>{settings}, name={config.run_name!r})"
