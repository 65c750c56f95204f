"""Guessing: what came before is found again, and the guesses save steps without changing a token."""

import pytest
from tiny_models import on, tiny_config, tiny_decoder, tokens

import moe_lm.engine.batch
import moe_lm.engine.generator
from moe_lm.engine.drafts import LONGEST, Drafter
from moe_lm.engine.generator import GenerateRequest, Generator


def test_what_followed_before_is_guessed():
    drafter = Drafter([1, 2, 3, 4, 5, 6, 9, 1, 2, 3])
    assert drafter.guess(0) == []  # nothing has come true yet
    assert drafter.guess(2) == [4, 5]
    drafter.add(4)
    assert drafter.streak == 1
    assert drafter.guess(0) == [5]
    drafter.add(7)
    assert (drafter.streak, drafter.guess(5)) == (0, [])  # 3, 4, 7 is new


def test_the_latest_is_followed():
    assert Drafter([1, 2, 3, 8, 1, 2, 3, 9, 0, 1, 2, 3]).guess(1) == [9]


def test_a_loop_goes_on():
    drafter = Drafter([5, 6, 7, 8, 5, 6, 7])
    for token in (8, 5, 6, 7, 8, 5):
        drafter.add(token)
    assert drafter.guess(3) == [6, 7, 8, 5, 6, 7, 8, 5, 6]
    for token in (6, 7, 8, 5) * 10:
        drafter.add(token)
    assert len(drafter.guess(3)) == LONGEST


@pytest.mark.parametrize("prompt", [[], [1], [1, 2, 3]])
def test_short_prompts(prompt):
    drafter = Drafter(prompt)
    assert drafter.guess(3) == []
    for token in (1, 2, 3, 1, 2, 3):
        drafter.add(token)
    assert drafter.guess(1)[:1] == [1]


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_guesses_change_nothing_and_save_steps(monkeypatch, temperature):
    model = on("cpu", tiny_decoder(tiny_config("qwen2_moe")))
    passes = []
    monkeypatch.setattr(moe_lm.engine.generator, "forward", lambda *args: passes.append(1) or moe_lm.engine.batch.forward(*args))

    def answers(max_running):
        passes.clear()
        generator = Generator(model, lambda ids: "".join(chr(97 + i % 26) for i in ids), frozenset({7}), max_running)
        requests = [GenerateRequest(tokens(9, i) * 3, ("bcb",), 200, temperature, seed=i) for i in range(6)]
        found = dict(generator.generate(requests))
        assert generator.pool.in_use == 0
        return [(found[i].text, found[i].tokens, found[i].finish_reason) for i in range(6)], len(passes)

    found = [answers(max_running) for max_running in (1, 6)]
    monkeypatch.setattr(Drafter, "guess", lambda *_: [])
    without = [answers(max_running) for max_running in (1, 6)]
    assert found[0][0] == found[1][0] == without[0][0] == without[1][0]
    if temperature == 0:  # a random model soon repeats itself
        assert found[0][1] < 0.6 * without[0][1]
        assert found[1][1] < without[1][1]
