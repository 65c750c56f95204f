"""The option that an answer in words chooses: for published answers to multiple choice (`evalkit score mmlu FILE`)."""

import re
from collections.abc import Sequence

from evalkit.tasks import Scored
from evalkit_tasks.code_blocks import after_thinking

INVALID = "[invalid]"
_ANSWER = r"\b(?:answer|option|choice)"
_IS = r"(?:\s+(?:is|would be)\b\s*[:=]?|\s*[*_]*\s*[:=])\s*"
_OPENS, _CLOSES = r"[*_`\"'(\[]*", r"[*_`\"')\].:]*"


def chosen(answer: str, labels: Sequence[str], options: Sequence[str]) -> int | None:
    """The index of the option; None where no single one is chosen.

    In this order: the answer is a label ("B", "(B).", "**B**") or an option's text; what it gives in a box, after "answer is" or as its
    first paragraph is, the last one of several; it begins with a label ("B. 12 kg") or speaks of a single one ("option B"). What the
    model thought before does not count, nor what it asked itself after an empty line ("Question: ..").
    """
    labels = tuple(labels)  # "AB" is in "ABCD", but is no label
    said = re.split(r"\n\s*\n\s*Question:", after_thinking(answer).strip())[0]
    if (whole := _one(said, labels, options)) is not None:
        return whole
    one_of = "|".join(re.escape(each) for each in sorted(labels, key=len, reverse=True))
    # "B or C", "B/C" and "B, C." choose none
    alone = rf"(?P<said>{one_of})(?![\w'])(?!{_CLOSES}\s*(?:,?\s*(?:or|and)\b|[/&])\s*{_OPENS}(?:{one_of})(?![\w']))"
    alone += rf"(?!,\s*{_OPENS}(?:{one_of}){_CLOSES}\s*(?:,|\n|$))"
    given = [
        *re.finditer(rf"^{_OPENS}{alone}{_CLOSES}[ \t]*\n\s*\n", said),
        *re.finditer(r"\\boxed\{\s*(?:\\text\w*\{)?(?P<said>[^{}]+)\}", said),
        *re.finditer(rf"(?i:{_ANSWER}{_IS}(?:(?:option|choice)\s+)?){_OPENS}{alone}", said),
        *re.finditer(rf"(?i:{_ANSWER}{_IS})(?P<said>[^\n]+)", said),
    ]
    for match in sorted(given, key=lambda match: match.start(), reverse=True):
        if (found := _one(match["said"], labels, options)) is not None:
            return found
    # "Option C is wrong" speaks of an option too: where several are spoken of, none is chosen
    begins = re.match(rf"{_OPENS}(?P<said>{one_of})[*_`]*[.):\]](?:\s|$)", said)
    spoken = {match["said"] for match in [begins, *re.finditer(rf"(?i:{_ANSWER})\s+{_OPENS}{alone}", said)] if match}
    return labels.index(spoken.pop()) if len(spoken) == 1 else None


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
