"""A folder's tokenizer files against transformers: tokens that they add, the ends of text, ids beyond the embedding, and damage."""

import json

import pytest
import tokenizers
import torch
from refusals import refused
from tiny_models import on, tiny_config, tiny_decoder
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from moe_lm.checkpoint.read import load
from moe_lm.checkpoint.write import save
from moe_lm.engine.generator import GenerateRequest, Generator
from moe_lm.errors import ModelError
from moe_lm.tokenizer.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install evalkit-lm[dev]")

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<s>", "</s>", "<|end|>", "<|turn|>"]
ROWS = len(LETTERS) + 1 + len(SPECIAL)
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
TEXTS = ("plain", "a<|x|>b <|end|>  c", " <|end|> <s>ab<|turn|>", "<|y|>ü")


def letters():
    """Letters, "ab", and the special tokens after them."""
    fast = tokenizers.Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*LETTERS, "ab"])}, merges=[("a", "b")]))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return fast


def chain():
    """A model that says after each token the next id: its layers add nothing, its head asks which token it is."""
    model = tiny_decoder(tiny_config(vocab_size=ROWS, hidden_size=64, head_dim=16, bos_token_id=None))
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.o_proj.weight.zero_()
            layer.ffn.down_proj.weight.zero_()
        embed = torch.nn.functional.normalize(torch.randn(ROWS, 64, generator=torch.Generator().manual_seed(1)))
        model.embed.weight.copy_(embed)
        model.norm.weight.fill_(1.0)
        model.lm_head.weight.copy_(10 * embed.roll(1, 0))
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    save(chain(), Tokenizer(letters(), None, (), None), place)
    return place


@pytest.fixture
def folder(whole, tmp_path):
    """A copy with a plain tokenizer_config.json, without ends of text."""
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "generation_config.json").unlink()
    write(tmp_path, "tokenizer_config.json", PLAIN)
    return tmp_path


def write(folder, name, value):
    (folder / name).write_text(json.dumps(value), "utf-8")


def add(folder, name, **values):
    write(folder, name, json.loads((folder / name).read_text("utf-8")) | values)


FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}


@pytest.mark.parametrize(
    "settings",
    [
        {"added_tokens_decoder": {"261": {"content": "<|x|>", **FLAGS}}},
        {"added_tokens_decoder": {"300": {"content": "<|x|>", **FLAGS}, "299": {"content": "<|y|>", **FLAGS, "special": False}}},
        {"added_tokens_decoder": {"259": {"content": "<|end|>", **FLAGS, "lstrip": True, "rstrip": True}}},
        {"added_tokens_decoder": {"259": {"content": "<|end|>", **FLAGS, "special": False}}, "eos_token": "<|end|>"},
        {"added_tokens_decoder": {"5": {"content": "<|end|>", **FLAGS}}},
        {"eos_token": "<|x|>"},
        {"eos_token": {"__type": "AddedToken", "content": "<|x|>", **FLAGS, "lstrip": True}},
        {"bos_token": "<s>", "eos_token": "ab", "unk_token": None},
        {"pad_token": "<|x|>", "additional_special_tokens": ["<|y|>", "<|end|>"]},
        {"extra_special_tokens": {"image_token": "<|x|>"}},
        {"extra_special_tokens": ["<|x|>"]},
    ],
)
def test_tokens_that_other_files_add_or_change(folder, settings):
    add(folder, "tokenizer_config.json", **settings)
    ours, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"], text
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True), text
    assert (ours.eos_token or None) == theirs.eos_token


