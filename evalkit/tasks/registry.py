"""Names -> tasks. `mmlu` is `mmlu` under its default protocol, `mmlu@lm-eval` names another; `belebele:th` is a part of a task."""

from collections.abc import Sequence
from dataclasses import replace

from evalkit.errors import EvalkitError, unknown
from evalkit.tasks import Sampling, Task


def task_classes() -> dict[str, type[Task]]:
    """Every task there is, by name."""
    from evalkit_tasks import TASKS

    return TASKS


def resolve(spec: str, sampling: Sampling | None = None) -> Task:
    """ "mmlu", "mmlu@opencompass", "belebele:th" or "belebele:th@qwen" -> the Task. Raises EvalkitError with the nearest known name."""
    whole, _, protocol = spec.partition("@")
    name, _, part = whole.partition(":")
    classes = task_classes()
    if name not in classes:
        raise unknown("task", name, classes)
    cls = classes[name]
    protocol = protocol or cls.default_protocol
    if protocol not in cls.protocols:
        raise unknown(f"protocol of {name}", protocol, cls.protocols)
    asked = sampling and (sampling.repeats > 1 or sampling.temperature is not None)
    if asked and not cls.can_sample:
        raise EvalkitError(f"task {name} is answered once, as its protocol says; leave --repeats and --temperature out")
    if whole == name:
        return cls(cls.protocols[protocol], sampling)
    if part not in cls.parts():
        raise unknown(f"part of {name}", part, cls.parts())
    return cls(replace(cls.protocols[protocol], task=whole), sampling, part)


def resolve_all(specs: Sequence[str], sampling: Sampling | None = None) -> dict[str, Task]:
    """One Task a spec, in order, by the name it bears in run.json: the task's, or task@protocol where one is given twice.

    Raises EvalkitError where none is given, or the same task under the same protocol twice.
    """
    tasks = [resolve(spec, sampling) for spec in specs]
    if not tasks:
        raise EvalkitError("no task given; try --tasks mmlu,gsm8k")
    names = [task.protocol.task for task in tasks]
    named = {str(task.protocol) if names.count(task.protocol.task) > 1 else task.protocol.task: task for task in tasks}
    if len(named) < len(tasks):
        raise EvalkitError(f"a task is given twice: {', '.join(str(task.protocol) for task in tasks)}")
    return named
