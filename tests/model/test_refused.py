"""What the engine and the back-ends refuse, where they would otherwise give a wrong answer or none."""

import pytest
from tiny_models import on, tiny_config, tiny_decoder

from moe_lm.backends.base import PAGE, Batch, KVPages
from moe_lm.engine.generator import GenerateRequest, Generator
from moe_lm.engine.pages import PagePool
from moe_lm.engine.scorer import Scorer, ScoreRequest
from moe_lm.errors import ModelError


@pytest.fixture(params=["reference", "cpu"])
def kernel(request):
    return request.param


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_token_is_chosen_from_logits_that_are_not_finite(kernel, value, temperature):
    """As float16 gives them where it overflows. An argmax would choose token 0."""
    model = tiny_decoder(tiny_config())
    model.norm.weight[0] = value
    backend = on(kernel, model)
    generator = Generator(backend, str, frozenset(), pool=PagePool(backend, 1))
    with pytest.raises(
        ModelError,
        match=r"the model overflows, so no token can be chosen: every .* is finite, the final norm's is not; its weight reaches (nan|inf)",
    ):
        list(generator.generate([GenerateRequest([1, 2], max_new_tokens=2, temperature=temperature)]))
    assert generator.pool.in_use == 0


@pytest.mark.parametrize("request_", [ScoreRequest([], [[1]]), ScoreRequest([1], []), ScoreRequest([1], [[2], []])], ids=repr)
def test_a_request_without_tokens_to_score(kernel, request_):
    with pytest.raises(ModelError, match="needs a context and at least one continuation"):
        list(Scorer(on(kernel, tiny_decoder(tiny_config()))).score([request_]))


def test_pages_that_do_not_hold_a_sequence(kernel):
    memory = KVPages(on(kernel, tiny_decoder(tiny_config())), 4)
    Batch([[1] * PAGE, [2]], [0, PAGE], [[1], [2, 3]], memory)
    with pytest.raises(ValueError, match="a sequence of 129 tokens has 1 pages of 128"):
        Batch([[1] * (PAGE + 1), [2]], [0, PAGE], [[1], [2, 3]], memory)
