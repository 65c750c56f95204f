"""Tiny random models of every family, built by transformers: moe_lm computes the same, and writes back the same bytes."""

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_models import admit, blank_caches, logits, on, randomise, relative_diff, run_all, tokens, word_tokenizer
from transformers_models import CONFIGS, SHAPE, save_random

from moe_lm.backends.base import PAGE
from moe_lm.checkpoint.read import load
from moe_lm.checkpoint.write import save
from moe_lm.engine.batch import forward
from moe_lm.engine.generator import GenerateRequest, Generator
from moe_lm.engine.pages import PagePool


@pytest.fixture(scope="module", params=CONFIGS)
def files(request, tmp_path_factory):
    """(transformers' model, its folder)"""
    folder = tmp_path_factory.mktemp(request.param)
    return save_random(request.param, folder), folder


@pytest.fixture(scope="module", params=["reference", "cpu"])
def pair(request, files):
    """(transformers' model, moe_lm's on a back-end)"""
    theirs, folder = files
    return theirs, on(request.param, load(folder).model)


def same(backend, found, expected):
    """Bit for bit, where the back-end promises it."""
    return torch.equal(found, expected) if backend.invariant else relative_diff(found, expected) <= 1e-5


def their_logits(model, sequence):
    with torch.inference_mode():
        return model(torch.tensor([sequence])).logits[0].float()


def test_batch_of_unequal_lengths(pair):
    theirs, ours = pair
    sequences = [tokens(n, seed=n) for n in (1, 2, 31, 32, 33, 64, 100)]
    for sequence, found in zip(sequences, logits(ours, *sequences), strict=True):
        assert found.shape == (len(sequence), SHAPE["vocab_size"])
        assert relative_diff(found, their_logits(theirs, sequence)) <= 1e-5


@pytest.mark.parametrize("prefix_length", [1, 32, 45, 96])
def test_after_a_cached_prefix(pair, prefix_length):
    theirs, ours = pair
    sequence = tokens(110, seed=1)
    pool = PagePool(ours, 8)
    prefix = pool.fork(None, len(sequence))
    forward(ours, [(sequence[:prefix_length], prefix)], ())
    rest = sequence[prefix_length:]
    first, shorter, whole = (pool.fork(parent, len(sequence)) for parent in (prefix, prefix, None))
    whole, first, shorter = run_all(ours, [(sequence, whole), (rest, first), (rest[:-9], shorter)])
    assert same(ours, first, whole[prefix_length:])
    assert same(ours, shorter, first[:-9])
    assert prefix.length == prefix_length
    (again,) = run_all(ours, [(rest, prefix)])  # the prefix goes on itself: what was forked from it is not touched
    assert same(ours, again, first)
    # some of the positions only, in any order
    some = forward(ours, [(sequence, *blank_caches(ours, sequence))], [109, 3, 40])
    assert same(ours, some, whole[[109, 3, 40]])
    assert relative_diff(ours.logits(whole), their_logits(theirs, sequence)) <= 1e-5


def step(ours, new):
    """As the generator decodes."""
    return forward(ours, [([token], cache) for token, cache in new], range(len(new)))


def test_one_token_at_a_time(pair):
    theirs, ours = pair
    sequence = tokens(PAGE + 12, seed=2)
    pool = PagePool(ours, 2)
    cache = admit(pool, sequence, len(sequence))
    steps = [step(ours, [(token, cache)]) for token in sequence]
    assert relative_diff(ours.logits(torch.cat(steps)), their_logits(theirs, sequence)) <= 1e-5


def test_decoding_several_after_prefixes_of_unequal_lengths(pair):
    theirs, ours = pair
    sequences = [tokens(n, seed=n) for n in (2, 34, PAGE + 1, 2 * PAGE + 57)]
    pool = PagePool(ours, 9)
    caches = [admit(pool, sequence, len(sequence)) for sequence in sequences]
    forward(ours, [(sequence[:-1], cache) for sequence, cache in zip(sequences, caches, strict=True)], ())
    hidden = step(ours, [(sequence[-1], cache) for sequence, cache in zip(sequences, caches, strict=True)])
    found = ours.logits(hidden)
    expected = torch.stack([their_logits(theirs, sequence)[-1] for sequence in sequences])
    assert relative_diff(found, expected) <= 1e-5


def test_greedy_continuation(pair):
    theirs, ours = pair
    prompts = [tokens(n, seed=10 + n) for n in (1, 20, 33, 70)]
    generator = Generator(ours, decode=str, stop_ids=frozenset())
    found = dict(generator.generate([GenerateRequest(p, max_new_tokens=24) for p in prompts]))
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0)
        assert found[i].tokens == out[0, len(prompt) :].tolist()


def test_round_trip(files, tmp_path):
    theirs, folder = files
    ours = load(folder).model
    save(ours, word_tokenizer(), tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load(tmp_path).model.config == ours.config
    if ours.config.family == "deepseek":
        return  # transformers would need remote code
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), theirs.parameters(), strict=True))
    sequence = tokens(50, seed=3)
    # not to the bit: on processors without AVX-512 transformers itself rounds the same weights, loaded again, in another way
    assert torch.allclose(their_logits(again, sequence), their_logits(theirs, sequence), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["moe-5-2", "qwen3-moe-some-dense", "olmoe", "mixtral"])
def test_experts_stacked_in_one_tensor(name, tmp_path):
    """As transformers 5 holds them in memory, and can save them."""
    theirs = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32)
    randomise(theirs.eval())
    for folder, original in (("separate", True), ("stacked", False)):
        theirs.save_pretrained(tmp_path / folder, save_original_format=original)
        word_tokenizer().save(tmp_path / folder)
    assert any(name.endswith("experts.gate_up_proj") for name in load_file(tmp_path / "stacked" / "model.safetensors"))
    separate, stacked = (dict(load(tmp_path / folder).model.named_parameters()) for folder in ("separate", "stacked"))
    assert separate.keys() == stacked.keys()
    assert all(torch.equal(separate[name], stacked[name]) for name in separate)
