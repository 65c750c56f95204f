"""Names -> tasks. `mmlu` is `mmlu` under its default protocol, `mmlu@lm-eval` names another, `mmlu@qwen+chat` one in another form;
`belebele:th` is a part of a suite, `capitals.csv` and `my_tasks.py:capitals` are tasks of one's own.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from evalkit.codec import Misfit, TomlFile
from evalkit.errors import EvalkitError, unknown
from evalkit.hashing import sha256_json
from evalkit.tasks import CodeTask, Protocol, Sampling, SuiteTask, Task
from evalkit.tasks.lm_eval.options import AS_THEY_ARE, PREFIX, STABLE, LmEvalOptions
from evalkit.tasks.own import OwnSpec, is_own
from evalkit.tasks.prompt_form import AS_IT_IS, Form


def task_classes() -> dict[str, type[Task]]:
    """Every task there is, by name: those of evalkit_tasks and of installed packages. Raises EvalkitError where one can't be loaded."""
    from evalkit_tasks import TASKS

    return TASKS | installed_tasks()


@cache
def installed_tasks() -> dict[str, type[Task]]:
    """The tasks of other packages: those in `TASKS` of each module that an entry point of the group `evalkit.tasks` names."""
    from evalkit_tasks import TASKS

    found: dict[str, type[Task]] = {}
    for entry in entry_points(group="evalkit.tasks"):
        where = f"entry point {entry.name} = {entry.value}"
        try:
            tasks = entry.load().TASKS
        except Exception as error:  # another package's code
            raise EvalkitError(f"{where} can't be loaded ({error!r}); mend that package or uninstall it") from None
        for task in tasks:
            if task.name in TASKS or task.name in found:
                raise EvalkitError(f"{where}: there is a task {task.name} already; give it another name")
            found[task.name] = task
    return found


def task_class(name: str) -> type[Task]:
    """A task by its name, or a file's (`my_tasks.py:capitals`, `capitals.csv`). Raises EvalkitError with the nearest known name."""
    if own := OwnSpec.parse(name):
        return _own_class(own)
    classes = task_classes()
    if name not in classes:
        if "." in name or "/" in name:
            raise EvalkitError(f"{name!r} is no task, nor a task's file, which ends in .py, .csv, .jsonl, .json or .toml (docs/tasks.md)")
        raise unknown("task", name, classes)
    return classes[name]


def _own_class(own: OwnSpec) -> type[Task]:
    """The task of a file of one's own. Raises EvalkitError."""
    if not own.is_python:
        from evalkit_tasks.data_file.task import data_file_task

        return data_file_task(own.file)
    from evalkit.tasks.python_file import classes

    found = classes(own.file)
    if own.name and own.name not in found:
        raise unknown(f"task of {own.file}", own.name, found)
    if not own.name and len(found) > 1:
        raise EvalkitError(f"{own.file} has several tasks; name one: {', '.join(f'{own.file}:{name}' for name in found)}")
    return found[own.name] if own.name else next(iter(found.values()))


def resolve(spec: str, sampling: Sampling | None = None, form: Form = AS_IT_IS, protocol_file: str | None = None) -> Task:
    """ "mmlu", "mmlu@opencompass", "mmlu@qwen+3-shot", "belebele:th", "belebele:th@qwen", "my_tasks.py:capitals" -> the Task.

    Raises EvalkitError with the nearest known name.
    """
    if own := OwnSpec.parse(spec):
        name, part, protocol_name = str(own.file) + (f":{own.name}" if own.name else ""), own.part, own.protocol
    else:
        whole, _, protocol_name = spec.partition("@")
        name, colon, part = whole.partition(":")
        if colon and not part:
            raise EvalkitError(f"{spec} names no part after the colon; leave the colon out")
        if name == "lm_eval":
            if part:
                raise EvalkitError(f"{spec} is a task of lm-eval's, which this command does not take; evalkit run --tasks {spec} does")
            raise EvalkitError("lm_eval is no task; give the name of one of lm-eval's, as in --tasks lm_eval:arc_easy")
    cls = task_class(name)
    protocol = _protocol(cls, protocol_name, form, protocol_file)
    asked = sampling and (sampling.repeats > 1 or sampling.temperature is not None)
    if asked and not issubclass(cls, CodeTask):
        raise EvalkitError(f"task {cls.name} is answered once, as its protocol says; leave --repeats and --temperature out")
    if not part:
        return cls(protocol, sampling)
    if not issubclass(cls, SuiteTask):
        raise EvalkitError(f"task {cls.name} has no parts; leave out :{part}")
    if part not in cls.parts():
        raise unknown(f"part of {cls.name}", part, cls.parts())
    return cls(replace(protocol, task=f"{cls.name}:{part}"), sampling, part)


