"""FastChat's files, in the layout of its llm_judge: model_answer/MODEL.jsonl, model_judgment/JUDGE_single.jsonl and JUDGE_pair.jsonl."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from evalkit.data.layouts import json_rows
from evalkit.errors import DataError
from evalkit.files import write_atomically
from evalkit.hashing import sha256_json
from evalkit.judge.answered import Answered
from evalkit.judge.asks import Ask
from evalkit.judge.judgments import Judgment
from evalkit.judge.pair import Game

FAILED = "$ERROR$"  # what FastChat writes for a failed judgment
SINGLE = ("question_id", "model", "judge", "user_prompt", "judgment", "score", "turn")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of JUDGE_single.jsonl. `score` is None where the file has -1."""

    question_id: str
    model: str
    judge: str
    text: str | None
    score: float | None
    turn: int


def read_single(text: str, name: str) -> list[Row]:
    """The rows of a JUDGE_single.jsonl, repeated ones too, in their order. Raises DataError, with the line's number."""
    rows = []
    for where, row in json_rows(text, name, SINGLE):
        score, judge, turn = row["score"], row["judge"], row["turn"]
        is_number = isinstance(score, int | float) and not isinstance(score, bool) and abs(score) <= sys.float_info.max
        if not is_number or type(turn) is not int or turn not in (1, 2):
            raise DataError(f"{where}: score {score!r:.60}, turn {turn!r:.60}; expected a number, and 1 or 2")
        if not isinstance(row["model"], str):
            raise DataError(f"{where}: model {row['model']!r:.60}; expected a model's name")
        if not isinstance(judge, list) or not judge or not isinstance(row["judgment"], str):
            raise DataError(f"{where}: judge {judge!r:.60}; expected [model, prompt] and a judgment's text")
        said = None if row["judgment"] == FAILED else row["judgment"]
        rows.append(Row(str(row["question_id"]), row["model"], str(judge[0]), said, None if score == -1 else score, turn))
    return rows


def write_answers(folder: Path, answered: Answered) -> Path:
    """The run's answers."""
    stamp = datetime.fromisoformat(answered.run.started).timestamp()
    return _write(
        folder / "model_answer" / f"{answered.model}.jsonl",
        (
            {
                "question_id": _id(conversation.question_id),
                "answer_id": sha256_json([answered.run.model.fingerprint, list(conversation.answers)])[:22],
                "model_id": answered.model,
                "choices": [{"index": 0, "turns": list(conversation.answers)}],
                "tstamp": stamp,
            }
            for conversation in answered.conversations.values()
        ),
    )


def write_single(
    folder: Path, model: str, judge: str, asks: Sequence[Ask], judgments: Sequence[Judgment], ratings: Sequence[float | None]
) -> Path:
    """Single-answer judgments; where there is no rating the score is -1."""
    return _write(
        folder / "model_judgment" / f"{judge}_single.jsonl",
        (
            {
                "question_id": _id(ask.question_id),
                "model": model,
                "judge": [judge, ask.prompt],
                "user_prompt": ask.user_prompt,
                "judgment": _said(judgment),
                "score": _number(rating),
                "turn": ask.turn,
                "tstamp": judgment.time,
            }
            for ask, judgment, rating in zip(asks, judgments, ratings, strict=True)
        ),
    )


def write_pairs(folder: Path, models: tuple[str, str], judge: str, games: Sequence[tuple[Game, Sequence[Ask], Sequence[Judgment]]]) -> Path:
    """Pairwise judgments, both orders of a turn in one row; the first model is the run's."""
    names = {"ours": "model_1", "theirs": "model_2", "tie": "tie", None: "error"}
    return _write(
        folder / "model_judgment" / f"{judge}_pair.jsonl",
        (
            {
                "question_id": _id(game.question_id),
                "model_1": models[0],
                "model_2": models[1],
                "g1_winner": names[game.first],
                "g2_winner": names[game.second],
                "judge": [judge, asks[0].prompt],
                "g1_user_prompt": asks[0].user_prompt,
                "g1_judgment": _said(judgments[0]),
                "g2_user_prompt": asks[1].user_prompt,
                "g2_judgment": _said(judgments[1]),
                "turn": game.turn,
                "tstamp": judgments[1].time,
            }
            for game, asks, judgments in games
        ),
    )


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    write_atomically(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def _said(judgment: Judgment) -> str:
    return FAILED if judgment.text is None else judgment.text


def _id(question_id: str) -> int | str:
    """FastChat's ids are numbers."""
    return int(question_id) if question_id.isascii() and question_id.isdecimal() else question_id


def _number(rating: float | None) -> float:
    """8 and not 8.0, as FastChat's literals are."""
    return -1 if rating is None else int(rating) if rating == int(rating) else rating
