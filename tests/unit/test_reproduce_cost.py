"""What a run is expected to take: passes, answers' lengths, the pace of what was answered, and the budget."""

from dataclasses import replace
from pathlib import Path

import pytest

from evalkit.bench.roofline import Shape
from evalkit.config import ModelSpec
from evalkit.lm import pass_speed
from evalkit.lm.pass_speed import Like, PassSpeed
from evalkit.reproduce import cost, lengths
from evalkit.reproduce.estimate import Estimates, Job
from evalkit.reproduce.plan import Measurement, in_order, within
from evalkit.reproduce.progress import Progress
from evalkit.reproduce.weights import Weights
from evalkit.runner.workload import Workload
from evalkit.tasks.registry import resolve

# a pass costs reading the weights up to 4 tokens, then in proportion
SPEED = PassSpeed(((1, 4.0), (4, 4.0), (64, 64.0), (256, 256.0)), 0.0)
LIKE = Like()
DENSE = Shape(4, 4, embedding=0, head=10, always=100, expert=0, experts=0, top_k=0, sparse_layers=0, kv_per_token=0, attention_width=0)
SPARSE = replace(DENSE, always=0, head=0, expert=10, experts=8, top_k=2, sparse_layers=3)
SCORES = Workload(requests=10, prompt_tokens=1000, shared_tokens=500, scored_tokens=40, answers=0, max_new_tokens=0)
ANSWERS = Workload(requests=20, prompt_tokens=400, shared_tokens=0, scored_tokens=0, answers=20, max_new_tokens=2000)


class Known(Weights):
    """Weights whose outline is known without files."""

    outline = type("outline", (), {"shape": DENSE, "like": LIKE})()  # type: ignore[assignment]


def job(work: Workload, progress: Progress | None = None, spec: str = "m", task: str = "gsm8k@qwen") -> Job:
    return Job(Known(ModelSpec(spec), Path(), True), task, "key", (), work, progress or Progress())


def test_a_pass_between_and_beyond_the_measured_sizes() -> None:
    assert [SPEED(tokens) for tokens in (1, 2, 4, 34, 64, 256, 1024)] == [4, 4, 4, 34, 64, 256, 1024]
    assert SPEED.a_token == 1.0


def test_prompts_cost_products_and_scored_tokens_the_head() -> None:
    assert cost.prefill(SCORES, 150.0, DENSE, SPEED) == 1000 * 100 + 40 * 10
    assert cost.prefill(ANSWERS, 20.0, DENSE, SPEED) == 400 * 100 + 20 * 10
    attending = replace(DENSE, attention_width=7)
    assert cost.prefill(SCORES, 150.0, attending, SPEED) == 1000 * (100 + 2 * 7 * 100) + 40 * 10  # after 50 that are shared


def test_a_step_reads_what_its_tokens_visit() -> None:
    assert cost.step(1, 0.0, DENSE, SPEED) == 110 * 4
    assert cost.step(64, 0.0, DENSE, SPEED) == 110 * 64
    assert cost.step(1, 0.0, SPARSE, SPEED) == pytest.approx(3 * 2 * 10 * 4)  # one token visits two experts
    assert cost.step(2, 50.0, replace(DENSE, kv_per_token=3), SPEED) == 110 * 4 + 2 * 50 * 3 * 4
    # numbers of keys and values are twice as wide as these weights
    assert cost.step(2, 50.0, replace(DENSE, kv_per_token=3, width=2), SPEED) == 110 * 4 + 2 * 50 * 3 * 4 * 2


def test_answers_are_taken_in_groups_and_let_go() -> None:
    assert cost.decode([5.0], 0.0, DENSE, SPEED) == 5 * 110 * 4
    assert cost.decode([10.0] * 64, 0.0, DENSE, SPEED) == 10 * 110 * 64
    assert cost.decode([10.0] * 128, 0.0, DENSE, SPEED) == 2 * 10 * 110 * 64
    # four answers end together, the fifth goes on alone
    assert cost.decode([10.0] * 4 + [30.0], 0.0, DENSE, SPEED) == 10 * 110 * 5 + 20 * 110 * 4
    assert cost.decode([], 0.0, DENSE, SPEED) == 0


def test_lengths_of_answers_that_nobody_has_seen() -> None:
    """Cut at the limit, and still of the mean that they should have."""
    for mean, limit in ((256, 1024), (626, 1024), (5, 1024), (126, 128)):
        found = lengths.unseen(164, mean, limit)
        assert len(found) == 164
        assert sum(found) / 164 == pytest.approx(mean, rel=0.03)
        assert 1 <= min(found) <= max(found) <= limit
    assert lengths.unseen(0, 256, 1024) == []
    assert len(lengths.unseen(37 * 41, 16, 64)) == 37 * 41


def test_answers_are_as_long_as_those_of_the_same_protocol() -> None:
    """Those of one model that were measured, within the limit; of a protocol that nobody has run whole, a share of the limit."""
    assert {str(resolve(task).protocol) for task in lengths.MEASURED} == lengths.MEASURED.keys()
    assert lengths.mean_length("humaneval@lm-eval", 1024) == lengths.MEASURED["humaneval@lm-eval"]
    assert lengths.mean_length("humaneval@lm-eval", 32) == 32
    assert lengths.mean_length("humaneval@opencompass", 512) == 128
    long = replace(ANSWERS, max_new_tokens=20 * 1024)
    assert sum(job(long, task="humaneval@lm-eval").lengths(164)) == pytest.approx(164 * lengths.MEASURED["humaneval@lm-eval"], rel=0.03)


