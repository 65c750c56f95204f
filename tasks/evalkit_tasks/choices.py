"""The option that an answer in words chooses: for published answers to multiple choice (`evalkit score mmlu FILE`)."""

import re
from collections.abc import Sequence

from evalkit.tasks import Scored
from evalkit_tasks.code_blocks import after_thinking

INVALID = "[invalid]"
_ANSWER = r"(?:(?:correct|right|best|final)\s+)?(?:answer|option|choice)(?:\s+(?:is|would be))?"


def chosen(answer: str, labels: Sequence[str], options: Sequence[str]) -> int | None:
    """The index of the option; None where no single one is chosen.

    In this order: the answer is a label ("B", "(B).", "**B**") or an option's text; what it gives in a box or after "answer is" is; it
    begins with a label ("B. 12 kg"). The last one counts, and what the model thought before does not.
    """
    labels = tuple(labels)  # "AB" is in "ABCD", but is no label
    said = after_thinking(answer).strip()
    if (whole := _one(said, labels, options)) is not None:
        return whole
    label = "|".join(re.escape(each) for each in sorted(labels, key=len, reverse=True))
    given = [
        *re.finditer(r"\\boxed\{\s*(?:\\text\w*\{)?(?P<said>[^{}]+)\}", said),
        *re.finditer(rf"(?i:{_ANSWER})\s*[:=]?\s*[*_`\"'(\[]*(?P<said>{label})(?![\w'])", said),
        *re.finditer(rf"(?i:{_ANSWER})\s*[:=]\s*(?P<said>[^\n]+)", said),
    ]
    for match in sorted(given, key=lambda match: match.start(), reverse=True):
        if (found := _one(match["said"], labels, options)) is not None:
            return found
    begins = re.match(rf"[*_`(\[]*({label})[*_`]*[.):\]](?:\s|$)", said)
    return labels.index(begins[1]) if begins else None


def score_choice(answer: str, labels: Sequence[str], options: Sequence[str], right: str) -> Scored:
    """The score of an answer in words; `right` is the label of the right option. An answer that chooses none is wrong, and counted."""
    index = chosen(answer, labels, options)
    given = INVALID if index is None else labels[index]
    return Scored({"acc": float(given == right)}, given, right, index is None)


def _one(text: str, labels: Sequence[str], options: Sequence[str]) -> int | None:
    """The option of which this is the label, the text, or both."""
    bare = text.strip().strip("*_`\"'").strip()
    label = bare.strip("()[].:").strip()
    if label in labels:
        return labels.index(label)
    plain = [_plain(option) for option in options]
    unlabelled = [re.sub(rf"^\(?{re.escape(each)}[.):]\s*", "", bare) for each in labels]
    matches = {i for i, option in enumerate(plain) if option and option in (_plain(bare), _plain(unlabelled[i]))}
    return matches.pop() if len(matches) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".")
