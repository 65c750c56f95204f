"""Files of published answers, one row a document: {"id": .., "answer": ..} or {"question": .., "answer": ..}, as lines or as a list."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.data.layouts import json_rows
from evalkit.data.rows import shown
from evalkit.errors import DataError
from evalkit.tasks import Doc, ScoresTexts

IDS = ("doc_id", "task_id", "question_id", "id")
QUESTIONS = ("question", "prompt", "input")
TEXTS = ("answer", "response", "completion", "output", "prediction", "generation", "text")
EXPECTED = f'expected {{"id": .., "answer": ..}} or {{"question": .., "answer": ..}} (the answer as {", ".join(TEXTS)})'
END_MARKERS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "</s>", "<eos>", "<end_of_turn>", "[EOS]")


def read_texts(task: ScoresTexts, text: str, name: str, docs: Sequence[Doc]) -> dict[str, str]:
    """An answer a document, by id. Raises DataError for a row that names none, for a second answer to one, and for an answer not a text."""
    by_id = {doc.id: doc for doc in docs}
    by_question: dict[str, list[Doc]] = {}
    for doc in docs:
        by_question.setdefault(_plain(task.question(doc)), []).append(doc)
    found: dict[str, str] = {}
    for where, row in json_rows(text, name, ()):
        doc = _doc(row, by_id, by_question, where)
        keys = [key for key in TEXTS if key in row]
        if not keys:
            raise DataError(f"{where}: no answer; {EXPECTED}")
        if len(keys) > 1:  # one of them is the reference, as in a benchmark's own rows
            raise DataError(f"{where}: {' and '.join(keys)} may each be the model's answer; keep that one alone")
        (key,) = keys
        if not isinstance(row[key], str | None):
            raise DataError(f"{where}: {key} is {shown(row[key])}, expected a text")
        if doc.id in found:
            raise DataError(f"{where}: a second answer to {doc.id!r}; one answer a document is scored")
        found[doc.id] = row[key] or ""
    return found


def _doc(row: Mapping[str, Any], by_id: Mapping[str, Doc], by_question: Mapping[str, list[Doc]], where: str) -> Doc:
    asked = next((key for key in QUESTIONS if isinstance(row.get(key), str)), None)
    docs = by_question.get(_plain(row[asked]), []) if asked else []
    if (key := next((key for key in IDS if key in row), None)) is not None:
        if (doc := by_id.get(str(row[key]))) is None:
            raise DataError(f"{where}: {key} {shown(row[key])} is none of the {len(by_id):,} documents, such as {next(iter(by_id))!r}")
        if docs and doc not in docs:  # ids that count from another number, or in another order
            raise DataError(f"{where}: {key} is {shown(row[key])}, and its {asked} is that of {docs[0].id!r}; drop the one that is wrong")
        return doc
    if asked is None:
        raise DataError(f"{where}: no id and no question; {EXPECTED}")
    if len(docs) != 1:
        what = "is asked by none" if not docs else f"is asked by {len(docs)}"
        raise DataError(f"{where}: {asked} {shown(row[asked])} {what} of the {len(by_id):,} documents; name the document by its id")
    return docs[0]


def _plain(text: str) -> str:
    return " ".join(text.split())


def end_markers(texts: Sequence[str]) -> str:
    """What to say of answers that end in a model's end marker, which is part of what is scored; "" where none does."""
    ended = [marker for text in texts if (marker := next((m for m in END_MARKERS if text.rstrip().endswith(m)), None))]
    if not ended:
        return ""
    marks = json.dumps(sorted(set(ended)))[1:-1]
    return f"{len(ended):,} of {len(texts):,} answers end in {marks}, which is scored as part of them; cut it off if that is not meant"
