"""Reads a run to view, written by evalkit or lm-eval."""

from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.record.read import is_ours
from evalkit.view.data import ViewedRun, read_ours
from evalkit.view.lm_eval import read_lm_eval


def read(path: str) -> ViewedRun:
    """A run's folder, its run.json, or lm-eval's results (folder or file). Raises EvalkitError."""
    run = read_ours(Path(path)) if is_ours(path) else read_lm_eval(Path(path))
    if not run.n:
        raise EvalkitError(f"{path} has no finished task, so there is no sample to show")
    return run