def _protocol(cls: type[Task], name: str, form: Form, file: str | None) -> Protocol:
    """A task's protocol by its name, which may say its form ("qwen+3-shot+chat"), in that form and `form`. Raises EvalkitError.

    `file`: where a protocol of the user's own is, which is the task's default then.
    """
    base, said = Form.of_name(name)
    protocols = dict(cls.protocols)
    if file is not None and base not in protocols:
        own = _own_protocol(cls, file)
        protocols[own.name], base = own, base or own.name
    base = base or cls.default_protocol
    if base not in protocols and re.search(r"-[0-9a-f]{8}$", base) and cls.file is None:
        given = f"is {', '.join(protocols.keys() - cls.protocols.keys())}" if file else "is not given"
        raise EvalkitError(
            f"{cls.name}@{base} is a protocol of a file, and the file {given}; pass the one that it was, with --protocol-file"
        )
    if base not in protocols:
        raise unknown(f"protocol of {cls.name}", base, protocols)
    protocol, wanted = protocols[base], said.beside(form)
    if wanted != AS_IT_IS:
        protocol = cls.in_form(protocol, wanted)
    if lacking := [part for part in name.split("+")[1:] if part.startswith(("system-", "file-")) and part not in protocol.name.split("+")]:
        what = "give its text with --system-instruction" if lacking[0].startswith("system-") else f"{cls.file} has changed since"
        raise EvalkitError(f"{cls.name} is not to be had as {name}, but as {protocol.name}: {what}")
    return protocol


def _own_protocol(cls: type[Task], file: str) -> Protocol:
    """The protocol of a .toml with one table, NAME-HASH by its table's name and settings. Raises EvalkitError, with the line."""
    toml = TomlFile.read(Path(file).expanduser())
    if len(toml.values) != 1 or not all(isinstance(table, dict) for table in toml.values.values()):
        raise EvalkitError(f"{file} holds {', '.join(toml.values) or 'nothing'}; give it one table, [NAME] with the keys of a protocol")
    ((name, table),) = toml.values.items()
    if not re.fullmatch(r"[\w.-]+", name):
        raise EvalkitError(f"{file}: [{name}] can't name a protocol; use letters, digits and . _ -")
    try:
        protocol = cls.protocol_of(name, table)
    except Misfit as misfit:
        raise misfit.in_file(toml, "see docs/tasks.md") from None
    digest = sha256_json([protocol.headline, protocol.averaging, protocol.settings])
    return replace(protocol, name=f"{name}-{digest[:8]}")


def remark(task: str, protocol: str) -> str | None:
    """What a reader of a task's figures under a protocol should know. Raises EvalkitError for a task that is not known here."""
    if task.startswith(PREFIX) or is_own(task):
        return None
    if protocol not in task_class(task.partition(":")[0]).protocols:
        return f"no published figure is under {protocol}, a protocol of one's own or another form of a published one"
    return resolve(f"{task}@{protocol}").remark()


def require_leave(spec: str, given: bool) -> None:
    """Raises EvalkitError for a recorded task that is Python of a file, unless leave was `given`: a run's record may be anyone's."""
    if not given and (own := OwnSpec.parse(spec)) and own.is_python:
        raise EvalkitError(f"{spec} is Python of {own.file}, by the run's record; read that file, and pass --allow-task-code to run it")


def spec_of(task: str, protocol: str, file: str | None = None, allow_task_code: bool = False) -> str:
    """What --tasks calls a task of a finished run, without its protocol where that is the default one; `file`: the one it was read from.

    Raises EvalkitError where the file is not there, or is Python without leave, or a protocol is not known here.
    """
    if task.startswith(PREFIX):
        return f"{task}@{STABLE}" if protocol.endswith(f"-{STABLE}") else task
    spec = task if file is None else f"{Path(file).parent / task}"
    require_leave(spec, allow_task_code)
    first, *parts = protocol.split("+")
    base = "+".join([first, *(part for part in parts if not part.startswith(("system-", "file-")))])
    return spec if resolve(spec).protocol.name == protocol else f"{spec}@{base}"


def _resolved(spec: str, sampling: Sampling | None, options: LmEvalOptions) -> Sequence[Task]:
    """The tasks of one spec: several where it is a tag of lm-eval's."""
    if not spec.startswith(PREFIX):
        options.require_for_lm_eval(spec)
        return [resolve(spec, sampling, options.form, options.protocol_file)]
    from evalkit.tasks.lm_eval.task import tasks

    if sampling and (sampling.repeats > 1 or sampling.temperature is not None):
        raise EvalkitError(f"task {spec} is answered as its own file says; leave --repeats and --temperature out")
    return tasks(spec.removeprefix(PREFIX), options, sampling)


def resolve_all(specs: Sequence[str], sampling: Sampling | None = None, options: LmEvalOptions = AS_THEY_ARE) -> dict[str, Task]:
    """The tasks of the specs, in order, by their names in run.json: the task's name, or task@protocol where the task is given twice.

    Raises EvalkitError where none is given, or the same task under the same protocol twice.
    """
    tasks = [task for spec in specs for task in _resolved(spec, sampling, options)]
    if not tasks:
        raise EvalkitError("no task given; try --tasks mmlu,gsm8k")
    if options.protocol_file and all(Form.of_name(task.protocol.name)[0] in task.protocols for task in tasks):
        raise EvalkitError("--protocol-file has no effect, since every task names its protocol; leave out the @.. of one, or the file")
    names = [task.protocol.task for task in tasks]
    named = {str(task.protocol) if names.count(task.protocol.task) > 1 else task.protocol.task: task for task in tasks}
    if len(named) < len(tasks):
        raise EvalkitError(f"a task is given twice: {', '.join(str(task.protocol) for task in tasks)}")
    return named
