"""Judgments -> figures in run.json, judged samples, and the files of the program that the task names."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evalkit.errors import RunIncomplete
from evalkit.exchange import fastchat
from evalkit.files import write_atomically
from evalkit.hashing import sha256_json
from evalkit.judge.answered import Answered, file_name
from evalkit.judge.asks import Ask
from evalkit.judge.config import JudgeConfig
from evalkit.judge.pair import Game, outcome, winner
from evalkit.judge.runner import Judged
from evalkit.judge.score import Rated, Ratings, refuse_holes
from evalkit.tasks import READERS, JudgedTask

RETRY = "ask again with --retry-failed, or read the texts with --rating strict"


def judgments_folder(answered: Answered) -> Path:
    """Where a judged task's plots and files for other programs are kept. Of MT-Bench, it is what FastChat has in data/mt_bench."""
    return answered.folder / answered.task.partition("@")[0]


def write_single(config: JudgeConfig, judged: Judged) -> dict[str, Any]:
    """Write all files; returns run.json's content. Raises RunIncomplete, after FastChat's files, where too many judgments failed."""
    answered, task = judged.answered, judged.answered.judged_task
    done = list(zip(judged.asks, judged.judgments, strict=True))
    rows = [_rated(task, ask, judgment.text) for ask, judgment in done]
    values = [row.rating(config.rating) for row in rows]
    if task.judgment_files == "fastchat":
        folder = judgments_folder(answered)
        fastchat.write_answers(folder, answered)
        fastchat.write_single(folder, answered.model, file_name(config.model), judged.asks, judged.judgments, values)
    holes = [(row.question_id, row.turn) for row, value in zip(rows, values, strict=True) if value is None]
    refuse_holes(holes, len(rows), config.rating, RETRY, RunIncomplete, config.max_failed)

    ratings = Ratings(rows, config.rating, task.scale)
    entry = answered.record["tasks"][answered.task]
    before = entry.get("judge", {}).get("answers_protocol_sha256", entry["protocol_sha256"])
    about = _about(config, judged) | {
        "answers_protocol_sha256": before,
        "rating": config.rating,
        "repeats": config.repeats,
        "max_failed": config.max_failed,
        "spread": ratings.spread(),
        "counts": ratings.counts(),
    }
    entry |= judged_entry(before, ratings, about)
    by_question = ratings.by_question()
    entry["counts"] = entry["counts"] | {"unscored": sum(not some.values() for some in by_question.values())}
    lines = (json.dumps(_sample(sample, by_question[sample["doc_id"]]), ensure_ascii=False) + "\n" for sample in answered.rows)
    write_atomically(answered.folder / "samples" / f"{answered.task}.jsonl", lines)
    _write_record(answered)
    return answered.record


def _rated(task: JudgedTask, ask: Ask, text: str | None) -> Rated:
    published, strict = (task.rating(text, reader) for reader in READERS)
    return Rated(ask.question_id, ask.category, ask.turn, ask.repeat, text, published, strict)


def judged_entry(protocol_sha256: str, ratings: Ratings, about: dict[str, Any]) -> dict[str, Any]:
    """The part of run.json's entry that judgments make. Another judge or prompt is another protocol hash: never compared unawares."""
    part = {key: about.get(key) for key in ("model", "answered_as", "temperature", "max_tokens", "prompts_sha256", "rating")}
    return {
        "protocol_sha256": sha256_json([protocol_sha256, part]),
        "metrics": ratings.metrics(),
        "groups": ratings.by_category(),
        "judge": about,
    }


def write_pairs(config: JudgeConfig, judged: Judged) -> dict[str, Any]:
    """Write all files of a pairwise comparison; returns it, as it stands in run.json's `pairwise`. Raises RunIncomplete as write_single."""
    answered, against, task = judged.answered, judged.against, judged.answered.judged_task
    assert against is not None
    done = list(zip(judged.asks, judged.judgments, strict=True))
    games = []
    for (first, said_first), (second, said_second) in zip(done[::2], done[1::2], strict=True):
        won = [winner(task, said.text, ask.order, config.rating) for ask, said in ((first, said_first), (second, said_second))]
        game = Game(first.question_id, first.category, first.turn, first.repeat, won[0], won[1])
        games.append((game, (first, second), (said_first, said_second)))
    if task.judgment_files == "fastchat":
        folder = judgments_folder(answered)
        models = (answered.model, against.model if against.model != answered.model else f"{against.model}-2")
        fastchat.write_answers(folder, answered)
        fastchat.write_pairs(folder, models, file_name(config.model), games)
    holes = [(game.question_id, game.turn) for game, _, _ in games if game.winner is None]
    refuse_holes(holes, len(games), config.rating, RETRY, RunIncomplete, config.max_failed)
    all_games = [game for game, _, _ in games]
    categories = dict.fromkeys(game.category for game in all_games)
    comparison = {
        "against": {
            "run": str(config.against),
            "spec": against.record["model"]["spec"],
            "fingerprint": against.record["model"]["fingerprint"],
        },
        "judge": _about(config, judged) | {"rating": config.rating, "repeats": config.repeats},
        "overall": outcome(all_games),
        "groups": {category: outcome([g for g in all_games if g.category == category]) for category in categories},
    }
    entry = answered.record["tasks"][answered.task]
    entry["pairwise"] = [c for c in entry.get("pairwise", []) if c["against"] != comparison["against"]] + [comparison]
    _write_record(answered)
    return comparison


def _about(config: JudgeConfig, judged: Judged) -> dict[str, Any]:
    """Who judged, how, and for how much."""
    said = [judgment for judgment in judged.judgments if judgment.text is not None]
    spent = asdict(judged.spent) | {"cost": config.cost(judged.spent.prompt_tokens, judged.spent.completion_tokens)}
    return config.identity | {
        "answered_as": dict(sorted(Counter(judgment.model for judgment in said).items())),
        "system_fingerprints": dict(sorted(Counter(j.system_fingerprint for j in said if j.system_fingerprint).items())),
        "prompts_sha256": judged.prompts_sha256,
        "spent": spent,
    }


def _sample(sample: dict[str, Any], ratings: Ratings) -> dict[str, Any]:
    judgments = [
        {"turn": row.turn, "repeat": row.repeat, "published": row.published, "strict": row.strict, "judgment": row.text}
        for row in ratings.rows
    ]
    return sample | {"metrics": ratings.values(), "extracted": ratings.in_words(), "judgments": judgments}


def _write_record(answered: Answered) -> None:
    write_atomically(answered.folder / "run.json", [json.dumps(answered.record, indent=2, ensure_ascii=False) + "\n"])
