"""Names -> tasks. `mmlu` is `mmlu` under its default protocol, `mmlu@lm-eval` names another; `belebele:th` is a part of a suite."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points

from evalkit.errors import EvalkitError, unknown
from evalkit.tasks import CodeTask, Sampling, SuiteTask, Task
from evalkit.tasks.lm_eval.options import AS_THEY_ARE, PREFIX, STABLE, LmEvalOptions


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


def resolve(spec: str, sampling: Sampling | None = None) -> Task:
    """ "mmlu", "mmlu@opencompass", "belebele:th" or "belebele:th@qwen" -> the Task. Raises EvalkitError with the nearest known name."""
    whole, _, protocol_name = spec.partition("@")
    name, colon, part = whole.partition(":")
    classes = task_classes()
    if name == "lm_eval":
        if part:
            raise EvalkitError(f"{spec} is a task of lm-eval's, which this command does not take; evalkit run --tasks {spec} does")
        raise EvalkitError("lm_eval is no task; give the name of one of lm-eval's, as in --tasks lm_eval:arc_easy")
    if name not in classes:
        raise unknown("task", name, classes)
    cls = classes[name]
    protocol_name = protocol_name or cls.default_protocol
    if protocol_name not in cls.protocols:
        raise unknown(f"protocol of {name}", protocol_name, cls.protocols)
    protocol = cls.protocols[protocol_name]
    asked = sampling and (sampling.repeats > 1 or sampling.temperature is not None)
    if asked and not issubclass(cls, CodeTask):
        raise EvalkitError(f"task {name} is answered once, as its protocol says; leave --repeats and --temperature out")
    if not colon:
        return cls(protocol, sampling)
    if not issubclass(cls, SuiteTask):
        raise EvalkitError(f"task {name} has no parts; leave out {colon}{part}")
    if part not in cls.parts():
        raise unknown(f"part of {name}", part, cls.parts())
    return cls(replace(protocol, task=whole), sampling, part)


def remark(task: str, protocol: str) -> str | None:
    """What a reader of a task's figures under a protocol should know. Raises EvalkitError for a task that is not known here."""
    return None if task.startswith(PREFIX) else resolve(f"{task}@{protocol}").remark()


def spec_of(task: str, protocol: str) -> str:
    """What --tasks calls a task of a finished run, without its protocol where that is the default one."""
    if task.startswith(PREFIX):
        return f"{task}@{STABLE}" if protocol.endswith(f"-{STABLE}") else task
    return task if resolve(task).protocol.name == protocol else f"{task}@{protocol}"


def _resolved(spec: str, sampling: Sampling | None, options: LmEvalOptions) -> Sequence[Task]:
    """The tasks of one spec: several where it is a tag of lm-eval's."""
    if not spec.startswith(PREFIX):
        options.require_none(spec)
        return [resolve(spec, sampling)]
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
    names = [task.protocol.task for task in tasks]
    named = {str(task.protocol) if names.count(task.protocol.task) > 1 else task.protocol.task: task for task in tasks}
    if len(named) < len(tasks):
        raise EvalkitError(f"a task is given twice: {', '.join(str(task.protocol) for task in tasks)}")
    return named
