"""EvalPlus's `sanitize` (evalplus/sanitize.py at 899b2b3), by Python's own parser instead of tree-sitter: what of an answer is run.

1. Of the runs of two lines or more that parse, the one with the most lines that are not blank, the first of several.
2. Of that, the imports; and the classes, assignments and functions that the wanted function reaches by the names in them. Of several
   definitions of one name the first counts, and a function without a return statement is none.

Whatever else stands at the top level is left out, as is a definition under a decorator and an import from __future__. A comment behind
a definition's last statement is left out here and kept there, which no run of it can tell.
"""

import ast
import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

EFFORT = 200_000_000  # characters to parse, some seconds; none of 7,560 answers that were compared with EvalPlus needed a fiftieth
A_PARSE = 10_000  # characters that take as long as the least parse


class _Definition(NamedTuple):
    name: str
    source: str
    names: frozenset[str]  # every name in it, its own included


def sanitize(answer: str, entry_point: str) -> str:
    """The program in an answer, without its last line break; it may lack the function, where the answer does."""
    code = longest_program(answer)
    if "\n" not in code:
        code = code.strip()  # no two lines parse: tree-sitter reads a first line that is indented all the same
    if _fault(code.split("\n")) is not None:
        return ""
    tree = ast.parse(code)
    source = code.encode()
    starts = _line_starts(source)
    imports = [_text(source, starts, node) for node in tree.body if _is_import(node)]
    definitions = list(_definitions(tree, source, starts))
    reached = _reached(entry_point, {each.name: each.names for each in definitions})
    return "\n".join([*imports, *(each.source for each in definitions if each.name in reached)])


def longest_program(text: str) -> str:
    """The run of lines that `sanitize` looks at; the first line alone where no two lines parse.

    EvalPlus tries every run. Here a fault rules out all the runs that go beyond it, and a text that asks for more than EFFORT all the same
    (hundreds of lines that each open a bracket) has its longest run among those from its first lines.
    """
    lines = text.split("\n")
    filled, size = [0], [0]  # lines that are not blank, and characters, before each line
    for line in lines:
        filled.append(filled[-1] + bool(line.strip()))
        size.append(size[-1] + len(line) + 1)
    best, most, left = (0, 1), 0, EFFORT
    for start in range(len(lines)):
        end = len(lines)
        while end > start + 1 and filled[end] - filled[start] > most:
            left -= size[end] - size[start] + A_PARSE
            if left < 0:
                return "\n".join(lines[best[0] : best[1]])
            fault = _fault(lines[start:end])
            if fault is None:
                most = filled[end] - filled[start]
                best = start, _first_end(lines, start, end, filled)
                break
            # what follows the fault cannot mend it, so that a run which parses ends before it
            end = min(end - 1, start + fault - 1)
    return "\n".join(lines[best[0] : best[1]])


def _first_end(lines: list[str], start: int, end: int, filled: list[int]) -> int:
    """The first of the ends that differ from `end` in blank lines alone, and whose run parses."""
    first = end
    while first > start + 2 and filled[first - 1] == filled[end]:
        first -= 1
    return next(each for each in range(first, end + 1) if each == end or _fault(lines[start:each]) is None)


def _fault(lines: list[str]) -> int | None:
    """The number of the line, from 1, where they stop being a program; None where they are one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse("\n".join(lines))
    except SyntaxError as error:
        return min(max(error.lineno or 1, 1), len(lines))
    except (ValueError, MemoryError, RecursionError):  # a null byte, or nested too deeply
        return len(lines)
    return None


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module != "__future__")


def _definitions(tree: ast.Module, source: bytes, starts: list[int]) -> Iterator[_Definition]:
    taken = set()
    for node in tree.body:
        name = _defined(node)
        if name is not None and name not in taken:
            taken.add(name)
            yield _Definition(name, _text(source, starts, node), frozenset(_names(node)))


def _defined(node: ast.stmt) -> str | None:
    """The name that a top-level statement defines; None for a statement that is left out.

    As in EvalPlus it is the statement's first part that is a bare name: that of `table[0] = start` is `start`.
    """
    if isinstance(node, ast.ClassDef):
        return None if node.decorator_list else node.name
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        returns = any(isinstance(each, ast.Return) for each in ast.walk(node))
        return node.name if returns and not node.decorator_list else None
    parts: list[ast.expr | None] = []
    if isinstance(node, ast.Assign):
        parts = [node.targets[0]] if len(node.targets) > 1 else [node.targets[0], node.value]
    elif isinstance(node, ast.AnnAssign):
        parts = [node.target, node.value]
    return next((part.id for part in parts if isinstance(part, ast.Name)), None)


def _names(node: ast.stmt) -> Iterator[str]:
    """Every name that is written in a statement: of variables, attributes, arguments, keywords, modules and patterns."""
    for each in ast.walk(node):
        for field in ("id", "attr", "arg", "name", "asname", "module", "rest"):
            if isinstance(value := getattr(each, field, None), str):
                yield from value.split(".")
        for field in ("names", "kwd_attrs"):
            yield from (value for value in getattr(each, field, ()) if isinstance(value, str))


def _reached(start: str, names: Mapping[str, frozenset[str]]) -> set[str]:
    reached, ahead = {start}, [start]
    while ahead:
        new = names.get(ahead.pop(), frozenset()) - reached
        reached |= new
        ahead.extend(new)
    return reached


def _line_starts(source: bytes) -> list[int]:
    """The byte at which each line begins, as the parser counts lines: \\r\\n, \\n and \\r end one."""
    starts, at = [0], 0
    for line in source.splitlines(keepends=True):
        at += len(line)
        starts.append(at)
    return starts


def _text(source: bytes, starts: list[int], node: ast.stmt) -> str:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return source[starts[node.lineno - 1] + node.col_offset : starts[node.end_lineno - 1] + node.end_col_offset].decode()
