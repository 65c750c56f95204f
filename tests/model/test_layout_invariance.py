"""A result depends on its request alone: not on the token budget, the order, the neighbours or what prefix is shared."""

import pytest
import torch
from tiny_models import VOCAB, logits, on, tiny_config, tiny_decoder, tokens

from moe_lm.backends.base import PAGE
from moe_lm.engine.generating import Generating
from moe_lm.engine.generator import GenerateRequest, Generator
from moe_lm.engine.pages import PagePool
from moe_lm.engine.scorer import Scorer, ScoreRequest
from moe_lm.errors import ModelError
from moe_lm.rope import YarnScaling

MODELS = ("llama", "gemma3_text", "qwen2_moe", "qwen3_moe", "smollm2")
OPTIONS = {
    "qwen3_moe": {"rope_scaling": YarnScaling(4.0, 64, 1.25)},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """On the CPU's kernels: plain torch promises no invariance."""
    if request.param == "smollm2":
        return on("cpu", request.getfixturevalue("smollm2").model)
    return on("cpu", tiny_decoder(tiny_config(request.param, **OPTIONS.get(request.param, {}))))


def score_requests(model):
    """Three that share 64 tokens, a prefix of them, a duplicate, and (not for the real model) longer ones and strangers."""
    vocab = model.config.vocab_size
    shared = tokens(64, 1, vocab)
    one, two, three = tokens(3, 2, vocab)
    requests = [
        ScoreRequest([*shared, one], [[one], [two], [three]]),  # one token after the shared ones
        ScoreRequest([*shared, *tokens(9, 4, vocab)], [[one], [two, three], [one, two, three, one]]),
        ScoreRequest(shared[:40], [[two], [three, one]]),  # ends inside the shared prefix
        ScoreRequest([*shared, one], [[one], [two], [three]]),  # a duplicate
        ScoreRequest(shared, [tokens(70, 5, vocab), [one]]),  # ends with the shared prefix; goes on for more than a block
        ScoreRequest(tokens(257, 6, vocab), [[one]]),  # longer than a budget of 256, by one token
        ScoreRequest([two], [[one], [one, two]]),  # a stranger of one token
        ScoreRequest([*shared[:47], *tokens(30, 7, vocab)], [[one], [three]]),  # parts from the others inside a block of queries
    ]
    return requests[:4] if vocab > VOCAB else requests


def scores(model, requests, token_budget=2048):
    """{request's number: [(logprob, is_greedy), ..]}"""
    found = dict(Scorer(model, token_budget).score(requests))
    assert len(found) == len(requests)
    return {i: [(s.logprob, s.is_greedy) for s in found[i]] for i in found}


@pytest.fixture(scope="module")
def together(model):
    return scores(model, score_requests(model))


@pytest.mark.parametrize("token_budget", [40, 256, 512])
def test_any_token_budget(model, together, token_budget):
    assert scores(model, score_requests(model), token_budget) == together


def test_one_at_a_time(model, together):
    requests = score_requests(model)
    assert {i: scores(model, [request])[0] for i, request in enumerate(requests)} == together


def test_any_order_and_subset(model, together):
    requests = score_requests(model)
    for order in (range(len(requests))[::-1], [2, 1]):
        found = scores(model, [requests[i] for i in order])
        assert {i: found[n] for n, i in enumerate(order)} == {i: together[i] for i in order}


@pytest.mark.parametrize("pages", [64, 10])
def test_prefixes_kept_between_calls(model, together, pages):
    """In a pool that has room for all of them, and in one that has to forget some for others."""
    requests = score_requests(model)
    scorer = Scorer(model, pool=PagePool(model, pages), keep_prefixes=True)
    for calls in ([[0], [1, 2], [3, 4, 5, 6], [7]], [[7, 5], [4], [2, 3], [0, 1, 6]], [range(8)]):
        found = {}
        for call in calls:
            some = [i for i in call if i < len(requests)]
            found |= {some[i]: scores for i, scores in scorer.score([requests[i] for i in some])}
        assert {i: [(s.logprob, s.is_greedy) for s in found[i]] for i in found} == together
        assert scorer.pool.in_use == 0
    assert 0 < len(scorer.pool._idle) <= pages // 2


def test_one_continuation_at_a_time(model, together):
    for i, request in list(enumerate(score_requests(model)))[1::3]:
        alone = [scores(model, [ScoreRequest(request.context, [c])])[0][0] for c in request.continuations]
        assert alone == together[i]


def test_equals_full_forward_passes(model, together):
    for i, request in enumerate(score_requests(model)):
        # one more continuation keeps `logits` a list where there is but one
        passes = logits(model, *([*request.context, *c[:-1]] for c in [*request.continuations, [0]]))
        for continuation, rows, (logprob, is_greedy) in zip(request.continuations, passes, together[i], strict=False):
            rows, wanted = rows[len(request.context) - 1 :], torch.tensor(continuation)
            assert logprob == pytest.approx(float(rows.log_softmax(-1).gather(1, wanted[:, None]).sum()), abs=1e-4)
            assert is_greedy == bool((rows.argmax(-1) == wanted).all())


def test_greedy_continuations_are_called_greedy(model):
    prompt = tokens(45, 8, model.config.vocab_size)
    answer = generate(model, [prompt], 1, count=3)[0]
    other = [*answer[:-1], (answer[-1] + 1) % model.config.vocab_size]
    found = scores(model, [ScoreRequest(prompt, [answer, answer[:1], other])])[0]
    assert [is_greedy for _, is_greedy in found] == [True, True, False]


def generate(model, prompts, max_running, count=4, temperature=0.0):
    generator = Generator(model, decode=str, stop_ids=frozenset(), max_running=max_running)
    requests = [GenerateRequest(p, max_new_tokens=count, temperature=temperature, seed=i) for i, p in enumerate(prompts)]
    found = dict(generator.generate(requests))
    return [found[i].tokens for i in range(len(prompts))]


def prompts_for(model):
    vocab = model.config.vocab_size
    shared = tokens(64, 1, vocab)
    prompts = [
        shared + tokens(5, 2, vocab),
        shared + tokens(1, 3, vocab),  # one token after the shared prefix
        shared,
        shared + tokens(5, 2, vocab),  # a duplicate
        shared + tokens(2, 4, vocab),
        tokens(1, 5, vocab),
    ]
    return prompts[:4] if vocab > VOCAB else prompts


def test_generation_with_any_number_running(model):
    prompts = prompts_for(model)
    expected = generate(model, prompts, 16)
    assert generate(model, prompts, 3) == expected
    assert generate(model, prompts, 1) == expected
    assert expected[3] == expected[0]


@pytest.mark.parametrize("family", ["llama", "qwen2_moe"])
def test_sampling_with_any_number_running(family):
    tiny = on("cpu", tiny_decoder(tiny_config(family)))
    prompts = prompts_for(tiny)
    expected = generate(tiny, prompts, 16, count=20, temperature=1.0)
    assert generate(tiny, prompts, 3, count=20, temperature=1.0) == expected
    assert generate(tiny, prompts, 1, count=20, temperature=1.0) == expected
    assert expected[3] != expected[0]  # the same prompt, another seed


def test_generation_without_a_shared_prefix(model):
    prompts = prompts_for(model)
    assert [generate(model, [p], 16)[0] for p in prompts[1:3]] == generate(model, prompts, 16)[1:3]


def test_generated_logits_are_identical(monkeypatch):
    """Tokens hide differences of the last bits; the logits behind them do not."""
    model = on("cpu", tiny_decoder(tiny_config("qwen2_moe")))
    seen = []

    read = Generating.read

    def recording(answer, backend, logits_PV, likeliest_P, guesses):
        before = len(answer.tokens)
        read(answer, backend, logits_PV, likeliest_P, guesses)
        taken = logits_PV[: len(answer.tokens) - before]  # those behind a wrong guess count for nothing
        seen[-1].setdefault(tuple(answer.request.prompt), []).extend(taken.tolist())

    monkeypatch.setattr(Generating, "read", recording)
    prompts = prompts_for(model)
    del prompts[3]  # the duplicate
    for groups, max_running in (([prompts], 16), ([prompts], 3), ([prompts], 1), ([[p] for p in prompts], 16)):
        seen.append({})
        for group in groups:
            generator = Generator(model, decode=str, stop_ids=frozenset(), max_running=max_running)
            assert len(list(generator.generate([GenerateRequest(p, max_new_tokens=16) for p in group]))) == len(group)
    assert seen[1] == seen[0]
    assert seen[2] == seen[0]
    assert seen[3] == seen[0]


def test_usage_counts_shared_prefixes_once():
    model = on("reference", tiny_decoder(tiny_config()))  # which tries no guesses
    shared = tokens(64, 1)
    requests = [ScoreRequest(shared + tokens(10, seed), [[1], [2], [3, 4]]) for seed in (2, 3, 4)]
    scorer = Scorer(model)
    list(scorer.score(requests))
    # a request is two distinct texts: the context alone (one-token continuations), and with the first of two tokens
    assert scorer.usage.requested == 3 * (74 + 75)
    # 64 once; then the context's rest of 10, once for both continuations, and one token of the longer one
    assert scorer.usage.computed == 64 + 3 * (10 + 1)
    assert scorer.usage.shared == scorer.usage.requested - scorer.usage.computed

    generator = Generator(model, decode=str, stop_ids=frozenset())
    list(generator.generate([GenerateRequest(shared + tokens(10, seed), max_new_tokens=5) for seed in (2, 3, 4)]))
    assert generator.usage.requested == 3 * (74 + 4)  # the fifth token is never run
    assert generator.usage.computed == 64 + 3 * (10 + 4)


def test_what_requests_begin_with_is_computed_once_for_all_calls():
    model = on("reference", tiny_decoder(tiny_config()))
    headers = [tokens(2 * PAGE + 20, seed) for seed in (1, 2, 3)]

    def ask(scorer, *questions):
        """Computed tokens of one call, of (header, question) pairs with two continuations each."""
        before = scorer.usage.computed
        list(scorer.score([ScoreRequest(headers[h] + tokens(5, 10 + q), [[1], [2, 3]]) for h, q in questions]))
        return scorer.usage.computed - before

    header, alone, beside_another = 2 * PAGE + 20, 5 + 1, 5 + 6  # a short question beside another is run with either continuation
    scorer = Scorer(model, pool=PagePool(model, 64), keep_prefixes=True)
    assert ask(scorer, (0, 0)) == header + alone
    assert ask(scorer, (0, 1), (1, 2), (1, 3)) == alone + header + 2 * beside_another
    assert ask(scorer, (0, 4), (1, 5), (1, 6), (2, 7)) == alone + 2 * beside_another + header + alone
    assert ask(scorer, (2, 8), (2, 9), (1, 5), (0, 1)) == 2 * beside_another + 2 * alone
    # in little room those that are still known come first, so that some are found in every call
    little = Scorer(model, pool=PagePool(model, 14), keep_prefixes=True)
    calls = [ask(little, *((h, 3 * call + h) for h in range(3))) for call in range(4)]
    assert calls[0] > max(calls[1:])
    forgetful = Scorer(model, pool=PagePool(model, 64))
    assert ask(forgetful, (0, 0)) == ask(forgetful, (0, 0)) == header + alone
    assert forgetful.pool.available == 64
    assert forgetful.pool.find(headers[0]).length == 0


@pytest.mark.parametrize("request_", [ScoreRequest([], [[1]]), ScoreRequest([1], [[1], []]), ScoreRequest([1] * 513, [[1]])])
def test_refused_score_requests(request_):
    with pytest.raises(ModelError):
        list(Scorer(on("reference", tiny_decoder(tiny_config()))).score([request_]))
