"""The program in a chat model's answer, whatever its fence and whatever was thought before."""

import pytest

from evalkit_tasks.code_blocks import after_thinking, program

GOOD = "def f(x):\n    return x\n"
DRAFT = "```python\ndef f(x):\n    return None\n```\n"


FENCED = f"```python\n{GOOD}```\n"


def indented(text: str, by: str) -> str:
    return "".join(by + line for line in text.splitlines(keepends=True))


@pytest.mark.parametrize(
    "answer",
    [
        f"```python\n{GOOD}```",
        f"```\n{GOOD}```\nIt works.",
        f"~~~py\n{GOOD}~~~",
        f'~~~~~ python title="f.py"\n{GOOD}~~~~~\n',
        f"``` {{.python .numberLines}}\n{GOOD}```",
        f"````\n{GOOD}````",
        f"```Python3\n{GOOD}",  # cut off
        "1. Here it is:\n\n" + indented(FENCED, "   "),
        "- a\n\n    - b\n\n" + indented(FENCED, "        "),
        "- ```python\n" + indented(f"{GOOD}```\n", "  "),
        indented(FENCED, "\t"),
        indented(f"Look:\n{FENCED}", "> "),
        f"```python\n{GOOD}```\n".replace("\n", "\r\n"),
        f"```bash\npip install f\n```\nThen:\n```python\n{GOOD}```",
        f"```bash\ncat > f.py <<END\ndef f(x):\nEND\n```\nor\n```python\n{GOOD}```",
        f"```\n>>> f(1)\n1\n```\n```python\n{GOOD}```\n```python\nprint(f(1))\n```",
        f"````markdown\n```python\n{GOOD}```\n````",
        f"<think>\nA draft:\n{DRAFT}</think>\n```python\n{GOOD}```",
        f"{DRAFT}That returns nothing.</think>```python\n{GOOD}```",  # the template wrote the opening mark
        f"<think>one</think>Hm.<think>{DRAFT}</think>```python\n{GOOD}```",
        f"<think>`</think>` ends this. {DRAFT}</think>\n```python\n{GOOD}```",
        f"[THINK]{DRAFT}[/THINK]```python\n{GOOD}```",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>```python\n{GOOD}```",
        GOOD,
    ],
)
def test_the_block_that_defines_the_function(answer: str) -> None:
    found = program(answer, "f")
    assert found is not None
    names: dict[str, object] = {}
    exec(found, names)
    assert names["f"](7) == 7  # type: ignore[operator]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I cannot help with that.",
        "Use def f(x) with a return.",
        f"<think>{DRAFT}",
        "```bash\nls\n```",
        "```python\nprint(1)\n```",
        "```",
    ],
)
def test_an_answer_without_a_program(answer: str) -> None:
    assert program(answer, "f") is None


def test_the_body_alone_follows_the_prompt() -> None:
    assert program("```python\n    return x\n```", "f") == "    return x\n"


def test_a_fence_inside_a_docstring_closes_nothing() -> None:
    text = 'def f(x):\n    """\n    ```\n    f(1)\n    ```\n    """\n    return x\n'
    assert program(f"```python\n{text}```", "f") == text


def test_marks_in_quotes_are_text() -> None:
    text = "def f(x):\n    return x.split('</think>')\n"
    assert program(f"<think>a</think>```python\n{text}```", "f") == text
    assert program(f"```python\n{text}```", "f") == text


@pytest.mark.parametrize("piece", ["<think>", "</think>", "```\n", "- ", "> ", "~~~\n", "[THINK]", " ", "def f"])
def test_long_answers_take_no_longer_than_their_length(piece: str) -> None:
    """A quadratic reader would need minutes for these."""
    program(piece * 100_000, "f")
    assert isinstance(after_thinking(piece * 100_000), str)


def test_an_answer_that_opens_blocks_of_markdown_without_end() -> None:
    assert program("```markdown\n" * 3_000, "f") is None