def test_files_of_older_versions(folder):
    write(folder, "special_tokens_map.json", {"eos_token": {"content": "<|y|>", "lstrip": True}, "pad_token": "<|x|>"})
    write(folder, "added_tokens.json", {"<|x|>": 261, "<|y|>": 262})
    ours, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert [ours.encode(text) for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    assert ours.eos_token == theirs.eos_token == "<|y|>"
    assert 262 in ours.stop_ids


def ours_and_theirs(folder, prompt, **more):
    """What both say after `prompt`, greedily, up to 12 tokens."""
    found = load(folder)
    generator = Generator(on("reference", found.model), found.tokenizer.decode, found.tokenizer.stop_ids)
    ((_, generation),) = generator.generate([GenerateRequest([prompt], (), max_new_tokens=12)])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([[prompt]])
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0, **more)
    said = said[0, 1:].tolist()
    return generation, said[:-1] if len(said) < 12 else said  # theirs has the end, ours does not


@pytest.mark.parametrize(
    ("config", "generation", "end"),
    [
        (None, None, None),
        (30, None, 30),
        ([31, 35], None, 31),
        (None, 28, 28),
        (35, [35, 33], 33),
        ([33, 35], [33, 29], 29),
        (None, [], None),
        (-1, None, None),
    ],
)
def test_an_answer_ends_where_transformers_ends_it(folder, config, generation, end):
    add(folder, "config.json", eos_token_id=config)
    if generation is not None:
        write(folder, "generation_config.json", {"eos_token_id": generation})
    (answer, theirs) = ours_and_theirs(folder, 25)
    expected = list(range(26, end or 38))
    assert answer.tokens == theirs == expected
    assert answer.finish_reason == ("eos" if end else "length")


def test_the_tokenizers_own_end_ends_an_answer_too(folder):
    """As pipelines and servers pass it to transformers' generate; also a token that is neither special nor well known."""
    letter = LETTERS[30]
    for eos in (letter, {"content": letter}):
        add(folder, "tokenizer_config.json", eos_token=eos)
        own = transformers.AutoTokenizer.from_pretrained(folder).eos_token_id if isinstance(eos, str) else 30
        answer, theirs = ours_and_theirs(folder, 25, eos_token_id=own)
        assert answer.tokens == theirs == [26, 27, 28, 29]


def test_every_end_survives_saving(folder, tmp_path_factory):
    write(folder, "generation_config.json", {"eos_token_id": [28, 33]})
    add(folder, "tokenizer_config.json", eos_token="<|end|>")
    found, again = load(folder), tmp_path_factory.mktemp("again")
    save(found.model, found.tokenizer, again)
    assert load(again).tokenizer.stop_ids == found.tokenizer.stop_ids >= {28, 33, 259}
    assert ours_and_theirs(again, 25)[1] == [26, 27]


def test_an_added_token_without_a_row_is_refused_where_a_text_has_it(folder):
    """Gemma 3's own tokenizer has one, <image_soft_token>; fine-tunes have <pad>."""
    add(folder, "tokenizer_config.json", pad_token="<|x|>")
    found = load(folder).tokenizer
    assert found.encode("hello ü")
    for encode in (found.encode, found.encode_plain, lambda text: found.encode_batch(["fine", text])):
        with pytest.raises(ModelError, match=rf"<\|x\|>.* id {ROWS}.*{ROWS} rows"):
            encode("hello <|x|> you")


def test_a_tokenizer_of_another_model(folder):
    fast = tokenizers.Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*LETTERS, *(f"w{i}" for i in range(9))])}, merges=[]))
    fast.save(str(folder / "tokenizer.json"))
    refused(folder, "'w5'", f"id {ROWS}", "and 3 more", f"{ROWS} rows")
    fast = letters()
    fast.add_special_tokens(["<|bos|>"])
    fast.post_processor = processors.TemplateProcessing(single=["<|bos|>", "$A"], special_tokens=[("<|bos|>", ROWS)])
    fast.save(str(folder / "tokenizer.json"))
    refused(folder, "<|bos|>", f"{ROWS} rows")


