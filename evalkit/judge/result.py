"""Judgments -> figures in run.json, judged samples, and files in the layout that the task names."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evalkit.errors import RunIncomplete
from evalkit.hashing import sha256_json
from evalkit.judge import fastchat
from evalkit.judge.answered import Answered, file_name
from evalkit.judge.asks import Ask
from evalkit.judge.config import JudgeConfig
from evalkit.judge.pair import Game, outcome, winner
from evalkit.judge.runner import Judged
from evalkit.judge.score import Rated, Ratings, refuse_holes
from evalkit.record.sample import RatedTurn, SampleRow
from evalkit.record.schema import Judge, JudgeEntry, JudgeSpent, Opponent, Pairwise, Run, TaskEntry, task_of
from evalkit.record.write import write_record, write_samples
from evalkit.tasks import READERS, JudgedTask

RETRY = "ask again with --retry-failed, or read the texts with --rating strict"


def judgments_folder(answered: Answered) -> Path:
    """Where a judged task's plots and files for other programs are kept. For MT-Bench it is laid out as FastChat's data/mt_bench."""
    return answered.folder / task_of(answered.task)


def write_single(config: JudgeConfig, judged: Judged) -> Run:
    """Write all files; returns what run.json holds. Raises RunIncomplete where too many judgments failed, after writing them for others."""
    answered, task = judged.answered, judged.answered.judged_task
    done = list(zip(judged.asks, judged.judgments, strict=True))
    rows = [_rated(task, ask, judgment.text) for ask, judgment in done]
    values = [row.rating(config.rating) for row in rows]
    if task.judgment_files == "fastchat":
        folder = judgments_folder(answered)
        fastchat.write_answers(folder, answered)
        fastchat.write_single(folder, answered.model, file_name(config.model), judged.asks, judged.judgments, values)
    holes = [(row.question_id, row.turn) for row, value in zip(rows, values, strict=True) if value is None]
    refuse_holes(holes, len(rows), config.rating, _retry(judged), RunIncomplete, config.max_failed)

    ratings = Ratings(rows, config.rating, task.scale)
    entry = answered.entry
    before = (entry.judge.answers_protocol_sha256 if entry.judge else None) or entry.protocol_sha256
    about = JudgeEntry(
        **_about(config, judged),
        answers_protocol_sha256=before,
        max_failed=config.max_failed,
        spread=ratings.spread(),
        counts=ratings.counts(),
    )
    by_question = ratings.by_question()
    unscored = sum(not some.values() for some in by_question.values())
    entry = replace(judged_entry(entry, before, ratings, about), counts=replace(entry.counts, unscored=unscored))
    write_samples(answered.folder, answered.task, (_sample(sample, by_question[sample.doc_id]) for sample in answered.rows))
    return _write_entry(answered, entry)


def _retry(judged: Judged) -> str:
    """The way out: of requests that failed, it begins with why most of them did."""
    failed = Counter(judgment.error for judgment in judged.judgments if judgment.text is None and judgment.error)
    if not failed:
        return RETRY
    (error, count), *_ = failed.most_common(1)
    return f"{count} of them: {error}; mend that, and ask again with --retry-failed"


def _rated(task: JudgedTask, ask: Ask, text: str | None) -> Rated:
    published, strict = (task.rating(text, reader) for reader in READERS)
    outside = published is None and text is not None and task.published_rating(text) is not None
    return Rated(ask.question_id, ask.category, ask.turn, ask.repeat, text, published, strict, outside)


def judged_entry(entry: TaskEntry, protocol_sha256: str, ratings: Ratings, judge: JudgeEntry) -> TaskEntry:
    """The entry with the judge's figures. Another judge or prompt is another protocol hash, so that their figures are never compared."""
    part = {
        "model": judge.model,
        "answered_as": judge.answered_as,
        "temperature": judge.temperature,
        "max_tokens": judge.max_tokens,
        "prompts_sha256": judge.prompts_sha256,
        "rating": judge.rating,
    }
    return replace(
        entry,
        protocol_sha256=sha256_json([protocol_sha256, part]),
        metrics=ratings.metrics(),
        groups=ratings.by_category(),
        judge=judge,
    )


def write_pairs(config: JudgeConfig, judged: Judged) -> Pairwise:
    """Write all files of a pairwise comparison; returns it, as run.json holds it. Raises RunIncomplete as write_single does."""
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
    refuse_holes(holes, len(games), config.rating, _retry(judged), RunIncomplete, config.max_failed)
    all_games = [game for game, _, _ in games]
    categories = dict.fromkeys(game.category for game in all_games)
    opponent = Opponent(run=str(config.against), spec=against.run.model.spec, fingerprint=against.run.model.fingerprint)
    comparison = Pairwise(
        against=opponent,
        judge=Judge(**_about(config, judged)),
        overall=outcome(all_games),
        groups={category: outcome([g for g in all_games if g.category == category]) for category in categories},
    )
    entry = answered.entry
    others = tuple(c for c in entry.pairwise if c.against != opponent)
    _write_entry(answered, replace(entry, pairwise=(*others, comparison)))
    return comparison


def _about(config: JudgeConfig, judged: Judged) -> dict[str, Any]:
    """The judge, its settings and its cost: the fields of a Judge."""
    said = [judgment for judgment in judged.judgments if judgment.text is not None]
    spent = judged.spent
    return config.identity | {
        "answered_as": dict(sorted(Counter(judgment.model for judgment in said).items())),
        "system_fingerprints": dict(sorted(Counter(j.system_fingerprint for j in said if j.system_fingerprint).items())),
        "prompts_sha256": judged.prompts_sha256,
        "spent": JudgeSpent(**asdict(spent), cost=config.cost(spent.prompt_tokens, spent.completion_tokens)),
        "rating": config.rating,
        "repeats": config.repeats,
    }


def _sample(sample: SampleRow, ratings: Ratings) -> SampleRow:
    judgments = tuple(
        RatedTurn(turn=row.turn, repeat=row.repeat, published=row.published, strict=row.strict, judgment=row.text) for row in ratings.rows
    )
    return replace(sample, metrics=ratings.values(), extracted=ratings.in_words(), judgments=judgments)


def _write_entry(answered: Answered, entry: TaskEntry) -> Run:
    run = replace(answered.run, tasks={**answered.run.tasks, answered.task: entry})
    write_record(answered.folder, run)
    return run
