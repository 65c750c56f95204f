"""Requests that come and go between steps: every answer is the one given alone, none waits for the others, each fails alone."""

import math
import random

import pytest
import torch
from tiny_models import VOCAB, on, tiny_config, tiny_decoder, tokens

import moe_lm.engine.generator
from moe_lm.backends.base import PAGE
from moe_lm.engine.generator import Generator
from moe_lm.engine.pages import PagePool
from moe_lm.engine.request import GenerateRequest, PromptScoresRequest
from moe_lm.engine.scorer import Scorer, ScoreRequest
from moe_lm.errors import ModelError, NotFinite

LETTERS = [chr(ord("a") + i % 26) for i in range(VOCAB)]


@pytest.fixture(scope="module")
def model():
    return on("cpu", tiny_decoder(tiny_config("qwen2_moe")))


def decode(ids):
    return "".join(LETTERS[i] for i in ids)


def generator(model, pages=64, **options):
    return Generator(model, decode, frozenset({7}), pool=PagePool(model, pages), **options)


def answer(sequence):
    return sequence.outcome()


def finish(some, sequences):
    for _ in range(10_000):
        if all(sequence.has_ended for sequence in sequences):
            return
        some.step()
    raise AssertionError("the requests do not end")


def alone(model, request):
    some = generator(model, 64, keep_prefixes=False)
    sequence = submit(some, request)
    finish(some, [sequence])
    return answer(sequence)


def submit(some, request):
    return some.submit_scores(request) if isinstance(request, PromptScoresRequest) else some.submit(request)


def crowd(count, seed):
    """Generation and prompt scores, short and long, some with shared beginnings."""
    draw = random.Random(seed)
    headers = [[], tokens(40, 1), tokens(PAGE + 20, 2)]
    requests = []
    for i in range(count):
        prompt = draw.choice(headers) + tokens(draw.choice((1, 5, 30, 200)), 100 + i % 7)
        if draw.random() < 0.3:
            requests.append(PromptScoresRequest(prompt, draw.choice((0, 1, 3))))
        else:
            new = draw.randint(1, 60)
            requests.append(
                GenerateRequest(prompt, draw.choice(((), ("ab",))), new, draw.choice((0.0, 1.0)), seed=i, ignore_eos=i % 2 == 0)
            )
    return requests


@pytest.mark.parametrize("pages", [5, 12, 64])
def test_requests_join_and_leave_at_any_step(model, pages):
    """With 5 pages, sequences take each other's and compute theirs again."""
    draw, requests = random.Random(pages), crowd(24, pages)
    some = generator(model, pages, max_running=16, token_budget=300, chunk=32)
    waiting, running, left = list(range(len(requests))), {}, set()
    while waiting or any(not s.has_ended for s in running.values()):
        for _ in range(draw.randint(0, 3)):
            if waiting:
                index = waiting.pop(draw.randrange(len(waiting)))
                running[index] = submit(some, requests[index])
        if draw.random() < 0.05 and (unfinished := [i for i, s in running.items() if not s.has_ended]):
            index = draw.choice(unfinished)
            left.add(index)
            some.cancel(running.pop(index))
        some.step()
    assert some.pool.in_use == 0
    assert not some.in_flight
    assert len(running) + len(left) == len(requests)
    for index, sequence in running.items():
        assert answer(sequence) == alone(model, requests[index])


@pytest.mark.parametrize("pages", [8, 400])
def test_a_short_request_begins_at_once(model, pages):
    """Within 5 steps of its arrival, however long the others are, how many, and how little memory they leave."""
    some = generator(model, pages, max_running=256, chunk=64)
    long = [some.submit(GenerateRequest(tokens(300 + i, i), max_new_tokens=190, ignore_eos=True)) for i in range(20)]
    long += [some.submit_scores(PromptScoresRequest(tokens(450 + i, i), 2)) for i in range(10)]
    asked = []
    for step in range(60):
        if step % 4 == 0:
            begun = []
            request = GenerateRequest(tokens(20, 1000 + step), max_new_tokens=6, ignore_eos=True, on_progress=begun.append)
            asked.append((step, begun, some.submit(request), request))
        some.step()
        for since, begun, sequence, _ in asked:
            assert begun or sequence.has_ended or step - since < 4
    finish(some, [sequence for _, _, sequence, _ in asked])
    assert any(not sequence.has_ended for sequence in long)
    for _, _, sequence, request in asked[::4]:
        assert answer(sequence) == alone(model, request)
    for sequence in long:
        some.cancel(sequence)
    assert some.pool.in_use == 0