def test_two_tokens_in_front_or_one_behind_are_refused(folder):
    fast = letters()
    fast.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", 258)])
    fast.save(str(folder / "tokenizer.json"))
    refused(folder, "tokenizer.json puts '</s>' behind every text")
    fast.post_processor = processors.TemplateProcessing(single=["<s>", "<|turn|>", "$A"], special_tokens=[("<s>", 257), ("<|turn|>", 260)])
    fast.save(str(folder / "tokenizer.json"))
    refused(folder, "[257, 260]", "only one")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", None, "No such file"),
        ("tokenizer.json", b"", "is empty"),
        ("tokenizer.json", b'{"version": "1.0", "model"', "not a readable tokenizer"),
        ("tokenizer.json", b"[]", "not a readable tokenizer"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "not a readable tokenizer"),
        ("tokenizer.json", POINTER, "git lfs pull"),
        ("tokenizer_config.json", b"", "is empty"),
        ("tokenizer_config.json", b'{"a":', "not readable as JSON"),
        ("tokenizer_config.json", b"[]", "does not hold a JSON object"),
        ("tokenizer_config.json", b'{"a": "\xff"}', "not readable as JSON"),
        ("tokenizer_config.json", POINTER, "git lfs pull"),
        ("tokenizer_config.json", b'{"chat_template": 5}', "chat_template = 5"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": 1}]}', "chat_template"),
        ("tokenizer_config.json", b'{"chat_template": "\\ud800"}', "surrogates not allowed"),
        ("tokenizer_config.json", b'{"eos_token": 5}', "eos_token = 5"),
        ("tokenizer_config.json", b'{"bos_token": {"x": 1}}', "bos_token"),
        ("tokenizer_config.json", b'{"eos_token": {"content": ["</s>"]}}', "eos_token"),
        ("tokenizer_config.json", b'{"tokenizer_class": 5}', "tokenizer_class"),
        ("tokenizer_config.json", b'{"add_bos_token": "yes"}', "add_bos_token"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": [1]}', "added_tokens_decoder"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "a"}}}', "without a number"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": "a", "2": 5}}', "token 2 = 5"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": {"content": "a", "lstrip": 1}}}', "flags"),
        ("tokenizer_config.json", b'{"additional_special_tokens": 5}', "additional_special_tokens"),
        ("tokenizer_config.json", b'{"additional_special_tokens": [5]}', "additional_special_tokens"),
        ("tokenizer_config.json", b'{"split_special_tokens": true}', "split_special_tokens"),
        ("generation_config.json", b"", "is empty"),
        ("generation_config.json", b'{"eos_token_id": "2"}', "eos_token_id"),
        ("generation_config.json", b'{"eos_token_id": [[2]]}', "eos_token_id"),
        ("generation_config.json", b'{"eos_token_id": true}', "eos_token_id"),
        ("generation_config.json", POINTER, "git lfs pull"),
        ("special_tokens_map.json", b'{"eos_token": 5}', "eos_token"),
        ("added_tokens.json", b'{"<|x|>": "many"}', "without a number"),
        ("chat_template.jinja", b"\xff\xfe", "not UTF-8"),
        ("chat_template.jinja", POINTER, "git lfs pull"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else f"{value[:40]!r}" if value else "none",
)
def test_damaged_files(folder, name, content, words):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    refused(folder, name, words)


def test_a_blank_in_front_that_two_files_tell_differently(folder):
    """transformers takes tokenizer_config.json's word or not, by the class and its own version."""
    add(folder, "tokenizer_config.json", add_prefix_space=False)
    load(folder)
    add(folder, "tokenizer_config.json", add_prefix_space=True)
    refused(folder, "add_prefix_space = True contradicts tokenizer.json, where it is False")


def test_a_byte_order_mark_changes_nothing(folder):
    before = load(folder)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    after = load(folder)
    assert after.model.config == before.model.config
    assert after.tokenizer.sha256() == before.tokenizer.sha256()


def test_ends_and_added_tokens_are_part_of_the_checkpoints_hash(folder):
    before = load(folder).sha256
    for name in ("generation_config.json", "special_tokens_map.json"):
        write(folder, name, {"eos_token_id": 5} if name.startswith("gen") else {"eos_token": "</s>"})
        after = load(folder).sha256
        assert after != before
        before = after
