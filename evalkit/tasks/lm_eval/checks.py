"""What lm-eval would ask or score in silence, and be wrong: a label that is no choice, a name that is no column, a null as a word."""

from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.errors import DataError

TARGET_FIELDS = ("doc_to_text", "doc_to_target", "doc_to_choice")
_CHOICES_SHOWN = 6


def require_columns(task: Any, name: str) -> None:
    """Raises DataError where a field is one word that is no column: lm-eval would take the word itself as every row's text.

    A target that a generated answer or a log-likelihood is held against may be one word for all rows.
    """
    fields = ["doc_to_text"] + (["doc_to_target"] if task.OUTPUT_TYPE in ("multiple_choice", "loglikelihood_rolling") else [])
    for field in fields:
        value = getattr(task.config, field)
        if isinstance(value, str) and value.isidentifier() and value not in task.features and not _is_a_choice(task, value):
            raise DataError(f"lm_eval:{name}: {field}: {value} is no column of its rows; they have {', '.join(sorted(task.features))}")


def _is_a_choice(task: Any, value: str) -> bool:
    choices = task.config.doc_to_choice
    return isinstance(choices, list) and value in choices


def require_target(task: Any, doc: Any, where: str) -> None:
    """Raises DataError where lm-eval's own scoring has no right choice to compare with, and would count the row as wrong."""
    from lm_eval.api.task import ConfigurableTask

    config = task.config
    if type(task).process_results is not ConfigurableTask.process_results or callable(config.process_results):
        return
    if task.OUTPUT_TYPE != "multiple_choice" and (task.OUTPUT_TYPE != "generate_until" or config.doc_to_choice is None):
        return
    choices = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    require_choice(gold, choices, where)


def require_choice(gold: Any, choices: Sequence[Any], where: str) -> None:
    """Raises DataError unless `gold` is the index of a choice, or a choice, or a list of indices."""
    if isinstance(gold, list) and gold and all(isinstance(each, int) for each in gold):
        gold = next((each for each in gold if not 0 <= each < len(choices)), 0)
    if (isinstance(gold, int) and 0 <= gold < len(choices)) or (isinstance(gold, str) and gold in choices):
        return
    listed = ", ".join(f"{each!r:.60}" for each in choices[:_CHOICES_SHOWN]) + (", ..." if len(choices) > _CHOICES_SHOWN else "")
    hidden = gold in (-1, "", "-1", None)
    advice = "a hidden test set has no labels; use a split that has them" if hidden else "give the index of a choice, from 0, or its text"
    raise DataError(f"{where}: label {gold!r:.60} is none of its {len(choices)} choices ({listed}); {advice}")


def require_written(value: Any, row: Mapping[str, Any], name: str) -> None:
    """Raises DataError for a null, or a number that is none, where a prompt or a target is made: lm-eval writes "None" and "nan" there."""
    found = next((each for each in (value if isinstance(value, list | tuple) else [value]) if each is None or _is_nan(each)), 0)
    if found is None or _is_nan(found):
        columns = [key for key, each in row.items() if each is None or _is_nan(each)]
        what = f"{' and '.join(columns)} {'are' if len(columns) > 1 else 'is'} null" if columns else f"a null is written ({value!r:.60})"
        own = {key: each for key, each in row.items() if not callable(each)}
        raise DataError(f"lm_eval:{name}: {what} in a row that it asks, {own!r:.200}; fill it in, or leave the row out")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value
