"""Token ids as the models' own tokenizers give them: golden ids made by llama.cpp and tiktoken, not by this package.

tests/golden/make_tokenizer_golden.py makes tests/golden/tokenizer_corpus.json; its docstring names the commands.
"""

import json
import unicodedata
from pathlib import Path

import pytest
import transformers

from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.errors import ModelError
from moe_lm.tokenizer import Tokenizer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizer_corpus.json").read_text("utf-8"))
CASES = {case["name"]: case for case in GOLDEN["cases"]}
LANGUAGES = "ar de en es fr id it ja ko pt ru th vi zh".split()


@pytest.fixture(scope="module", params=["smollm2", pytest.param("qwen2.5", marks=pytest.mark.slow)])
def golden(request):
    """(the model's tokenizer, {name of a case: ids})"""
    path = request.getfixturevalue("smollm2_path" if request.param == "smollm2" else "qwen_path")
    return Tokenizer.from_gguf(GGUFFile(path).metadata), {name: case[request.param] for name, case in CASES.items()}


def test_the_corpus_holds_every_language():
    assert set(LANGUAGES) <= set(CASES)
    assert all(case["smollm2"] and case["qwen2.5"] for case in CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_golden_ids(golden, name):
    tokenizer, ids = golden
    assert tokenizer.encode(CASES[name]["text"]) == ids[name]


def test_batches_give_the_same_ids(golden):
    tokenizer, ids = golden
    assert tokenizer.encode_batch([case["text"] for case in CASES.values()]) == list(ids.values())


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("special")])
def test_decoding_gives_the_text_back(golden, name):
    tokenizer, ids = golden
    text = CASES[name]["text"]
    if tokenizer.fast.normalizer:
        text = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(ids[name]) == text


def test_special_tokens_are_recognised_and_not_decoded(golden):
    tokenizer, _ = golden
    start, end = (tokenizer.fast.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>"))
    ids = tokenizer.encode("<|im_start|>user\nHi<|im_end|>")
    assert (ids[0], ids[-1]) == (start, end)
    assert not {start, end} & set(ids[1:-1])
    assert tokenizer.decode(ids) == "user\nHi"
    assert {end, tokenizer.fast.token_to_id("<|endoftext|>")} <= tokenizer.stop_ids
    assert start not in tokenizer.stop_ids
    assert start not in tokenizer.encode(CASES["special-broken"]["text"])


def test_saved_folder(golden, tmp_path):
    tokenizer, ids = golden
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.from_folder(tmp_path)
    for name, case in CASES.items():
        assert theirs(case["text"])["input_ids"] == ids[name], name
        assert ours.encode(case["text"]) == ids[name], name
    assert ours.chat_template == tokenizer.chat_template == theirs.chat_template
    assert ours.stop_ids == tokenizer.stop_ids
    assert theirs.eos_token_id in tokenizer.stop_ids
    assert ours.sha256() == tokenizer.sha256()


@pytest.fixture(scope="module")
def bos(smollm2_path):
    """SmolLM2's tokenizer, as if its model wanted BOS."""
    metadata = GGUFFile(smollm2_path).metadata
    return Tokenizer.from_gguf(metadata | {"tokenizer.ggml.add_bos_token": True})


def test_bos_exactly_once(bos):
    assert bos.bos_id == bos.prefix_id == 1
    for text in ("Hello there", "<|im_start|>Hello there", ""):
        ids = bos.encode(text)
        assert ids[0] == 1
        assert ids.count(1) == 1
        assert bos.encode_batch([text, text]) == [ids, ids]
    assert bos.decode(bos.encode("Hello there")) == "Hello there"


def test_bos_survives_saving(bos, tmp_path):
    bos.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.bos_id == 1
    assert again.encode("Hello <|im_end|>") == bos.encode("Hello <|im_end|>")
    assert again.encode("<|im_start|>Hello") == bos.encode("<|im_start|>Hello")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("Hello there")["input_ids"] == bos.encode("Hello there")


def test_without_bos(smollm2_path):
    tokenizer = Tokenizer.from_gguf(GGUFFile(smollm2_path).metadata)
    assert tokenizer.bos_id is None
    assert tokenizer.encode("") == []
    assert tokenizer.prefix_id == 2  # its end of text stands in for an empty context


def test_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.slow
def test_qwen_ids_are_those_of_transformers_gguf_reader(qwen_path):
    theirs = transformers.AutoTokenizer.from_pretrained(qwen_path.parent, gguf_file=qwen_path.name)
    wrong = [name for name, case in CASES.items() if theirs(case["text"])["input_ids"] != case["qwen2.5"]]
    assert wrong == ["combining-nfd"]  # it leaves out the NFC of Qwen's own tokenizer.json, as llama.cpp does
    assert theirs(CASES["combining-nfd"]["text"])["input_ids"] == CASES["combining-nfd"]["llama_cpp"]["qwen2.5"]
