"""The pool of pages, and a scheduler that is short of them: every answer is the one given alone, and every page comes back."""

import random
import sys

import pytest
import torch
from tiny_models import VOCAB, admit, on, tiny_config, tiny_decoder, tokens

from moe_lm.backends.base import PAGE
from moe_lm.engine.generator import FREE_ROWS, GenerateRequest, Generator
from moe_lm.engine.in_flight import WORTH_WAITING
from moe_lm.engine.pages import PagePool
from moe_lm.errors import ModelError


@pytest.fixture(scope="module")
def model():
    return on("cpu", tiny_decoder(tiny_config("qwen2_moe")))


def generator(model, pages, max_running=16, **options):
    letters = [chr(ord("a") + i % 26) for i in range(VOCAB)]
    return Generator(
        model, lambda ids: "".join(letters[i] for i in ids), frozenset({7}), max_running, pool=PagePool(model, pages), **options
    )


def known(pool, prompt):
    """How many of a prompt's tokens are found, its last one aside."""
    return pool.find(prompt[:-1]).length


def random_requests(count):
    draw = random.Random(0)
    headers = [tokens(n, seed=n) for n in (5, 40, PAGE, PAGE + 60, 2 * PAGE)]
    requests = []
    for i in range(count):
        header = draw.choice([[], *headers])
        prompt = header[: draw.randint(0, len(header))] + tokens(draw.randint(1, 40), seed=1000 + i % 700)
        until = draw.choice([(), ("ab",), ("q", "xyz"), ("nm",)])
        temperature = draw.choice([0.0, 0.0, 1.0])
        requests.append(
            GenerateRequest(
                prompt, until, draw.randint(1, 24), temperature, seed=i % 5, priority=draw.randint(-1, 1), ignore_eos=i % 11 == 0
            )
        )
    return requests


def answers(generator, requests):
    return dict(generator.generate(requests))


def assert_all_given_back(pool):
    assert pool.in_use == 0
    assert pool.available == pool.num_pages


