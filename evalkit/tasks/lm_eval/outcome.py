"""What a sample records of a document that lm-eval scored: the answer in one line, the right one, and values as JSON has them."""

from collections.abc import Mapping, Sequence
from datetime import date, time
from typing import Any

INVALID = "[invalid]"  # what lm-eval's regex filters give where they find nothing


def extracted_from(task: Any, doc: Any, filtered: Sequence[Any]) -> tuple[str, bool]:
    """What is scored, in one line: the likeliest choice, or the filtered answer; and whether a filter found nothing."""
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(doc)
        likely = [logprob for logprob, _ in filtered[: len(choices)]]
        return str(choices[likely.index(max(likely))]), False
    if isinstance(filtered[0], tuple | float):
        return "", False
    first = filtered[0][0] if isinstance(filtered[0], list) and filtered[0] else filtered[0]
    return str(first), str(first) == INVALID


def target_of(task: Any, doc: Any) -> str:
    """The right answer, or the right answers."""
    target = task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(doc)
        gold = task.doc_to_text(doc) if task.multiple_input else target
        if isinstance(gold, int) and 0 <= gold < len(choices):
            return str(choices[gold])
        if isinstance(gold, list):
            return " | ".join(str(choices[i]) for i in gold if isinstance(i, int) and 0 <= i < len(choices))
    return " | ".join(map(str, target)) if isinstance(target, list) else str(target)


def plain(value: Any, as_tuples: bool = False) -> Any:
    """A value as JSON can hold it: numpy's numbers and arrays, dates, sets."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each, as_tuples) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return (tuple if as_tuples and isinstance(value, tuple) else list)(plain(each, as_tuples) for each in value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return plain(value.tolist(), as_tuples) if hasattr(value, "tolist") else str(value)