def test_many_short_requests_at_once(model):
    some = generator(model, 400, max_running=256, chunk=64)
    long = some.submit(GenerateRequest(tokens(400, 0), max_new_tokens=100, ignore_eos=True))
    for _ in range(10):
        some.step()
    short = [some.submit(GenerateRequest(tokens(100, i), max_new_tokens=1)) for i in range(60)]
    for _ in range(5):
        some.step()
    assert all(sequence.has_ended for sequence in short)
    assert not long.has_ended


def test_more_requests_than_a_step_takes(model):
    """Each shows its first token before any goes on."""
    some = generator(model, 400, max_running=12)
    short = [some.submit(GenerateRequest(tokens(5, i), max_new_tokens=200, ignore_eos=True)) for i in range(48)]
    for _ in range(4):
        some.step()
    assert all(sequence.has_begun for sequence in short)
    for _ in range(50):
        some.step()
    for sequence in short:
        some.cancel(sequence)
    assert some.pool.in_use == 0


def test_scores_do_not_wait_and_do_not_hold_up(model):
    some = generator(model, 64, chunk=32)
    written = [some.submit(GenerateRequest(tokens(20, i), max_new_tokens=300, ignore_eos=True)) for i in range(4)]
    read = [some.submit_scores(PromptScoresRequest(tokens(500, i), 1)) for i in range(4)]
    steps = 0
    while not all(sequence.has_ended for sequence in read):
        some.step()
        steps += 1
        assert all(len(sequence.tokens) >= steps for sequence in written)
    assert steps <= 4 * -(-500 // 32)
    assert not any(sequence.has_ended for sequence in written)


def test_prompt_scores_are_the_scorers(model):
    shared = tokens(150, 1)
    prompts = [[*shared, *tokens(n, n)] for n in (1, 30, 200)] + [shared[:60], [5], shared]
    some = generator(model, 64, token_budget=100)
    sequences = [some.submit_scores(PromptScoresRequest(prompt, 3)) for prompt in prompts]
    finish(some, sequences)
    assert some.usage.computed < sum(map(len, prompts)) * 0.6
    for prompt, sequence in zip(prompts, sequences, strict=True):
        scores = answer(sequence)
        assert scores[0] is None
        requests = [ScoreRequest(prompt[:i], [[prompt[i]]]) for i in range(1, len(prompt), 17)]
        for i, ((score,), found) in enumerate(zip([dict(Scorer(model).score([r]))[0] for r in requests], scores[1::17], strict=True)):
            assert (found.logprob, found.top[0][0] == prompt[1 + 17 * i]) == (score.logprob, score.is_greedy)
            assert len(found.top) == 3
            assert [p for _, p in found.top] == sorted((p for _, p in found.top), reverse=True)


def test_a_cancelled_request_gives_its_pages_back_at_once(model):
    some = generator(model, 64)
    kept, gone = (some.submit(GenerateRequest(tokens(200, i), max_new_tokens=40, ignore_eos=True)) for i in range(2))
    some.step()
    before = some.pool.in_use
    some.cancel(gone)
    assert some.pool.in_use == before // 2
    finish(some, [kept])
    assert answer(kept) == alone(model, kept.request)
    some.cancel(kept)  # which has ended
    assert some.pool.in_use == 0


class Panic(BaseException):
    """As a Rust library raises: not an Exception."""


def test_each_fails_alone(model, monkeypatch):
    """A callback, the tokenizer's decoder, and a kernel that cannot take one of the sequences."""

    def broken_decode(ids):
        if VOCAB - 1 in ids:
            raise Panic("byte index 3 is not a char boundary")
        return decode(ids)

    def broken_progress(answer):
        raise RuntimeError("the client's connection is broken")

    def broken_forward(backend, new, wanted):
        if any(ids[:2] == [91, 6] for ids, _ in new):
            raise RuntimeError("illegal memory access")
        return moe_lm.engine.batch.forward(backend, new, wanted)

    monkeypatch.setattr(moe_lm.engine.generator, "forward", broken_forward)
    some = Generator(model, broken_decode, frozenset({7}), pool=PagePool(model, 64))
    good = [GenerateRequest(tokens(20, i), max_new_tokens=30, temperature=1.0, seed=i) for i in range(6)]
    bad = [
        GenerateRequest([5, 6], max_new_tokens=30, on_progress=broken_progress),
        GenerateRequest([91, 6], max_new_tokens=30),
        PromptScoresRequest([91, 6, 7]),
    ]
    sequences = [submit(some, request) for request in [*good[:3], *bad, *good[3:]]]
    finish(some, sequences)
    for sequence in sequences[:3] + sequences[6:]:
        whole = alone(model, sequence.request)
        if VOCAB - 1 in whole.tokens:
            assert isinstance(sequence.error, Panic)
        else:
            assert answer(sequence) == whole
    assert [str(sequence.error) for sequence in sequences[3:6]] == [
        "the client's connection is broken",
        "illegal memory access",
        "illegal memory access",
    ]
    assert some.pool.in_use == 0


def check_each_fails(some, expected):
    """A request to generate and one to score end with an error that `expected` matches."""
    for request in (GenerateRequest([1, 2]), PromptScoresRequest([1, 2, 3])):
        sequence = submit(some, request)
        finish(some, [sequence])
        with pytest.raises(NotFinite, match=expected):
            answer(sequence)


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_a_layer_that_overflows_is_named(kernel):
    """3e38 is a float32, and loads; what it is multiplied with is not."""
    model = tiny_decoder(tiny_config(num_hidden_layers=5))
    model.layers[3].attention.o_proj.weight[:] = 3e38
    backend = on(kernel, model)
    expected = r"no .*: layer 3 \(of 0 to 4\) is the first whose .*; its attention\.o[\w.]* reaches 3e\+38: check the checkpoint"
    some = generator(backend)
    check_each_fails(some, expected)
    with pytest.raises(NotFinite, match=expected):
        list(Scorer(backend).score([ScoreRequest(tokens(140, 1), [[1, 2]])]))
    with pytest.raises(NotFinite, match=expected):
        list(some.generate([GenerateRequest([1, 2])]))
    assert len(backend.layers) == 5  # whole again


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_what_only_a_norm_cannot_take_is_an_overflow_too(kernel):
    """1e30 is finite, its square is not: a norm divides by infinity, all logits are 0, and every token would be as likely."""
    model = tiny_decoder(tiny_config(num_hidden_layers=4))
    model.layers[2].ffn.down_proj.weight.mul_(1e30)
    backend = on(kernel, model)
    expected = r"layer 2 \(of 0 to 3\) is the first .* too large for a norm; its ffn\.down[\w.]* reaches [\d.]+e\+\d+: check"
    check_each_fails(generator(backend), expected)
    with pytest.raises(NotFinite, match=expected):
        list(Scorer(backend).score([ScoreRequest([1, 2], [[3]])]))


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_a_token_without_a_meaning_is_no_overflow(kernel):
    """The embedding of a padding token may be 0, and all that comes of it."""
    model = tiny_decoder(tiny_config())
    model.embed.weight[5] = 0
    backend = on(kernel, model)
    ((score,),) = dict(Scorer(backend).score([ScoreRequest([5], [[3]])])).values()
    assert score.logprob == pytest.approx(-math.log(VOCAB))
    some = generator(backend)
    sequences = [submit(some, request) for request in (GenerateRequest([5], max_new_tokens=2), PromptScoresRequest([5, 5, 3]))]
    finish(some, sequences)
    assert all(sequence.error is None for sequence in sequences)


def test_an_input_that_overflows_is_told_from_weights():
    model = tiny_decoder(tiny_config(num_hidden_layers=3)).to(torch.float16)
    for part in (model.layers[1].ffn.gate_proj, model.layers[1].ffn.up_proj, model.layers[1].ffn.down_proj):
        part.weight.mul_(60)
    some = generator(on("reference", model))
    sequence = some.submit(GenerateRequest([1, 2]))
    finish(some, [sequence])
    with pytest.raises(NotFinite, match=r"layer 1 \(of 0 to 2\) .*; its weights reach [\d.e+]+ and its input [\d.e+]+; use float32"):
        answer(sequence)


def test_only_who_meets_the_overflow_fails():
    """One expert overflows: the sequences that it is routed to."""
    model = tiny_decoder(tiny_config("qwen2_moe", num_hidden_layers=1))
    model.layers[0].ffn.experts.down_EDF[3] = 3e38
    backend = on("cpu", model)
    requests = [GenerateRequest([i], max_new_tokens=2, ignore_eos=True) for i in range(40)]
    some = generator(backend)
    together = [some.submit(request) for request in requests]
    finish(some, together)
    failed = [sequence.error is not None for sequence in together]
    assert 0 < sum(failed) < len(failed)
    for sequence in together:
        single = generator(backend)
        again = single.submit(sequence.request)
        finish(single, [again])
        assert again.result == sequence.result
        assert str(again.error) == str(sequence.error)


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-300])
def test_the_smallest_temperatures_are_greedy(model, temperature):
    greedy = alone(model, GenerateRequest(tokens(20, 3), max_new_tokens=20))
    assert alone(model, GenerateRequest(tokens(20, 3), max_new_tokens=20, temperature=temperature)) == greedy