@pytest.mark.parametrize("count", [120, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_crowd_in_64_pages(model, count):
    """Random lengths, stop strings, temperatures and priorities, several times what the pool holds."""
    requests = random_requests(count)
    alone = answers(generator(model, 64, max_running=1, keep_prefixes=False), requests)
    crowded = generator(model, 64, max_running=64)
    found = {}
    for index, generation in crowded.generate(requests):
        found[index] = generation
        assert 0 <= crowded.pool.available <= crowded.pool.num_pages - crowded.pool.in_use
    assert found == alone
    assert {g.finish_reason for g in found.values()} == {"stop", "eos", "length"}
    assert crowded.usage.computed < crowded.usage.requested * 0.8
    assert_all_given_back(crowded.pool)
    # and again, over what the first crowd left behind
    assert answers(crowded, requests[::-1]) == {len(requests) - 1 - i: g for i, g in alone.items()}
    assert_all_given_back(crowded.pool)


def test_the_smallest_pool_that_holds_the_longest_request(model):
    requests = [GenerateRequest(tokens(PAGE + n, seed=n), max_new_tokens=20) for n in (5, 60, 100, 108)]
    expected = answers(generator(model, 64), requests)
    tight = generator(model, 2)
    assert answers(tight, requests) == expected
    assert_all_given_back(tight.pool)
    with pytest.raises(ModelError, match=r"prompt of 237 tokens .* exceeds the 256 tokens whose keys and values fit into"):
        answers(tight, [GenerateRequest(tokens(237, seed=1), max_new_tokens=20)])


def test_an_abandoned_generation_gives_its_pages_back(model):
    some = generator(model, 64)
    requests = [GenerateRequest(tokens(n, seed=n), max_new_tokens=50 if n > 10 else 1, ignore_eos=True) for n in range(1, 30)]
    begun = some.generate(requests)
    next(begun)
    assert some.pool.in_use > 0
    begun.close()
    assert_all_given_back(some.pool)


def test_the_urgent_first(model):
    requests = [GenerateRequest([i + 10], max_new_tokens=1, priority=priority) for i, priority in enumerate((0, 5, -1, 5, 2))]
    assert [i for i, _ in generator(model, 64, max_running=1).generate(requests)] == [1, 3, 4, 0, 2]


def test_a_long_prompt_in_chunks(model):
    prompt = tokens(400, seed=3)
    whole, chunks = generator(model, 64), generator(model, 64, token_budget=48)
    requests = [GenerateRequest(prompt, max_new_tokens=8), GenerateRequest([*prompt[:390], 1], max_new_tokens=8)]
    assert answers(chunks, requests) == answers(whole, requests)
    # guesses are computed too
    least, most = (400 + 7 + 1 + 7, 16 * FREE_ROWS)  # the second shares 390
    assert least <= whole.usage.computed <= least + most
    # it doesn't wait for the last few tokens of what it shares
    assert least <= chunks.usage.computed < least + most + WORTH_WAITING


def test_a_prompt_of_before_is_known_to_the_token(model):
    some = generator(model, 64)
    prompt = tokens(PAGE + 50, seed=4)
    answers(some, [GenerateRequest(prompt, max_new_tokens=30)])
    computed = some.usage.computed
    follow_up = GenerateRequest(prompt[: PAGE + 45] + tokens(9, seed=5), max_new_tokens=1)
    again = answers(some, [follow_up])
    assert some.usage.computed == computed + 9
    assert again == answers(generator(model, 64), [follow_up])
    without = generator(model, 64, keep_prefixes=False)
    assert again == answers(without, [follow_up])
    assert known(without.pool, prompt) == 0


def test_pages_of_equal_tokens_after_others_are_not_shared(model):
    """A page's key is all that comes before it, not its tokens alone."""
    pool = PagePool(model, 8)
    page, other = tokens(PAGE, seed=1), tokens(PAGE, seed=2)
    first = admit(pool, [*page, *page, 5], 2 * PAGE + 1)
    first.grow(2 * PAGE)
    first.length = 2 * PAGE
    first.remember([*page, *page, 5])
    assert known(pool, [*page, *page, 9]) == 2 * PAGE
    assert known(pool, [*other, *page, 9]) == 0
    assert known(pool, [*page, *page[:40], *other]) == PAGE + 40
    assert known(pool, [*page[:40], *other]) == 40
    # idle pages are taken as they are needed, the end of a chain first
    first.close()
    assert (pool.in_use, known(pool, [*page, *page, 9])) == (0, 2 * PAGE)
    taken = admit(pool, [1], 7 * PAGE)
    taken.grow(7 * PAGE)
    assert known(pool, [*page, *page, 9]) == PAGE
    assert not taken.grow(9 * PAGE)
    taken.close()
    assert_all_given_back(pool)


def test_what_lies_on_a_page_unseen_does_no_harm(model):
    request = GenerateRequest(tokens(30, seed=6), max_new_tokens=20)
    poisoned = generator(model, 2)
    for pages in poisoned.pool.memory.all:
        pages.fill_(torch.nan)  # as fresh memory may hold
    assert answers(poisoned, [request]) == answers(generator(model, 64), [request])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a page takes its memory at once")
def test_a_page_takes_memory_as_tokens_are_written_to_it():
    """Answers are short, and a large model's page takes megabytes. What was given back is zeros again, whatever lay there."""
    config = tiny_config(num_hidden_layers=1, num_attention_heads=64, num_key_value_heads=64, head_dim=64)
    pool = PagePool(on("cpu", tiny_decoder(config)), 8)
    k, v = (pages[0] for pages in pool.memory.all)
    size = k[:8].nbytes + v[:8].nbytes

    def taken():
        with open("/proc/self/status") as status:
            return 1024 * int(next(line for line in status if line.startswith("RssAnon")).split()[1])

    before = taken()
    cache = admit(pool, [1], 8 * PAGE)
    assert cache.grow(8 * PAGE)
    assert taken() - before < size / 4
    k[:8], v[:8] = torch.nan, torch.nan
    assert taken() - before > size / 2
    cache.close()
    pool.trim()
    assert taken() - before < size / 4
    cache = admit(pool, [1], PAGE)
    assert cache.grow(PAGE)
    assert not k[cache.pages[0]].any()
    assert not v[cache.pages[0]].any()
