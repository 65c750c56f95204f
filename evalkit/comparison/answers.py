"""Reads the answers of a run, written by evalkit or lm-eval."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.exchange.lm_eval_answers import answers_of
from evalkit.exchange.lm_eval_read import find_results, read_results
from evalkit.record.pairs import RunAnswers, our_tasks, read_our_answers
from evalkit.record.read import is_ours


def tasks_in(path: str) -> Mapping[str, tuple[str, ...]]:
    """What a run of either program can be asked for, and what is then compared. Raises EvalkitError where it can't be read."""
    place = Path(path)
    if is_ours(path):
        return our_tasks(place)
    results = read_results(find_results(place))
    return {name: (name,) for name in dict.fromkeys([*results.groups, *results.leaves])}


def read_answers(path: str, tasks: Sequence[str] = (), metric: str | None = None, cluster: str | None = None) -> RunAnswers:
    """A run's folder, a run.json, or lm-eval's results (folder or file, with samples). Raises EvalkitError for anything else.

    `tasks`: read only these; `metric`: use it in place of the headline; `cluster`: the document field that names a shared source.
    """
    place = Path(path)
    if is_ours(path):
        run = read_our_answers(place, tasks, metric, cluster)
    else:
        run = answers_of(read_results(find_results(place)), path, tasks, metric, cluster)
    if not run.tasks:
        raise EvalkitError(f"{path} has no finished task")
    return run
