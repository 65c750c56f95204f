"""The program in a chat model's answer: after its thinking, in a fenced block of any form that CommonMark has."""

import re
from collections.abc import Iterator
from dataclasses import dataclass


def _mark(text: str) -> str:
    """A pattern for the mark, except between quotes, where it is mentioned, not used."""
    mark = re.escape(text)
    return rf"(?!(?<=[`'\"]){mark}[`'\"]){mark}"


# each family's marks around its thinking
_THINKING = [
    (_mark(begin), _mark(end))
    for begin, end in (
        ("<think>", "</think>"),
        ("<thinking>", "</thinking>"),
        ("<thought>", "</thought>"),
        ("<reasoning>", "</reasoning>"),
        ("<seed:think>", "</seed:think>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|channel|>analysis", "<|channel|>final<|message|>"),
    )
]
_NESTING = 3  # blocks of markdown whose own blocks are read: a model that repeats itself may open thousands
_OPENING = re.compile(r"^(?P<before>[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)(?P<fence>`{3,}(?=[^`]*$)|~{3,})(?P<info>.*)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the language that it names ("" for none), in small letters, and its text without the fence's indentation."""

    language: str
    text: str

    @property
    def may_be_python(self) -> bool:
        return not self.language or self.language.startswith("py") or "python" in self.language


def program(answer: str, entry_point: str) -> str | None:
    """The block that defines the function, the first of several, those that name another language last; else the first block that is the
    function's body alone; else the whole answer where it defines the function without any fence. None where the answer holds no program.
    """
    said = after_thinking(answer)
    blocks = sorted(fenced_blocks(said), key=lambda block: not block.may_be_python)
    found = next((block.text for block in blocks if defines(block.text, entry_point)), None)
    if found is None:
        found = next((block.text for block in blocks if block.may_be_python and block.text.startswith((" ", "\t"))), None)
    if found is None and defines(said, entry_point):
        return said
    return found


def defines(program: str, name: str) -> bool:
    """Is there a line that defines a function, a class or a variable of this name?"""
    word = re.escape(name)
    pattern = rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{word}\b|^{word}[ \t]*(?::[^=\n]*)?=(?!=)"
    return re.search(pattern, program, re.MULTILINE) is not None


def after_thinking(answer: str) -> str:
    """The answer without what the model marked as its thinking. A chat template may have written the opening mark before the answer,
    and an answer that was cut off in its thinking has no closing one: nothing is left of it.
    """
    for begin, end in _THINKING:
        answer = re.sub(rf"{begin}(?:(?!{begin}).)*?{end}", "\n", answer, flags=re.DOTALL)
        if closed := list(re.finditer(end, answer)):
            answer = answer[closed[-1].end() :]
        if opened := re.search(begin, answer):
            answer = answer[: opened.start()]
    return answer


def fenced_blocks(text: str, nesting: int = _NESTING) -> Iterator[Block]:
    """Fences of three or more backticks or tildes, indented, in a list or in a quotation; one that is never closed ends with the text."""
    lines = iter(text.replace("\r\n", "\n").split("\n"))
    for line in lines:
        if opening := _OPENING.match(line):
            fence, indent = opening["fence"], len(opening["before"].expandtabs(4))
            blanks = " \t>" if ">" in opening["before"] else " \t"
            closing = re.compile(rf"[{blanks}]{{0,{indent + 3}}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*")
            inside: list[str] = []
            for line in lines:
                if closing.fullmatch(line):
                    break
                inside.append(_outdented(line, indent, blanks))
            language = re.split(r"[\s,}]", opening["info"].strip().lstrip("{").lstrip("."))[0].lower()
            block = Block(language, "\n".join(inside) + "\n")
            yield from fenced_blocks(block.text, nesting - 1) if nesting and language in ("markdown", "md") else [block]


def _outdented(line: str, indent: int, blanks: str) -> str:
    """The line without as much of the fence's own indentation as it has."""
    cut = 0
    while cut < min(indent, len(line)) and line[cut] in blanks:
        cut += 1
    return line[cut:]
