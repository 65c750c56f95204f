"""Every row is checked when it is read: a value that does not fit is named by its file, line and column, and nothing is guessed."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evalkit.data.rows import checked
from evalkit.data.sources import FolderSource, SampleSource, documents
from evalkit.errors import DataError
from evalkit.tasks import NAME, TEXT, Table, list_of, matching, one_of
from evalkit.tasks.registry import resolve, task_classes

SAMPLE = SampleSource().folder
ITALIAN = "m3exam/text-question/italian-questions-test.json"
BELEBELE = {
    **{"link": "a", "question_number": 1, "flores_passage": "Ana vende pan.", "question": "¿Qué vende?", "correct_answer_num": "2"},
    **{"mc_answer1": "Vino", "mc_answer2": "Pan", "mc_answer3": "Flores", "mc_answer4": "Agua"},
}
XCOPA = {"premise": "Ana membuka payung.", "choice1": "Hujan.", "choice2": "Panas.", "question": "cause", "label": 0, "idx": 0}
M3EXAM = {"question_text": "Quanto fa 2 + 2?", "answer_text": "C", "options": ["A. 2", "B. 3", "C. 4", "D. 5"]}
GSM8K = {"question": "What is 6 + 7?", "answer": "#### 13"}
HUMANEVAL = {
    **{"task_id": "one", "prompt": "def f(x):\n", "entry_point": "f"},
    **{"canonical_solution": "    return x\n", "test": "def check(f):\n    assert f(1) == 1\n"},
}
QUESTION = {"question_id": 81, "category": "writing", "turns": ["One", "Two"]}


def rows_of(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("spec", "file", "text", "message"),
    [
        ("belebele:es", "belebele/spa_Latn.jsonl", rows_of(BELEBELE | {"correct_answer_num": "0"}), "line 1: correct_answer_num is '0'"),
        ("belebele:es", "belebele/spa_Latn.jsonl", rows_of(BELEBELE | {"correct_answer_num": 5}), "line 1: correct_answer_num is 5"),
        ("belebele:es", "belebele/spa_Latn.jsonl", rows_of(BELEBELE | {"mc_answer3": None}), "mc_answer3 is None, expected a text"),
        (
            "belebele:es",
            "belebele/spa_Latn.jsonl",
            rows_of(BELEBELE, BELEBELE),
            "line 2: link is 'a', question_number is 1, as in",
        ),
        ("xcopa:id", "xcopa/data/id/test.id.jsonl", rows_of(XCOPA | {"label": -1}), "line 1: label is -1, expected one of 0, 1"),
        ("xcopa:id", "xcopa/data/id/test.id.jsonl", rows_of(XCOPA | {"label": "0"}), "label is '0', expected one of 0, 1"),
        ("xcopa:id", "xcopa/data/id/test.id.jsonl", rows_of(XCOPA | {"label": True}), "label is True"),
        ("xcopa:id", "xcopa/data/id/test.id.jsonl", rows_of(XCOPA | {"label": None}), "label is None"),
        ("xcopa:id", "xcopa/data/id/test.id.jsonl", rows_of(XCOPA, XCOPA | {"label": 1}), "line 2: idx is 0, as in"),
        ("m3exam:it", ITALIAN, json.dumps([M3EXAM | {"options": None}]), "options is None"),
        (
            "m3exam:it",
            ITALIAN,
            json.dumps([M3EXAM | {"answer_text": "BC"}]),
            "is 'BC', expected",
        ),
        ("m3exam:it", ITALIAN, json.dumps([M3EXAM | {"answer_text": "E"}]), "is 'E', expected"),
        ("m3exam:it", ITALIAN, json.dumps([M3EXAM | {"options": ["A. 1"]}]), "list of 2 to 5"),
        ("gsm8k", "gsm8k/test.jsonl", rows_of(GSM8K | {"answer": 13}), "line 1: answer is 13, expected a solution"),
        ("gsm8k", "gsm8k/test.jsonl", rows_of(GSM8K | {"answer": None}), "answer is None"),
        ("gsm8k", "gsm8k/test.jsonl", rows_of(GSM8K | {"answer": "#### ."}), "answer is '#### .'"),
        ("gsm8k", "gsm8k/test.jsonl", rows_of(GSM8K | {"answer": "#### 5\n#### 6"}), "its only one"),
        ("gsm8k", "gsm8k/test.jsonl", rows_of(GSM8K | {"answer": "#### \u0665"}), "expected a solution that ends in"),
        ("gsm8k", "gsm8k/test.jsonl", rows_of(GSM8K | {"answer": "#### 1.2.3"}), "answer is '#### 1.2.3'"),
        ("gsm8k", "gsm8k/test.jsonl", rows_of(GSM8K | {"question": "half a pair \ud83d"}), "question is .*, expected a text"),
        ("humaneval", "humaneval/HumanEval.jsonl", rows_of(HUMANEVAL | {"entry_point": "g"}), "entry_point is 'g'"),
        ("humaneval", "humaneval/HumanEval.jsonl", rows_of(HUMANEVAL, HUMANEVAL), "line 2: task_id is 'one', as in"),
        ("mt_bench", "mt_bench/question.jsonl", rows_of(QUESTION | {"turns": ["One", None]}), "turns is"),
        ("mt_bench", "mt_bench/question.jsonl", rows_of(QUESTION, QUESTION | {"question_id": "81"}), "two documents have the id '81'"),
    ],
)
def test_a_row_that_does_not_fit_is_named(spec: str, file: str, text: str, message: str, tmp_path: Path) -> None:
    folder = file.partition("/")[0]
    if (SAMPLE / folder).is_dir():
        shutil.copytree(SAMPLE / folder, tmp_path / folder, ignore=shutil.ignore_patterns("HumanEval*"))
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text, "utf-8")
    with pytest.raises(DataError, match=message) as caught:
        documents(resolve(spec), FolderSource(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_prompt_in_another_encoding(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE / "gsm8k", tmp_path / "gsm8k")
    (tmp_path / "gsm8k/qwen_8shot_prompt.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(DataError, match=r"qwen_8shot_prompt\.txt is not UTF-8 text"):
        resolve("gsm8k").load(FolderSource(tmp_path))


def test_a_byte_order_mark_is_not_a_letter(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "data")
    path = tmp_path / "data/flores101/flores101_dataset/devtest/deu.devtest"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    task = resolve("flores:en-de")
    assert task.load(FolderSource(tmp_path / "data")) == task.load(SampleSource())


def test_the_hubs_label_minus_1_is_no_letter() -> None:
    (table, *_) = task_classes()["mmlu"].tables(SampleSource())
    row = {"question": "q", "choices": ["1", "2", "3", "4"], "answer": -1}
    with pytest.raises(DataError, match=r"FILE row 0: answer is -1, expected one of 'A'"):
        checked(table, [("FILE row 0", dict(table.hub.convert(row)))])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (TEXT, ["a"], ["", " ", None, 1, "\udc00", ["a"]]),
        (NAME, [1, "a"], [True, 1.0, None, ""]),
        (one_of(0, 1), [0, 1], [True, "0", 2, None, 0.0, [0]]),
        (matching(r"\A\d+\Z", "digits"), ["12"], ["a", 12, None]),
        (list_of(TEXT, 1, 2), [["a"], ["a", "b"]], [[], ["a", "b", "c"], ["a", None], "a", None]),
    ],
)
def test_fields(field: Any, good: list[Any], bad: list[Any]) -> None:
    assert all(field.fits(value) for value in good)
    assert not any(field.fits(value) for value in bad)


def test_columns_without_fields_hold_anything() -> None:
    table = Table("t.jsonl", ("a",), None)  # type: ignore[arg-type]
    assert checked(table, [("FILE line 1", {"a": None, "b": 1})]) == [{"a": None}]
