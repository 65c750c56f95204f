"""The task adapters. They import nothing of evalkit but its task API; the harness finds them through `TASKS`.

A module that defines tasks lists them in its own `TASKS`, which is all that is needed to find it.
"""

import importlib
import pkgutil

from evalkit.tasks import Task

TASKS: dict[str, type[Task]] = {
    task.name: task
    for module in pkgutil.walk_packages(__path__, f"{__name__}.")
    for task in getattr(importlib.import_module(module.name), "TASKS", ())
}
