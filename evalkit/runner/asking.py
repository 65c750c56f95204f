"""Asking: every request's response, from the journal or else from the model, in the journal as it arrives."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from evalkit.errors import EvalkitError, OutOfTime, OwnCodeError, RunIncomplete, in_words, traceback_kept
from evalkit.lm.base import LM, require_finite, responses_to
from evalkit.progress import Reporter
from evalkit.runner.journal import Journal, request_key
from evalkit.runner.plan import Plan
from evalkit.runner.running_score import RunningScore
from evalkit.runner.time_left import TimeLeft
from evalkit.tasks import JudgedTask, Request, Response, is_refused


def converse(
    plan: Plan, lm: LM, journal: Journal, reporter: Reporter, time_left: TimeLeft | None = None, deadline: float = math.inf
) -> tuple[list[list[Request]], list[list[Response]]]:
    """Every document's requests and their responses, including all further turns of conversations.

    `time_left` knows the tasks to come, by default none. Raises OutOfTime at the first answer after `deadline` (of time.monotonic) that is
    not the last.
    """
    time_left = time_left or TimeLeft(lm, {})
    asked = [list(requests) for requests in plan.requests]
    responses: list[list[Response]] = [[] for _ in plan.docs]
    due, turn = plan.requests, 1
    while any(due):
        known = answer(plan, due, turn, lm, journal, reporter, time_left, deadline)
        for given, new in zip(responses, due, strict=True):
            given += [known[request] for request in new]
        if not isinstance(plan.task, JudgedTask):
            break
        due = [plan.task.follow_up(doc, given) if new else () for doc, given, new in zip(plan.docs, responses, due, strict=True)]
        turn += 1
        for requests, new in zip(asked, due, strict=True):
            requests += new
    return asked, responses


def answer(
    plan: Plan,
    due: Sequence[Sequence[Request]],
    turn: int,
    lm: LM,
    journal: Journal,
    reporter: Reporter,
    time_left: TimeLeft,
    deadline: float = math.inf,
) -> dict[Request, Response]:
    """Every due request's response, from the journal or else from the model."""
    task = str(plan.task.protocol)
    name = task if turn == 1 else f"{task} turn {turn}"
    keys = {request: request_key(lm.fingerprint, request) for requests in due for request in requests}
    known: dict[Request, Response] = {}
    for request, key in keys.items():
        if (response := journal.get(key)) is not None:
            require_finite(request, response)
            known[request] = response
    if known:
        reporter.say(f"{name}: {len(known)} of {len(keys)} answers were in the journal")
    score = RunningScore(plan.task, plan.docs, plan.requests) if turn == 1 else None
    if score:
        for request in known:
            score.add(request, known)
    missing = [request for request in keys if request not in known]
    if missing and not lm.ready:
        with reporter.bar("loading model", 100, counted=False) as advance, engine_errors(journal):
            lm.prepare(lambda done, total: advance(done * 100 // total))
    time_left.begin(task, missing)
    with reporter.bar(name, len(keys), done=len(known), status=time_left) as advance:
        last, spent = time.monotonic(), lm.tokens()
        for request, response in _answers(lm, missing, journal):
            now, tokens = time.monotonic(), lm.tokens()
            if not is_refused(response):  # the next session asks again
                journal.put(keys[request], response, task, now - last, tokens.computed - spent.computed, tokens.shared - spent.shared)
            last, spent = now, tokens
            known[request] = response
            time_left.add(request, response)
            advance(len(known), score.add(request, known) if score else "")
            if now >= deadline and len(known) < len(keys):
                raise OutOfTime
    return known


def _answers(lm: LM, requests: Sequence[Request], journal: Journal) -> Iterator[tuple[Request, Response]]:
    with engine_errors(journal):
        yield from _ask(lm, requests)


@contextmanager
def engine_errors(journal: Journal) -> Iterator[None]:
    """Whatever an engine raises (out of memory, a CUDA error, a missing file) ends the run early, with all answers kept."""
    try:
        yield
    except OwnCodeError as error:
        kept = f"; {len(journal)} answers are kept in {journal.path.parent}" if len(journal) else ""
        raise OwnCodeError(f"{error}{kept}") from error.__cause__
    except (EvalkitError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a panic in a Rust library is not an Exception
        folder = journal.path.parent
        raise RunIncomplete(
            f"the engine failed ({in_words(error)}); {len(journal)} answers are kept in {folder}, run the same command again to go on; "
            f"{traceback_kept(error, folder)}"
        ) from error


def _ask(lm: LM, requests: Sequence[Request]) -> Iterator[tuple[Request, Response]]:
    for i, response in responses_to(lm, requests):
        require_finite(requests[i], response)
        yield requests[i], response
