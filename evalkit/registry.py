"""Names -> tasks. `mmlu` is `mmlu` under its default protocol, `mmlu@lm-eval` names another."""

from evalkit.api import Task
from evalkit.errors import EvalkitError, unknown


def task_classes() -> dict[str, type[Task]]:
    """Every task there is, by name."""
    from evalkit_tasks import TASKS

    return TASKS


def resolve(spec: str) -> Task:
    """ "mmlu" or "mmlu@opencompass" -> the Task. Raises EvalkitError with the nearest known name."""
    name, _, protocol = spec.partition("@")
    classes = task_classes()
    if name not in classes:
        raise unknown("task", name, classes)
    cls = classes[name]
    protocol = protocol or cls.default_protocol
    if protocol not in cls.protocols:
        raise unknown(f"protocol of {name}", protocol, cls.protocols)
    return cls(cls.protocols[protocol])


def resolve_all(specs: tuple[str, ...]) -> list[Task]:
    """One Task a spec, in order. Raises EvalkitError where none is given or one is given twice."""
    tasks = [resolve(spec) for spec in specs]
    keys = [str(task.protocol) for task in tasks]
    if not tasks:
        raise EvalkitError("no task given; try --tasks mmlu,gsm8k")
    if len(set(keys)) < len(keys):
        raise EvalkitError(f"a task is given twice: {', '.join(keys)}")
    return tasks
