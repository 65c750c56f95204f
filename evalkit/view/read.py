"""Reads a run to view, written by evalkit or another program."""

from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.exchange.formats import read_other
from evalkit.record.read import is_ours
from evalkit.view.data import ViewedRun, read_ours, viewed
from evalkit.view.lm_eval import read_lm_eval


def read(path: str) -> ViewedRun:
    """A run's folder, its run.json, or results of another program with their samples. Raises EvalkitError."""
    if is_ours(path):
        run = read_ours(Path(path))
    elif (other := read_other(path)) is not None:
        other.require_samples()
        run = viewed(other.run, other.folder, other.samples, other.source)
    else:
        run = read_lm_eval(Path(path))
    if not run.n:
        raise EvalkitError(f"{path} has no finished task, so there is no sample to show")
    return run