def test_a_temperature_beyond_all_logits_draws_from_all_tokens(model):
    drawn = alone(model, GenerateRequest([1], max_new_tokens=250, temperature=1e308, seed=1, ignore_eos=True)).tokens
    assert len(set(drawn)) > VOCAB * 0.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": float("nan")}, "the temperature is nan; give a finite number"),
        ({"temperature": float("inf")}, "the temperature is inf"),
        ({"temperature": -0.5}, "the temperature is -0.5"),
        ({"seed": 1 << 64}, "the seed is 18446744073709551616; give an integer from"),
        ({"seed": -(1 << 63) - 1}, "the seed is -9223372036854775809"),
        ({"until": ("a", "b\ud800")}, "the stop string 'b.ud800' holds a lone surrogate"),
        ({"until": ("",)}, "a stop string is empty"),
        ({"prompt": [5, VOCAB]}, "the prompt holds token 97; ids run from 0 to 96"),
        ({"prompt": [-1]}, "the prompt holds token -1"),
        ({"prompt": []}, "at least one token"),
        ({"max_new_tokens": 0}, "max_new_tokens >= 1"),
        ({"max_new_tokens": 600}, "exceeds the model's max_seq_len of 512"),
        ({"max_new_tokens": 300}, "exceeds the 256 tokens whose keys and values fit into"),
    ],
)
def test_refused_before_it_joins(model, changes, message):
    some = generator(model, 2)
    with pytest.raises(ModelError, match=message):
        some.submit(GenerateRequest(**{"prompt": [1, 2], "max_new_tokens": 5} | changes))
    assert not some.in_flight


@pytest.mark.parametrize("seed", [-(1 << 63), -1, (1 << 64) - 1])
def test_every_seed_that_torch_takes(model, seed):
    request = GenerateRequest([1, 2], max_new_tokens=5, temperature=1.0, seed=seed)
    assert alone(model, request) == alone(model, request)


def test_memory_does_not_grow_with_the_number_of_requests(model):
    """Prompts of before are kept on a bounded number of pages, and the memory of the others can be given back."""
    some = generator(model, 80)
    touched = []
    for i in range(50):
        list(some.generate([GenerateRequest(tokens(PAGE + 10, i), max_new_tokens=3)]))
        touched.append(some.pool.num_pages - len(some.pool._blank))
    assert touched[-1] == touched[20] <= some.pool.num_kept + 4
    assert some.pool.find(tokens(PAGE + 10, 49)[:-1]).length == PAGE + 9
    some.pool.trim()
    assert some.pool.num_pages - len(some.pool._blank) == some.pool.num_kept
    again = GenerateRequest(tokens(PAGE + 10, 49), max_new_tokens=20)
    assert dict(some.generate([again]))[0] == alone(model, again)
