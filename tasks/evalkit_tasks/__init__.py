"""The task adapters. They import evalkit's task API and nothing else of it; the harness finds them through `TASKS`.

A module that defines tasks lists them in a `TASKS` of its own, and is found by that alone.
"""

import importlib
import pkgutil

from evalkit.tasks import Task

TASKS: dict[str, type[Task]] = {
    task.name: task
    for module in pkgutil.walk_packages(__path__, f"{__name__}.")
    for task in getattr(importlib.import_module(module.name), "TASKS", ())
}
