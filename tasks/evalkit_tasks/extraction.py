"""Reading the answer out of a GSM8K completion: one function per protocol, each as published unless it says otherwise.

Each takes the completion and the reference answer and returns an `Extraction`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from evalkit_tasks.numbers import numbers

INVALID = "[invalid]"
LONGEST_LITERAL = 4_300  # digits of an integer that Python reads
_GOLD = re.compile(r"#### (-?[0-9.,]+)")


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was read, and whether it is right under each metric."""

    answer: str
    correct: dict[str, bool]

    @property
    def failed(self) -> bool:
        return self.answer == INVALID


def gold(reference: str) -> str:
    """The number after "####", without thousands separators. Raises ValueError where there is none."""
    match = _GOLD.search(reference)
    try:
        number = match.group(1).replace(",", "") if match else ""
        Decimal(number)
    except InvalidOperation:
        raise ValueError(f"no '#### number' in {reference[-60:]!r}") from None
    return number


def last_digits(completion: str, reference: str) -> Extraction:
    r"""Qwen's: the last \d+, evaluated as Python, equal to the gold. So "20,800" reads as 800, "18.00" as 0, "05" is invalid
    (Python refuses it), and a negative gold can't match."""
    runs = re.findall(r"\d+", completion)
    last = runs[-1] if runs else ""
    # Python's literals: no leading zero, except for zero itself; no other scripts' digits; not too long
    valid = last.isascii() and last != "" and (last == "0" * len(last) or last[0] != "0") and len(last) <= LONGEST_LITERAL
    return Extraction(str(int(last)) if valid else INVALID, {"acc": valid and Decimal(last) == Decimal(gold(reference))})


def last_number(completion: str, reference: str) -> Extraction:
    """Ours: the last number, in any usual spelling (numbers.py); equal by value."""
    found = numbers(completion)
    if not found:
        return Extraction(INVALID, {"acc": False})
    return Extraction(found[-1], {"acc": Decimal(found[-1]) == Decimal(gold(reference))})


def last_decimal(completion: str, reference: str) -> Extraction:
    r"""OpenCompass's: the last -?\d+\.\d+|-?\d+ before "Question:", within 1e-6 of the gold."""
    numbers = re.findall(r"-?\d+\.\d+|-?\d+", completion.split("Question:")[0])
    if not numbers:
        return Extraction(INVALID, {"acc": False})
    return Extraction(numbers[-1], {"acc": abs(Decimal(numbers[-1]) - Decimal(gold(reference))) < Decimal("1e-6")})


def first_marked(completion: str, reference: str) -> Extraction:
    """lighteval's quasi_exact_match_gsm8k: the first number after "#### ", without commas; equal as a text, so that "18.0" is not "18"."""
    found = _GOLD.search(completion)
    answer = found.group(1).replace(",", "") if found else INVALID
    return Extraction(answer, {"acc": answer == gold(reference)})


def lm_eval_filters(completion: str, reference: str) -> Extraction:
    """lm-eval's two filters and its exact_match, which drops commas, dollars, all up to "#### " and a final full stop."""
    strict = re.search(r"#### (\-?[0-9\.\,]+)", completion)
    flexible = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", completion)
    answers = {
        "exact_match_strict": strict.group(1).strip() if strict else INVALID,
        "exact_match_flexible": next(part for part in flexible[-1] if part).strip() if flexible else INVALID,
    }
    target = _lm_eval_normal(reference)
    return Extraction(answers["exact_match_strict"], {metric: _lm_eval_normal(a) == target for metric, a in answers.items()})


def _lm_eval_normal(text: str) -> str:
    text = text.replace(",", "").replace("$", "").rpartition("#### ")[2]
    return re.sub(r"\.$", "", text).lower()


EXTRACTIONS: dict[str, Callable[[str, str], Extraction]] = {
    function.__name__: function for function in (last_digits, last_number, last_decimal, first_marked, lm_eval_filters)
}
