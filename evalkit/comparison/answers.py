"""Reads the answers of a run, written by evalkit or another program."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.exchange.formats import read_other
from evalkit.exchange.lm_eval_answers import answers_of
from evalkit.exchange.lm_eval_read import find_results, read_results
from evalkit.record.pairs import RunAnswers, read_our_answers, run_answers, tasks_of
from evalkit.record.read import is_ours, read_complete


def tasks_in(path: str) -> Mapping[str, tuple[str, ...]]:
    """What a run of any program can be asked for, and what is then compared. Raises EvalkitError where it can't be read."""
    if is_ours(path):
        return tasks_of(read_complete(path))
    if (other := read_other(path)) is not None:
        return tasks_of(other.run)
    results = read_results(find_results(Path(path)))
    return {name: (name,) for name in dict.fromkeys([*results.groups, *results.leaves])}


def read_answers(path: str, tasks: Sequence[str] = (), metric: str | None = None, cluster: str | None = None) -> RunAnswers:
    """A run's folder, a run.json, or results of another program with their samples. Raises EvalkitError for anything else.

    `tasks`: read only these; `metric`: use it in place of the headline; `cluster`: the document field that names a shared source.
    """
    place = Path(path)
    if is_ours(path):
        run = read_our_answers(place, tasks, metric, cluster)
    elif (other := read_other(path)) is not None:
        other.require_samples()
        run = run_answers(other.run, place, lambda key: (other.samples[key], path), tasks, metric, cluster, other.source)
    else:
        run = answers_of(read_results(find_results(place)), path, tasks, metric, cluster)
    if not run.tasks:
        raise EvalkitError(f"{path} has no finished task")
    return run
