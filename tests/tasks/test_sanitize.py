"""EvalPlus's `sanitize`, written anew: what it keeps of an answer, the run of lines that it looks at, and hostile answers.

`KEPT` is what evalplus 899b2b3 itself gives with tree_sitter 0.21.3 and tree_sitter_languages 1.10.2.
"""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit_tasks.humaneval import sanitize as module
from evalkit_tasks.humaneval.sanitize import longest_program, sanitize

F = "def f(x):\n    return x"
KEPT = [
    # the run of lines
    (f"Here it is:\n```python\n{F}\n```\nIt works.", F),
    (f"{F}\nThat was all.\n{F}\ny = 1\nz = 2", f"{F}"),  # the longer run, from which f alone is reached
    ("def f(x): return x", "def f(x): return x"),
    ("    import math", "import math"),  # no two lines parse: the first alone, indented as it is
    ("Here it is:", ""),
    ("", ""),
    (f"{F}\n\n\n", F),
    # what is kept
    (f"import os, sys\nfrom a.b import (c,\n    d as e)\n{F}", f"import os, sys\nfrom a.b import (c,\n    d as e)\n{F}"),
    (f"{F}\nimport os; import re", f"import os\nimport re\n{F}"),  # imports come first
    (f"from __future__ import annotations\nfrom . import g\n{F}", f"from . import g\n{F}"),
    (f"try:\n    import numpy\nexcept ImportError:\n    pass\n{F}\nprint(f(1))\nassert f(1)", F),
    ("def f(x):\n    return g(x)\ndef h(x):\n    return x\ndef g(x):\n    return x", "def f(x):\n    return g(x)\ndef g(x):\n    return x"),
    # what is not
    ("def f(x):\n    print(x)\ndef g():\n    return f", ""),  # no return statement
    (f"@cache\n{F}\ny = 1", ""),  # decorated
    (f"if True:\n    {F.replace(chr(10), chr(10) + '    ')}\ny = 1", ""),
    (f"{F}\ndef f(x):\n    return 2", F),  # the first definition counts
    ("f = 1\ndef f(x):\n    return 2", "f = 1"),
    ("def f(x):\n    print(1)\ndef f(x):\n    return 2", "def f(x):\n    return 2"),
    ("a, b = f\ndef f(x):\n    return 2", "a, b = f"),  # `f` is the first bare name of the assignment
    ("t[0] = f\ndef f(x):\n    return 2", "t[0] = f"),
    ("t[0] = u[0] = f\ndef f(x):\n    return 2", "def f(x):\n    return 2"),
    ("def f(x):\n    return π\nπ = 3 # c\nx\\\n= 3", "def f(x):\n    return π\nπ = 3\nx\\\n= 3"),
    ("x = 1; def f(x): return x", ""),
    ("import os\r\ndef f(x):\r\n    return x\r\n", "import os\ndef f(x):\r\n    return x"),
]
WHOLE = [  # each is kept as it is
    "def f(x):\n    return x.g\ndef g(x):\n    return x",
    "def f(x):\n    return h(g=x)\ng = 1",
    "def f(x):\n    return f'{x:{g}} {h!r}'\ng = 1\nh: int = 2",
    "def f(x: G) -> H:\n    return x\nclass G: pass\nclass H(G):\n    y = 1",
    "def f(x):\n    match x:\n        case G(h=1): return 2\nG = 1\nh = 2",
    "def f(x):\n    def inner():\n        return 1\n    x += g\ng = h = 1",
    "async def f(x):\n    return await g\ng = h\nh = g",
]


@pytest.mark.parametrize(("answer", "kept"), [*KEPT, *zip(WHOLE, WHOLE, strict=True)])
def test_what_is_kept(answer: str, kept: str) -> None:
    assert sanitize(answer, "f") == kept


LINES = st.lists(
    st.sampled_from(
        [
            "",
            "x = 1",
            "def f(a):",
            "    return a",
            "# c",
            "It is so.",
            "```",
            "(",
            "1)",
            "'''",
            "if x:",
            "else:",
            "x = \\",
            "    y",
            "\ty",
            "try:",
        ]
    ),
    max_size=9,
)


def test_a_comment_behind_the_last_statement_is_left_out() -> None:
    """EvalPlus keeps it: no run of the program can tell."""
    assert sanitize(f"{F}\n    # the end", "f") == F


@given(LINES)
def test_the_longest_run_is_the_one_that_trying_all_of_them_finds(lines: list[str]) -> None:
    best, most = (0, 0), 0
    for first in range(len(lines)):
        for last in range(first + 1, len(lines)):
            run = lines[first : last + 1]
            if parses("\n".join(run)) and (filled := sum(bool(line.strip()) for line in run)) > most:
                best, most = (first, last), filled
    assert longest_program("\n".join(lines)) == "\n".join(lines[best[0] : best[1] + 1])


def parses(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


@given(st.text(max_size=40) | LINES.map("\n".join))
def test_what_is_kept_parses(answer: str) -> None:
    ast.parse(sanitize(answer, "f"))


def test_a_search_that_would_take_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    longer = f"{F}\n" + "f(\n" * 50 + f"{F}\nf = 1"
    assert longest_program(longer) == f"{F}\nf = 1"
    monkeypatch.setattr(module, "EFFORT", 90 * module.A_PARSE)
    assert longest_program(longer) == F


@pytest.mark.parametrize("answer", ["\0\n" * 99, "(" * 100_000, "def f():\n    return '\udc80'\n", "x = " + "1+" * 100_000 + "1\ny = 2"])
def test_what_no_parser_takes_is_no_program(answer: str) -> None:
    assert sanitize(answer, "f") == ""
