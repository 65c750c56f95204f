"""Tokenizers written as GGUF metadata: every kind is read back as it was, and what the metadata can't say is refused by name."""

import json

import pytest
from refusals import refused as refused_by
from test_tokenizer import KINDS, TEXTS, small
from tiny_models import word_tokenizer
from tokenizers import AddedToken, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from moe_lm.tokenizer.gguf_write import keys_of
from moe_lm.tokenizer.pre_types import PRE_TYPES
from moe_lm.tokenizer.tokenizer import Tokenizer


def written(tokenizer, rows=None):
    rows = rows or tokenizer.fast.get_vocab_size()
    return Tokenizer.from_gguf(keys_of(tokenizer, rows))


def refused(tokenizer, *words):
    return refused_by(tokenizer, *words, by=written)


@pytest.mark.parametrize("kind", KINDS["ids"])
def test_every_kind_comes_back(kind):
    tokenizer = small(kind, chat_template="{{ bos_token }}{{ messages }}")
    found = written(tokenizer)
    assert [found.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    for name in ("bos_id", "stop_ids", "prefix_id", "chat_template", "bos_token", "eos_token", "special"):
        assert getattr(found, name) == getattr(tokenizer, name), name
    pre = keys_of(tokenizer, tokenizer.fast.get_vocab_size())["tokenizer.ggml.pre"]
    assert kind.startswith("spm") or PRE_TYPES[pre] is PRE_TYPES[kind]


@pytest.mark.parametrize("kind", ["llama-bpe", "smollm", "spm"])
def test_bos_in_front_comes_back(kind):
    tokenizer = small(kind, add_bos_token=True, bos_token_id=1)
    found = written(tokenizer)
    assert found.bos_id == tokenizer.bos_id == 1
    assert found.encode("word") == tokenizer.encode("word")


def test_a_folders_tokenizer_is_read_back(tmp_path):
    """Merges as pairs, BOS by the post-processor, ends from three files."""
    tokenizer = small("smollm", add_bos_token=True)
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    from_folder = Tokenizer.from_folder(tmp_path)
    found = written(from_folder)
    assert found.stop_ids == from_folder.stop_ids
    assert [found.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_rows_without_a_token_are_named_and_tokens_without_a_row_left_out():
    tokenizer = small("smollm")
    size = tokenizer.fast.get_vocab_size()
    keys = keys_of(tokenizer, size + 2)
    assert keys["tokenizer.ggml.tokens"][size:] == [f"[PAD{size}]", f"[PAD{size + 1}]"]
    assert keys["tokenizer.ggml.token_type"][size:] == [5, 5]
    tokenizer.fast.add_special_tokens(["<image>"])
    assert len(keys_of(tokenizer, size)["tokenizer.ggml.tokens"]) == size


def test_another_type_of_tokenizer_is_refused():
    refused(word_tokenizer(), "of type WordLevel", "only BPE")


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_a_token_that_takes_its_neighbours_is_refused(flag):
    tokenizer = small("smollm")
    tokenizer.fast.add_special_tokens([AddedToken("<mask>", **{flag: True})])
    refused(tokenizer, "'<mask>' is " + flag)


def test_words_that_llama_cpp_cuts_otherwise_are_refused():
    tokenizer = small("smollm")
    tokenizer.fast.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    refused(tokenizer, "no pre-tokenizer that llama.cpp has a name for")


def test_another_normalizer_is_refused():
    tokenizer = small("gpt-2")
    tokenizer.fast.normalizer = normalizers.Lowercase()
    refused(tokenizer, "no pre-tokenizer")


def test_a_prefix_at_the_beginning_alone_is_refused():
    """As Llama's newer tokenizers have it; llama.cpp puts one behind every special token, too."""
    tokenizer = small("spm")
    tokenizer.fast.normalizer = None
    tokenizer.fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    refused(tokenizer, "it would cut")


def test_merges_that_scores_do_not_give_are_refused():
    """Scores give every way to make a piece of two."""
    tokenizer = small("spm-no-prefix")
    state = json.loads(tokenizer.fast.to_str())
    state["model"]["merges"] = state["model"]["merges"][::2]
    tokenizer.fast = FastTokenizer.from_str(json.dumps(state))
    refused(tokenizer, "its merges are not in the order of any scores")


def test_ends_that_can_not_be_said_are_refused():
    tokenizer = small("smollm")
    tokenizer.stop_ids = frozenset()  # but <|im_end|> and </s> end an answer by their names
    refused(tokenizer, "its stop_ids is")
