"""Which tokens may be drawn is as in transformers; the scores of generated tokens are those of a prompt's."""

import pytest
import torch
import transformers
from tiny_models import VOCAB, tiny_config, tiny_decoder

from moe_lm.backends.reference import ReferenceBackend
from moe_lm.engine.generator import Generator
from moe_lm.engine.request import GenerateRequest, PromptScoresRequest
from moe_lm.engine.sampling import filtered, sample
from moe_lm.errors import ModelError

SETTINGS = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"min_p": 0.2},
    {"top_k": 9, "top_p": 0.8},
    {"top_k": 50, "min_p": 0.05},
]


def theirs(logits_V, top_k=0, top_p=1.0, min_p=0.0):
    """The probabilities that transformers samples from."""
    scores = logits_V[None]
    if top_k:
        scores = transformers.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = transformers.TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = transformers.MinPLogitsWarper(min_p)(None, scores)
    return scores[0].softmax(-1)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_distribution_is_that_of_transformers(settings):
    logits_V = torch.randn(100, generator=torch.Generator().manual_seed(1)).double() * 3
    found = filtered(logits_V.softmax(-1), **settings)
    torch.testing.assert_close(found / found.sum(), theirs(logits_V, **settings), rtol=1e-9, atol=1e-12)


def test_the_likeliest_token_always_remains():
    probs_V = torch.tensor([0.1, 0.4, 0.4, 0.1], dtype=torch.float64)
    for settings in ({"top_k": 1}, {"top_p": 1e-9}, {"top_k": 3, "top_p": 0.1, "min_p": 1.0}):
        assert filtered(probs_V, **settings).nonzero()[0].tolist() == [1]
    assert filtered(probs_V, min_p=1.0).nonzero().flatten().tolist() == [1, 2]


def test_without_a_choice_of_tokens_a_sample_is_as_ever():
    logits_V = torch.randn(50, generator=torch.Generator().manual_seed(2))
    rngs = [torch.Generator().manual_seed(5) for _ in range(2)]
    plain = GenerateRequest([1], temperature=0.7)
    drawn = [sample(logits_V, plain, rngs[0]) for _ in range(20)]
    probs_V = (logits_V.double() / 0.7).softmax(-1)
    assert drawn == [int(torch.multinomial(probs_V, 1, generator=rngs[1])) for _ in range(20)]
    only = GenerateRequest([1], temperature=5.0, top_k=1)
    assert {sample(logits_V, only, rngs[0]) for _ in range(20)} == {int(logits_V.argmax())}


@pytest.mark.parametrize("settings", [{"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": -0.1}, {"top_p": float("nan")}])
def test_settings_that_mean_nothing_are_refused(settings):
    (name,) = settings
    with pytest.raises(ModelError, match=f"{name} is "):
        GenerateRequest([1], **settings).check()


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3, "top_k": 20, "top_p": 0.9}])
def test_scores_of_generated_tokens_are_those_of_a_prompts(sampling):
    backend = ReferenceBackend(tiny_decoder(tiny_config()))
    generator = Generator(backend, str, frozenset())
    prompt, seen = [5, 6, 7, 5, 6], []
    asked = GenerateRequest(prompt, max_new_tokens=12, num_top=4, on_progress=seen.append, **sampling)
    ((_, answer),) = generator.generate([asked])
    assert len(answer.scores) == len(answer.tokens) == 12
    scoring = generator.submit_scores(PromptScoresRequest([*prompt, *answer.tokens], 4))
    while not scoring.has_ended:
        generator.step()
    for found, expected in zip(answer.scores, scoring.outcome()[len(prompt) :], strict=True):
        assert found.logprob == pytest.approx(expected.logprob, abs=1e-5)
        assert [token for token, _ in found.top] == [token for token, _ in expected.top]
    assert [len(partial.tokens) for partial in seen] == list(range(1, 12))
    assert all(partial.scores == answer.scores[: len(partial.tokens)] and not partial.finish_reason for partial in seen)
    ((_, plain),) = generator.generate([GenerateRequest(prompt, max_new_tokens=12, **sampling)])
    assert (plain.tokens, plain.scores) == (answer.tokens, [])
    assert max(answer.tokens) < VOCAB
