"""What a program gives for a run, and for tasks."""

import os
from collections.abc import Sequence
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.library.result import Run

Place = str | os.PathLike[str]
AnyRun = Place | Run  # a run's folder, its run.json, a results folder of lm-eval with samples; or a Run


def path_of(run: AnyRun) -> str:
    """Where the run is."""
    return str(run.folder) if isinstance(run, Run) else os.fspath(run)


def names_of(tasks: Any) -> list[str]:
    """Names, one by one, or in one text as on the command line. Raises EvalkitError for anything else."""
    if isinstance(tasks, str):
        return [name.strip() for name in tasks.split(",") if name.strip()]
    if not isinstance(tasks, Sequence) or not all(isinstance(name, str) for name in tasks):
        raise EvalkitError(f"tasks is {tasks!r:.60}; give names, as in tasks=['mmlu', 'gsm8k']")
    return [*tasks]
