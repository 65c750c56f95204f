"""What of an answer is run, by the names that protocols/humaneval.toml gives: each reads an answer and makes the program of it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit_tasks.code_blocks import defines, program
from evalkit_tasks.humaneval.sanitize import sanitize

FENCE = "```"

# QwenLM/Qwen2.5-Coder d5ead97 qwencoder-eval/instruct/multipl_e/chat/evaluate.py, IMPORT_HELPER["python"], in its order. The sandbox
# has no numpy: without it a program that needs it still fails, and one that does not runs.
_MULTIPL_E_IMPORTS = """\
import math
import re
import sys
import copy
import datetime
import itertools
import collections
import heapq
import statistics
import functools
import hashlib
try:
    import numpy
    import numpy as np
except ImportError:
    pass
import string
from typing import *
from collections import *
"""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What is run; `found`: is it a program, as far as the protocol can tell? What is none is run too, and counted.

    `helpers`: what the test may call besides the function; None for what the prompt has before it.
    """

    text: str
    found: bool = True
    helpers: str | None = None


@dataclass(frozen=True, slots=True)
class CodeReader:
    """`read(answer, stop strings, the problem's row)`; `whole`: it is a program by itself, else it is run after the prompt."""

    read: Callable[[str, Sequence[str], Mapping[str, Any]], Extracted]
    whole: bool = False


def _as_it_is(text: str, until: Sequence[str], row: Mapping[str, Any]) -> Extracted:
    return Extracted(text)


def _up_to_stop(text: str, until: Sequence[str]) -> str:
    """Up to the first stop string. The engine stops there too; a file of completions, or another engine, may not have."""
    return text[: min((at for stop in until if (at := text.find(stop)) >= 0), default=len(text))]


def _cut(text: str, until: Sequence[str], row: Mapping[str, Any]) -> Extracted:
    return Extracted(_up_to_stop(text, until))


def _cut_at_fence(text: str, until: Sequence[str], row: Mapping[str, Any]) -> Extracted:
    """lm-eval's `build_predictions_instruct`: the answer goes on in a block that the prompt has opened."""
    return Extracted(_up_to_stop(text, until).partition(FENCE)[0])


def _cut_at_last_fence(text: str, until: Sequence[str], row: Mapping[str, Any]) -> Extracted:
    """lm-eval's before version 3 of the task: of an answer with several blocks, what lies between them is run too."""
    said = _up_to_stop(text, until)
    return Extracted(said.rpartition(FENCE)[0] if FENCE in said else said)


def _chat(text: str, until: Sequence[str], row: Mapping[str, Any]) -> Extracted:
    """The program in a chat model's answer (code_blocks.py): it defines the function again, which replaces the prompt's definition."""
    found = program(text, row["entry_point"])
    return Extracted(text, found=False) if found is None else Extracted("\n" + found)


def _opencompass(text: str, until: Sequence[str], row: Mapping[str, Any]) -> Extracted:
    """OpenCompass 0.2's reader: a fenced block's inside; without imports, without its first `def` line; up to a blank line; indented."""
    return Extracted(_body(_without_imports(_first_block(text)).split("\n\n", 1)[0].lstrip("\n")))


def _evalscope(text: str, until: Sequence[str], row: Mapping[str, Any]) -> Extracted:
    """EvalScope 0.15's reader, OpenCompass's but for a block that begins with an empty line: only that line is left out."""
    return Extracted(_body(_without_imports(_first_block(text)).split("\n\n", 1)[0]))


def _first_block(text: str) -> str:
    if FENCE not in text:
        return text
    after = text.split(FENCE, 2)
    block = after[1]
    if len(after) > 2 and not block.startswith("\n"):
        return block[block.find("\n") + 1 :]  # without the language's name
    return block


def _without_imports(text: str) -> str:
    if text.strip().startswith(("from", "import")) and (at := text.find("def")) >= 0:
        return text[text.find("\n", at) + 1 :]
    return text


def _body(text: str) -> str:
    """The function's body, without its `def` line, indented."""
    if text.strip().startswith("def"):
        text = "\n".join(text.split("\n")[1:])
    if text.startswith("    "):
        return text
    if text.startswith(" "):
        return "    " + text.lstrip()
    return "\n".join("    " + line for line in text.split("\n"))


def _sanitized(text: str, until: Sequence[str], row: Mapping[str, Any]) -> Extracted:
    """Qwen2.5-Coder's: tabs are four blanks, cut at the first fence (generate.py, model.py), then EvalPlus's `sanitize` (test.sh)."""
    code = sanitize(_up_to_stop(text, until).replace("\t", "    ").partition(FENCE)[0], row["entry_point"])
    return Extracted(code, found=defines(code, row["entry_point"]))


def _multipl_e(text: str, until: Sequence[str], row: Mapping[str, Any]) -> Extracted:
    """Qwen2.5-Coder's `extract_func`: the first fenced block, else the answer; the prompt before it where it lacks the function's name.

    Program and test are one file there: a test that calls the prompt's helper (HumanEval/32, 38, 50) fails where the answer left it out.
    """
    block = re.search(r"```.*?\n(.*?)```", text, re.DOTALL)
    code = (block[1] if block else text).replace(FENCE, "")
    if _tested_name(row) not in code:
        code = row["prompt"] + code
    names = re.findall(r"^def (\w+)", row["prompt"], re.MULTILINE)
    helpers = _MULTIPL_E_IMPORTS + (row["prompt"] if all(defines(code, name) for name in names) else "")
    return Extracted(f"{_MULTIPL_E_IMPORTS}{code}", block is not None or defines(code, row["entry_point"]), helpers)


def _tested_name(row: Mapping[str, Any]) -> str:
    """What the script takes for the function's name: what the test's first assertion calls. It may be `tuple`, or a part of a comment."""
    called = re.search(r"assert (.*?)\(.*?\)", row["test"])
    name = called[1] if called else row["entry_point"]
    return re.sub(r"\bcandidate\b", row["entry_point"], name)


EXTRACTIONS: Mapping[str, CodeReader] = {
    "as_it_is": CodeReader(_as_it_is),
    "whole": CodeReader(_as_it_is, whole=True),
    "cut": CodeReader(_cut),
    "cut_at_fence": CodeReader(_cut_at_fence),
    "cut_at_last_fence": CodeReader(_cut_at_last_fence),
    "chat": CodeReader(_chat),
    "opencompass": CodeReader(_opencompass),
    "evalscope": CodeReader(_evalscope),
    "sanitized": CodeReader(_sanitized, whole=True),
    "multipl_e": CodeReader(_multipl_e, whole=True),
}
