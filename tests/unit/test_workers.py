"""The driver with scripted workers: one LM, whatever its workers do."""

import signal
import time
from collections.abc import Iterable

import pytest
from scripted_workers import Scripted, ScriptedWorkers, answers, multiple_choice, obey, response_to

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError, RequestsSetAside, RunIncomplete
from evalkit.tasks import Generate, Loglikelihoods
from evalkit.workers import pool
from evalkit.workers.messages import Alive, Failed, Finished, FromWorker, Lease
from evalkit.workers.pool import WorkersLM


def lm_of(workers: ScriptedWorkers, count: int, said: list[str] | None = None) -> WorkersLM:
    return WorkersLM(workers, ModelSpec(), count, (said if said is not None else []).append)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_answer_arrives_once(count: int, seed: int) -> None:
    requests = multiple_choice(3, 40)
    lm = lm_of(ScriptedWorkers(seed=seed), count)
    found = list(lm.loglikelihood(requests))
    assert sorted(i for i, _ in found) == list(range(len(requests)))
    assert dict(found) == {i: response_to(request) for i, request in enumerate(requests)}
    lm.close()


def test_texts_and_answers_too_and_equal_requests_are_asked_once() -> None:
    workers = ScriptedWorkers()
    lm = lm_of(workers, 2)
    same = Generate("Say it.", (), 4)
    assert dict(lm.generate([same, same])) == dict.fromkeys((0, 1), response_to(same))
    assert sum(len(lease.requests) for worker in workers.started for lease in worker.leases) == 1
    found = dict(lm.loglikelihood_rolling(["a text", "another"]))
    assert set(found) == {0, 1}
    assert all(isinstance(each, float) for each in found.values())
    assert list(lm.generate([])) == []


def dies_once(worker: Scripted, lease: Lease) -> Iterable[FromWorker | None]:
    return obey(worker, lease) if worker.number else [*answers(lease, 3), None]


def test_what_a_lost_worker_has_not_answered_goes_to_others() -> None:
    requests, said = multiple_choice(2, 30), []
    workers = ScriptedWorkers(dies_once)
    lm = lm_of(workers, 3, said)
    found = list(lm.loglikelihood(requests))
    assert sorted(i for i, _ in found) == list(range(len(requests)))
    assert any("worker 1 is lost: killed by SIGKILL" in text and "given to others" in text for text in said)
    assert sum(worker.number == 0 for worker in workers.started) > 1  # replaced


def test_requests_that_two_workers_are_lost_with_are_set_aside_and_all_others_answered() -> None:
    requests = multiple_choice(2, 40)
    poison = requests[17]

    def act(worker: Scripted, lease: Lease) -> Iterable[FromWorker | None]:
        return [None] if poison in lease.requests else obey(worker, lease)

    found: set[int] = set()
    with pytest.raises(RequestsSetAside, match="requests were set aside, with which two workers were lost") as caught:
        found.update(i for i, _ in lm_of(ScriptedWorkers(act), 2).loglikelihood(requests))
    assert caught.value.exit_code == 4
    assert 17 not in found
    assert len(found) >= len(requests) - 6  # an eighth of a lease at most


def test_a_worker_of_another_fingerprint_is_refused_and_the_others_go_on() -> None:
    said: list[str] = []
    workers = ScriptedWorkers(fingerprints=["sha256:a", "sha256:b", "sha256:a"])
    lm = lm_of(workers, 3, said)
    assert len(list(lm.loglikelihood(multiple_choice(2, 20)))) == 40
    assert not next(worker for worker in workers.started if worker.number == 1).leases
    assert any("worker 2 is refused: its fingerprint is sha256:b, the first one's sha256:a" in text for text in said)


def test_bad_input_ends_the_run_as_without_workers() -> None:
    def act(worker: Scripted, lease: Lease) -> Iterable[FromWorker | None]:
        return [Failed("continuation '' adds no token to its context", 2)]

    with pytest.raises(EvalkitError, match="adds no token") as caught:
        list(lm_of(ScriptedWorkers(act), 2).loglikelihood(multiple_choice(1, 4)))
    assert caught.value.exit_code == 2


