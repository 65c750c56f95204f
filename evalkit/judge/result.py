"""Judgments -> figures in run.json, judged samples, FastChat's files."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evalkit.errors import RunIncomplete
from evalkit.exchange import fastchat
from evalkit.files import write_atomically
from evalkit.hashing import sha256_json
from evalkit.judge import score
from evalkit.judge.answered import Answered, file_name
from evalkit.judge.config import JudgeConfig
from evalkit.judge.pair import Game, outcome, winner
from evalkit.judge.rating import READERS
from evalkit.judge.runner import Judged
from evalkit.judge.score import Rated

RETRY = "ask again with --retry-failed, or read the texts with --rating strict"


def fastchat_folder(answered: Answered) -> Path:
    """Where FastChat's files of a run lie: what FastChat itself has in data/mt_bench."""
    return answered.folder / answered.task.partition("@")[0]


def write_single(config: JudgeConfig, judged: Judged) -> dict[str, Any]:
    """Write all files; returns run.json's content. Raises RunIncomplete, after FastChat's files, where too many judgments failed."""
    answered, folder = judged.answered, fastchat_folder(judged.answered)
    rows = [
        score.rated(ask.question_id, ask.category, ask.turn, ask.repeat, j.text, None if j.text is None else READERS["published"](j.text))
        for ask, j in zip(judged.asks, judged.judgments, strict=True)
    ]
    ratings = [row.rating(config.rating) for row in rows]
    fastchat.write_answers(folder, answered)
    fastchat.write_single(folder, answered.model, file_name(config.model), judged.asks, judged.judgments, ratings)
    holes = [(row.question_id, row.turn) for row, rating in zip(rows, ratings, strict=True) if rating is None]
    score.refuse_holes(holes, len(rows), config.rating, RETRY, RunIncomplete, config.max_failed)

    entry = answered.record["tasks"][answered.task]
    before = entry.get("judge", {}).get("answers_protocol_sha256", entry["protocol_sha256"])
    about = _about(config, judged) | {
        "answers_protocol_sha256": before,
        "rating": config.rating,
        "repeats": config.repeats,
        "max_failed": config.max_failed,
        "spread": score.spread(rows, config.rating),
        "counts": score.counts(rows),
    }
    entry |= judged_entry(before, rows, config.rating, about)
    by_question: dict[str, list[Rated]] = {}
    for row in rows:
        by_question.setdefault(row.question_id, []).append(row)
    entry["counts"] = entry["counts"] | {"unscored": sum(not score.of_question(some, config.rating) for some in by_question.values())}
    lines = (
        json.dumps(_sample(sample, by_question[sample["doc_id"]], config.rating), ensure_ascii=False) + "\n" for sample in answered.rows
    )
    write_atomically(answered.folder / "samples" / f"{answered.task}.jsonl", lines)
    _write_record(answered)
    return answered.record


def judged_entry(protocol_sha256: str, rows: list[Rated], reader: str, about: dict[str, Any]) -> dict[str, Any]:
    """The part of run.json's entry that judgments make. Another judge or prompt is another protocol hash: never compared unawares."""
    part = {key: about.get(key) for key in ("model", "answered_as", "temperature", "max_tokens", "prompts_sha256", "rating")}
    return {
        "protocol_sha256": sha256_json([protocol_sha256, part]),
        "metrics": score.metrics(rows, reader),
        "groups": score.by_category(rows, reader),
        "judge": about,
    }


def write_pairs(config: JudgeConfig, judged: Judged) -> dict[str, Any]:
    """Write all files of a pairwise comparison; returns it, as it stands in run.json's `pairwise`. Raises RunIncomplete as write_single."""
    answered, against = judged.answered, judged.against
    assert against is not None
    done = list(zip(judged.asks, judged.judgments, strict=True))
    games = []
    for (first, said_first), (second, said_second) in zip(done[::2], done[1::2], strict=True):
        won = [winner(said.text, ask.order, config.rating) for ask, said in ((first, said_first), (second, said_second))]
        game = Game(first.question_id, first.category, first.turn, first.repeat, won[0], won[1])
        games.append((game, (first, second), (said_first, said_second)))
    folder = fastchat_folder(answered)
    models = (answered.model, against.model if against.model != answered.model else f"{against.model}-2")
    fastchat.write_answers(folder, answered)
    fastchat.write_pairs(folder, models, file_name(config.model), games)
    holes = [(game.question_id, game.turn) for game, _, _ in games if game.winner is None]
    score.refuse_holes(holes, len(games), config.rating, RETRY, RunIncomplete, config.max_failed)
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


def _sample(sample: dict[str, Any], rows: list[Rated], reader: str) -> dict[str, Any]:
    ratings = [
        {"turn": row.turn, "repeat": row.repeat, "published": row.published, "strict": row.strict, "judgment": row.text} for row in rows
    ]
    extracted = ", ".join(f"turn {row.turn}: {'-' if (value := row.rating(reader)) is None else f'{value:g}'}" for row in rows)
    return sample | {"metrics": score.of_question(rows, reader), "extracted": extracted, "judgments": ratings}


def _write_record(answered: Answered) -> None:
    write_atomically(answered.folder / "run.json", [json.dumps(answered.record, indent=2, ensure_ascii=False) + "\n"])
