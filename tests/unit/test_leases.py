"""Branches and leases: every request is computed once, beginnings stay together, and what lost workers leave is leased again."""

from hypothesis import given
from hypothesis import strategies as st
from scripted_workers import multiple_choice

from evalkit.tasks import Generate, Loglikelihood
from evalkit.workers.branches import branches
from evalkit.workers.leases import PARTS, SECONDS, SMALLEST, Leases


def test_a_branch_is_what_shares_most_of_its_prompt() -> None:
    requests = multiple_choice(subjects=3, docs=5)
    found = branches(requests)
    assert sorted(i for branch in found for i in branch.requests) == list(range(15))
    assert [{i % 3 for i in branch.requests} for branch in found] == [{branch.requests[0] % 3} for branch in found]
    for branch in found:  # the first one has what all begin with
        assert branch.work[0] > 20 * max(branch.work[1:])


def test_the_largest_branch_comes_first() -> None:
    small, large = multiple_choice(1, 3), [Loglikelihood("x" * 9000 + str(i), (" A",)) for i in range(40)]
    assert len(branches([*small, *large])[0].requests) == 40


def test_requests_without_a_common_beginning_are_leased_together() -> None:
    requests = [Loglikelihood(f"{i} is a number, and so is {i + 1}", (" A",)) for i in range(1000)]
    leases = Leases(branches(requests), 2, generates=False)
    assert len(branches(requests)) > 500
    lease = leases.take(0)
    assert lease is not None
    assert len(lease.requests) > 100


def test_a_worker_goes_on_with_its_branch_and_begins_another_before_it_divides_one() -> None:
    requests = [Loglikelihood(f"{s}" * 4000 + f"Question {d}: {'long ' * 200}", (" A",)) for s in range(3) for d in range(60)]
    leases = Leases(branches(requests), 2, generates=False)
    begun = [leases.take(worker, pace=SMALLEST / SECONDS) for worker in (0, 1, 0, 1)]
    subjects = [{i // 60 for i in lease.requests} for lease in begun if lease]
    assert subjects[0] == subjects[2] != subjects[1] == subjects[3]
    assert all(len(subject) == 1 for subject in subjects)


def test_leases_of_prompts_last_so_many_seconds_at_the_workers_pace_and_shrink_towards_the_end() -> None:
    requests = [Loglikelihood("x" * 4000 + f"Question {d}: {'long ' * 200}", (" A",)) for d in range(2000)]
    leases = Leases(branches(requests), 2, generates=False)
    work = []
    while lease := leases.take(0, pace=1000.0):
        work.append(lease.work)
        for i in range(len(lease.requests)):
            leases.answered(lease.id, i)
        assert leases.finished(lease.id)
    assert max(work) < 1000 * SECONDS + 2000
    assert work[-1] < work[0] / 4
    assert leases.is_done


def test_answers_are_generated_in_large_leases() -> None:
    requests = [Generate("x" * 2000 + f"Question {d}", (), 400) for d in range(1000)]
    leases = Leases(branches(requests), 2, generates=True)
    lease = leases.take(0, pace=1.0)
    assert lease is not None
    assert 240 <= len(lease.requests) <= 260


def test_the_rest_of_a_lost_lease_is_divided_and_set_aside_at_the_second_loss() -> None:
    leases = Leases(branches(multiple_choice(1, 64)), 1, generates=False)
    lease = leases.take(0)
    assert lease is not None
    assert len(lease.requests) == 64
    assert leases.answered(lease.id, 5) == lease.requests[5]
    assert leases.answered(lease.id, 5) is None  # once
    assert leases.lost(lease.id) == ()
    assert leases.answered(lease.id, 6) is None  # too late
    second = leases.take(0)
    assert second is not None
    assert len(second.requests) == 63 // PARTS + 1
    assert leases.lost(second.id) == second.requests
    answered = 0
    while rest := leases.take(0):
        answered += len([leases.answered(rest.id, i) for i in range(len(rest.requests))])
        assert leases.finished(rest.id)
    assert answered == 63 - len(second.requests)
    assert leases.set_aside == [*second.requests]
    assert leases.is_done


def test_a_server_that_is_gone_is_no_fault_of_the_requests() -> None:
    leases = Leases(branches(multiple_choice(1, 8)), 1, generates=False)
    for _ in range(5):
        lease = leases.take(0)
        assert lease is not None
        assert leases.lost(lease.id, is_fault=False) == ()
    assert not leases.set_aside


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 30), st.lists(st.integers(0, 3), max_size=200))
def test_every_request_is_answered_once_or_set_aside_whatever_is_lost(workers: int, subjects: int, docs: int, events: list[int]) -> None:
    requests = multiple_choice(subjects, docs)
    leases = Leases(branches(requests), workers, generates=False)
    answered: list[int] = []
    held: dict[int, tuple[int, int]] = {}  # worker -> lease, answers so far
    script = iter(events)
    while not leases.is_done:
        for worker in range(workers):
            event = next(script, 0)
            if worker not in held:
                if lease := leases.take(worker):
                    held[worker] = lease.id, 0
                continue
            id, count = held[worker]
            if event == 1:
                leases.lost(id)
                del held[worker]
            elif event == 2:
                if leases.finished(id) or True:
                    del held[worker]
            else:
                number = leases.answered(id, count)
                if number is None:
                    leases.finished(id)
                    del held[worker]
                else:
                    answered.append(number)
                    held[worker] = id, count + 1
    assert sorted([*answered, *leases.set_aside]) == list(range(len(requests)))
