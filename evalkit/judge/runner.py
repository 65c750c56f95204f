"""The judge runner: a run -> asks -> judgments, a limited number at a time, each stored as it arrives."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit.data.sources import open_source
from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.judge.answered import Answered, read_answered
from evalkit.judge.asks import Ask, pairwise, single
from evalkit.judge.client import BudgetSpent, Judge, ServerDown, stopped
from evalkit.judge.config import JudgeConfig
from evalkit.judge.judgments import Judgment, JudgmentStore, Spent, judgment_key
from evalkit.lm.http import RequestFailed, concurrently
from evalkit.progress import Reporter
from evalkit.runner.run import interruptible
from evalkit.tasks import Conversation, JudgedTask

DATABASE = "judgments.sqlite"
GIVE_UP = 20  # failures in a row: then the fault is the server's, not the questions'


@dataclass(frozen=True, slots=True)
class Judged:
    """All judgments of a run, with what was asked and their cost over all sessions."""

    answered: Answered
    against: Answered | None
    prompts_sha256: str
    asks: Sequence[Ask]
    judgments: Sequence[Judgment]
    spent: Spent


def judge(config: JudgeConfig, reporter: Reporter) -> Judged:
    """Make the judgments that are missing. Raises EvalkitError for bad input, and RunIncomplete where it stops early."""
    answered = read_answered(config.run, config.allow_task_code)
    against = read_answered(config.against, config.allow_task_code) if config.against else None
    asks, prompts_sha256 = _asks(config, answered, against)
    store = JudgmentStore(answered.folder / DATABASE)
    try:
        judge = Judge(config, store)
        keys = [judgment_key(config.identity, ask) for ask in asks]
        known = {i: judgment for i, key in enumerate(keys) if (judgment := store.get(key)) is not None}
        again = {i for i in known if config.retry_failed and not is_read(answered.judged_task, known[i], asks[i], config.rating)}
        todo = [i for i in range(len(asks)) if i not in known or i in again]
        if kept := len(asks) - len(todo):
            reporter.say(f"{kept} of {len(asks)} judgments were stored already")
        try:
            _work(judge, store, asks, keys, todo, known, config.concurrency, reporter)
        finally:
            judge.close()
        if judge.retries:
            reporter.say(f"{judge.retries} requests were tried again")
        return Judged(answered, against, prompts_sha256, asks, [known[i] for i in range(len(asks))], judge.spent())
    finally:
        store.close()


def is_read(task: JudgedTask, judgment: Judgment, ask: Ask, reader: str) -> bool:
    """Does this reader find a rating (or verdict) in the judgment?"""
    read = task.verdict if ask.order else task.rating
    return read(judgment.text, reader) is not None


def _asks(config: JudgeConfig, answered: Answered, against: Answered | None) -> tuple[list[Ask], str]:
    task = answered.judged_task
    kind = answered.entry.data.source
    if config.data is None and kind == "dir":
        raise EvalkitError(f"the run's questions came from a folder; pass --data DIR, which holds {task.judge_prompts.path} too")
    source = open_source(config.data or kind)
    prompts = source.text(task.judge_prompts)
    if against is None:
        return single(task, answered.conversations, prompts, config.repeats), source.sha256()
    if _questions(answered.conversations) != _questions(against.conversations):
        raise EvalkitError(f"{config.run} and {config.against} answer different questions; run both on the same --data and --limit")
    asks = pairwise(task, answered.conversations, against.conversations, prompts, config.repeats)
    if not asks:
        raise EvalkitError(f"{task.name} has no pairwise comparison; leave --against out")
    return asks, source.sha256()


def _questions(conversations: Mapping[str, Conversation]) -> dict[str, tuple[str, ...]]:
    return {question_id: tuple(conversation.turns) for question_id, conversation in conversations.items()}


def _work(
    judge: Judge,
    store: JudgmentStore,
    asks: Sequence[Ask],
    keys: Sequence[str],
    todo: Sequence[int],
    known: dict[int, Judgment],
    concurrency: int,
    reporter: Reporter,
) -> None:
    """Fill in `known`. Once something ends the run, no request is begun, and those in flight are waited for and kept."""
    failed_in_a_row = 0
    end: list[EvalkitError] = []
    mutex = threading.Lock()

    def work(i: int) -> Judgment | None:
        nonlocal failed_in_a_row
        if end:
            return None
        try:
            judgment = judge.ask(asks[i])
            store.put(keys[i], judgment)
        except (BudgetSpent, RequestFailed) as error:
            end.append(error)
            return None
        with mutex:
            failed_in_a_row = failed_in_a_row + 1 if judgment.text is None else 0
            if failed_in_a_row >= GIVE_UP:
                end.append(ServerDown(f"the last {GIVE_UP} judgments failed, the last one because: {judgment.error}"))
        return judgment

    before = len(asks) - len(todo)
    done = 0
    try:
        with interruptible(), reporter.bar("judging", len(asks), done=before) as advance:
            for at, judgment in concurrently(work, todo, concurrency):
                if judgment is not None:
                    known[todo[at]] = judgment
                    done += 1
                    advance(before + done)
    except KeyboardInterrupt:
        end.insert(0, RunIncomplete("interrupted"))
    if end:
        raise stopped(end[0], before + done, len(asks))