def test_a_server_that_is_gone_costs_its_worker_and_the_last_one_the_run() -> None:
    def gone(worker: Scripted, lease: Lease) -> Iterable[FromWorker | None]:
        return [Failed("no answer from the server", 4)]

    assert len(list(lm_of(ScriptedWorkers([gone, obey]), 2).loglikelihood(multiple_choice(2, 20)))) == 40
    with pytest.raises(RunIncomplete, match="no worker is left") as caught:
        list(lm_of(ScriptedWorkers(gone), 2).loglikelihood(multiple_choice(2, 20)))
    assert not isinstance(caught.value, RequestsSetAside)


def test_an_engine_that_skips_requests_is_not_believed() -> None:
    def act(worker: Scripted, lease: Lease) -> Iterable[FromWorker | None]:
        return [*answers(lease, len(lease.requests) - 1), Finished(lease.id, {})]

    with pytest.raises(RunIncomplete, match=r"left requests without an answer"):
        list(lm_of(ScriptedWorkers(act), 1).loglikelihood(multiple_choice(1, 4)))


def test_a_worker_that_says_nothing_loses_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Ticking(ScriptedWorkers):
        def receive(self, timeout: float):
            clock[0] += 0.5
            return super().receive(timeout)

    def hangs(worker: Scripted, lease: Lease) -> Iterable[FromWorker | None]:
        return answers(lease, 2) if worker is worker_zero() else obey(worker, lease)

    workers = Ticking(hangs)

    def worker_zero() -> Scripted:
        return workers.started[0]

    said: list[str] = []
    lm = WorkersLM(workers, ModelSpec(), 2, said.append)
    requests = multiple_choice(2, 20)
    assert len(list(lm.loglikelihood(requests))) == len(requests)
    assert any("no sign of life for 20 s" in text for text in said)
    assert worker_zero().is_killed
    assert clock[0] < 120


def test_a_driver_that_was_stopped_itself_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    said: list[str] = []
    lm = lm_of(ScriptedWorkers(), 2, said)
    for i, _ in enumerate(lm.loglikelihood(multiple_choice(2, 20))):
        if i == 3:
            clock[0] += 3600.0
    assert not said


def test_a_caller_that_stops_early_leaves_nothing_behind() -> None:
    workers = ScriptedWorkers()
    lm = lm_of(workers, 2)
    stopped = lm.loglikelihood(multiple_choice(2, 20))
    next(stopped)
    stopped.close()
    requests = multiple_choice(2, 10)
    assert dict(lm.loglikelihood(requests)) == {i: response_to(request) for i, request in enumerate(requests)}


def interrupt_at(counts: tuple[int, ...], lm: WorkersLM, found: list[int]) -> None:
    """Ask, and press Ctrl-C when so many answers are there."""
    for i, _ in lm.loglikelihood(multiple_choice(40, 40)):
        found.append(i)
        if len(found) in counts:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_once_lets_leases_end() -> None:
    said: list[str] = []
    workers = ScriptedWorkers()
    lm = lm_of(workers, 2, said)
    found: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_at((1,), lm, found)
    leased = sum(len(lease.requests) for worker in workers.started for lease in worker.leases)
    assert len(found) == leased < 1600
    assert any("interrupted: the workers end what they have begun" in text for text in said)


def test_a_second_ctrl_c_stops_at_once() -> None:
    lm, found = lm_of(ScriptedWorkers(), 2), list[int]()
    with pytest.raises(KeyboardInterrupt):
        interrupt_at((1, 2), lm, found)
    assert len(found) == 2
    lm.close()


def test_tokens_are_those_of_all_workers_those_that_are_lost_too() -> None:
    def act(worker: Scripted, lease: Lease) -> Iterable[FromWorker | None]:
        worker.computed = getattr(worker, "computed", 0) + len(lease.requests)  # type: ignore[attr-defined]
        said = [*answers(lease), Alive(worker.computed, 0, (5,))]  # type: ignore[attr-defined]
        return [*said, *([None] if worker is workers.started[0] else [Finished(lease.id, {})])]

    workers = ScriptedWorkers(act)
    lm = lm_of(workers, 2)
    found = list(lm.loglikelihood(multiple_choice(2, 20)))
    assert len(found) == 40
    assert all(isinstance(response, Loglikelihoods) for _, response in found)
    assert lm.tokens().computed == 40
    assert lm.activity().startswith("2 workers (1: ")


def test_silence_is_found_well_within_half_a_minute() -> None:
    assert pool.SILENCE + 2 * pool.TURN < 25
