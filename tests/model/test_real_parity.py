"""Real weights in float32 against transformers: the same logits, and the same greedy tokens.

SmolLM2 goes to transformers in two ways: exported by moe_lm (fast), and read by transformers' own GGUF reader, which shares
neither our dequantisation calls nor our un-permutation. `-s` shows the measured differences.
"""

from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import logits, on

from moe_lm.checkpoint.read import load
from moe_lm.checkpoint.write import save
from moe_lm.engine.generator import GenerateRequest, Generator

PROMPTS = (
    "The lighthouse keeper opened the logbook and wrote",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "Q: A crate holds 12 jars. How many jars are in 7 crates?\nA:",
    "Les trois plus longs fleuves d'Europe sont",
    "<|im_start|>user\nName a colour and a fruit.<|im_end|>\n<|im_start|>assistant\n",
)
MAX_LOGIT_DIFF = 2e-4


def from_export(checkpoint, folder):
    """transformers' model of what moe_lm holds in memory."""
    save(checkpoint.model, checkpoint.tokenizer, folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def from_gguf(path):
    """transformers' model by its own GGUF reader."""
    return transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def smollm2_export(smollm2, tmp_path_factory):
    return from_export(smollm2, tmp_path_factory.mktemp("smollm2"))


def check_logits(ours, theirs, prompts, limit=MAX_LOGIT_DIFF):
    sequences = [ours.tokenizer.encode(prompt) for prompt in prompts]
    diffs, largest = [], 0.0
    with torch.inference_mode():
        for sequence, found in zip(sequences, logits(on("cpu", ours.model), *sequences), strict=True):
            expected = theirs(torch.tensor([sequence])).logits[0]
            diffs.append(float((found - expected).abs().max()))
            largest = max(largest, float(expected.abs().max()))
    print(f"max |logit diff| {max(diffs):.3g} (largest |logit| {largest:.3g})")
    assert max(diffs) <= limit


def check_greedy(ours, theirs, prompts, count):
    """Greedy tokens after each prompt, through ends of text, so that all `count` are compared."""
    sequences = [ours.tokenizer.encode(prompt) for prompt in prompts]
    theirs.generation_config = transformers.GenerationConfig()  # of the config's: the end tokens, which would stop it
    generator = Generator(on("cpu", ours.model), ours.tokenizer.decode, stop_ids=frozenset())
    found = dict(generator.generate([GenerateRequest(s, max_new_tokens=count) for s in sequences]))
    options = {"max_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    for i, sequence in enumerate(sequences):
        ids = torch.tensor([sequence])
        out = theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert len(found[i].tokens) == count
        assert found[i].tokens == out[0, len(sequence) :].tolist(), prompts[i]


def test_smollm2_logits(smollm2, smollm2_export):
    check_logits(smollm2, smollm2_export, PROMPTS[:3])


def test_smollm2_greedy(smollm2, smollm2_export):
    check_greedy(smollm2, smollm2_export, PROMPTS[:2], 40)


@pytest.mark.slow
def test_smollm2_greedy_200(smollm2, smollm2_export):
    check_greedy(smollm2, smollm2_export, PROMPTS, 200)


@pytest.mark.slow
def test_smollm2_through_transformers_gguf_reader(smollm2, smollm2_path):
    theirs = from_gguf(smollm2_path)
    check_logits(smollm2, theirs, PROMPTS)
    check_greedy(smollm2, theirs, PROMPTS[:2], 40)


@pytest.mark.slow
def test_qwen_export(qwen, tmp_path):
    theirs = from_export(qwen, tmp_path)
    check_logits(qwen, theirs, PROMPTS)
    check_greedy(qwen, theirs, PROMPTS, 200)


@pytest.mark.slow
def test_qwen_through_transformers_gguf_reader(qwen, qwen_path):
    check_logits(qwen, from_gguf(qwen_path), PROMPTS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_qwen_large(qwen_large_path, tmp_path):
    """1.5B: transformers sees all 200 tokens at once and must find each the likeliest; one by one takes it a quarter of an hour."""
    ours = load(qwen_large_path)
    theirs = from_export(ours, tmp_path)
    check_logits(ours, theirs, PROMPTS, 5e-4)  # sums of 1,536 and 8,960 terms round more than those of the small models
    sequences = [ours.tokenizer.encode(prompt) for prompt in PROMPTS]
    generator = Generator(on("cpu", ours.model), ours.tokenizer.decode, stop_ids=frozenset())
    found = dict(generator.generate([GenerateRequest(s, max_new_tokens=200) for s in sequences]))
    for i, sequence in enumerate(sequences):
        with torch.inference_mode():
            logits = theirs(torch.tensor([sequence + found[i].tokens[:-1]])).logits[0]
        assert found[i].tokens == logits[len(sequence) - 1 :].argmax(-1).tolist(), PROMPTS[i]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_gemma3_within_and_beyond_its_window(gemma3_path, tmp_path):
    """270M: the layers with a window of 512 tokens have a rotary embedding of their own."""
    ours = load(gemma3_path)
    theirs = from_export(ours, tmp_path)
    guide = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text("utf-8")
    prompts = (PROMPTS[0], guide[:3000])
    assert ours.model.config.sliding_window == 512 < len(ours.tokenizer.encode(prompts[1]))
    check_logits(ours, theirs, prompts, 5e-4)
    check_greedy(ours, theirs, prompts, 64)
    theirs = from_gguf(gemma3_path)
    check_logits(ours, theirs, prompts, 5e-4)


@pytest.mark.slow
def test_gemma3_tokenizer(gemma3_path, tmp_path):
    """An answer ends with the turn or the text, whichever the file names; BOS is once in front, though a chat template writes it."""
    tokenizer = load(gemma3_path).tokenizer
    assert {tokenizer.fast.id_to_token(i) for i in tokenizer.stop_ids} == {"<eos>", "<end_of_turn>"}
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (
        *PROMPTS,
        "  two  blanks\n\n\n\tand 1234 ",
        "日本語 😀",
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    ):
        ids = tokenizer.encode(text)
        assert ids.count(tokenizer.bos_id) == 1
        assert ids == theirs(text, add_special_tokens=not text.startswith("<bos>"))["input_ids"]