def test_without_an_answer_the_device_decides() -> None:
    found = Estimates({LIKE: SPEED}, [job(SCORES)]).of(job(SCORES), with_loading=False)
    assert (found.left, found.whole, found.basis) == (100_400, 100_400, "this device's speed")


def test_quantised_weights_have_a_speed_of_their_own() -> None:
    quantised = Known(ModelSpec("q"), Path(), True)
    quantised.outline = type("outline", (), {"shape": DENSE, "like": Like("Q4_K")})()  # type: ignore[misc,assignment]
    jobs = [job(SCORES), replace(job(SCORES), weights=quantised)]
    half = replace(SPEED, points=tuple((tokens, seconds / 2) for tokens, seconds in SPEED.points))
    estimates = Estimates({LIKE: SPEED, Like("Q4_K"): half}, jobs)
    assert [estimates.of(each, False).whole for each in jobs] == [100_400, 50_200]


def test_a_speed_of_a_busy_device_is_said_to_be_one() -> None:
    busy = {LIKE: replace(SPEED, waited=0.875)}
    assert Estimates(busy, [job(SCORES)]).of(job(SCORES), False).basis == (
        "this device's speed while other programs had the processor for 88% of the time"
    )
    assert Estimates({LIKE: replace(SPEED, waited=0.05)}, [job(SCORES)]).of(job(SCORES), False).basis == "this device's speed"


def test_a_narrow_model_is_measured_on_narrow_layers_of_as_many_weights() -> None:
    widths = {hidden: Like.of(None, hidden).width for hidden in (64, 576, 896, 1024, 8192)}
    assert widths == {64: 256, 576: 512, 896: 768, 1024: 1024, 8192: 1024}
    for width in widths.values():
        layers = Like("Q4_K", width).layers
        held = layers["num_hidden_layers"] * layers["hidden_size"] * layers["intermediate_size"]
        assert held == pytest.approx(1024 * 4096, rel=0.15)
        assert layers["num_attention_heads"] * layers["head_dim"] == width
        assert layers["num_attention_heads"] % layers["num_key_value_heads"] == 0


def test_seconds_in_which_the_thread_did_not_compute_are_those_of_other_programs() -> None:
    assert pass_speed.waited([(3.0, 1.0), (1.0, 1.0)]) == 0.5
    assert pass_speed.waited([(1.0, 1.001)]) == 0.0


def test_answers_tell_their_lengths_and_their_pace() -> None:
    """Half of the answers are there, each of 10 tokens; they took twice as long as this device's speed lets one expect."""
    half = cost.prefill(ANSWERS, 20.0, DENSE, SPEED) / 2 + cost.decode([10.0] * 10, 20.0, DENSE, SPEED)
    measured = job(ANSWERS, Progress(10, 2 * half, (10,) * 10))
    found = Estimates({LIKE: SPEED}, [measured]).of(measured, with_loading=False)
    assert found.basis == "its own answers"
    assert found.left == pytest.approx(2 * half)
    assert found.whole == pytest.approx(2 * (cost.prefill(ANSWERS, 20.0, DENSE, SPEED) + cost.decode([10.0] * 20, 20.0, DENSE, SPEED)))


def test_the_pace_of_the_same_model_counts_before_that_of_others() -> None:
    slow = job(SCORES, Progress(10, 3 * 100_400.0), "m", "mmlu@qwen")
    quick = job(SCORES, Progress(10, 100_400.0), "n", "mmlu@qwen")
    estimates = Estimates({LIKE: SPEED}, [slow, quick, job(SCORES)])
    assert (estimates.of(job(SCORES), False).whole, estimates.of(job(SCORES), False).basis) == (301_200, "this model's answers")
    assert estimates.of(job(SCORES, spec="o"), False).basis == "other models' answers"


def test_a_few_answers_are_no_pace() -> None:
    few = job(ANSWERS, Progress(3, 1e9, (10,) * 3))
    found = Estimates({LIKE: SPEED}, [few]).of(few, with_loading=False)
    assert found.basis == "this device's speed"
    assert found.left < found.whole


def test_what_is_done_is_done() -> None:
    done = job(SCORES, Progress(10, 5.0))
    assert Estimates({LIKE: SPEED}, [done]).of(done, with_loading=False).left == 0


def test_the_cheapest_model_and_its_cheapest_task_come_first() -> None:
    small, large = job(SCORES, task="mmlu@qwen"), job(replace(SCORES, prompt_tokens=5000), task="mmlu@cloze")
    other = job(replace(SCORES, prompt_tokens=3000), spec="other")
    assert [(j.weights.spec, j.task) for j in in_order([large, small, other])] == [
        ("other", "gsm8k@qwen"),
        ("m", "mmlu@qwen"),
        ("m", "mmlu@cloze"),
    ]


def measurement(hours: float, answered: int = 0) -> Measurement:
    return Measurement(
        model="M", spec="m", weights="m, here", run="m", task="mmlu@qwen", cells=("mmlu",), published=("1.0",), work=SCORES,
        new_tokens=0, answered=answered, hours=hours, hours_in_all=hours, basis="this device's speed",
    )  # fmt: skip


def test_a_budget_holds_the_cheapest() -> None:
    found = [measurement(3.0), measurement(0.5), measurement(0.0, 10), measurement(1.0)]
    assert [each.chosen for each in within(1.5, found)] == [False, True, True, True]
    assert [each.chosen for each in within(1.4, found)] == [False, True, True, False]
    assert all(each.chosen for each in within(None, found))
