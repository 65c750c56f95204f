"""Token ids as the models' own tokenizers give them: golden ids made by llama.cpp and tiktoken, not by this package.

tests/golden/make_tokenizer_golden.py makes tests/golden/tokenizer_corpus.json, of real models, and make_gguf_tokenizer_golden.py
gguf_tokenizers.json, of small vocabularies for the other kinds of tokenizer that GGUF files name; their docstrings name the commands.
"""

import json
import unicodedata
from pathlib import Path

import pytest
import transformers

from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.errors import ModelError
from moe_lm.tokenizer.tokenizer import Tokenizer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizer_corpus.json").read_text("utf-8"))
CASES = {case["name"]: case for case in GOLDEN["cases"]}
KINDS = json.loads((Path(__file__).parents[1] / "golden" / "gguf_tokenizers.json").read_text("utf-8"))
TEXTS = [case["text"] for case in GOLDEN["cases"]] + KINDS["more"]
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


def small(kind, **changes):
    """A tokenizer of one kind, on the golden file's small vocabulary for it; BOS is <s> (1), end of text </s> (2)."""
    vocabulary = KINDS["vocabularies"]["llama" if kind.startswith("spm") else "gpt2"]
    metadata = vocabulary | {"bos_token_id": 1, "eos_token_id": 2, "add_bos_token": False} | changes
    metadata |= {"add_space_prefix": False} if kind == "spm-no-prefix" else {}
    metadata |= {"pre": kind} if vocabulary["model"] == "gpt2" else {}
    return Tokenizer.from_gguf({f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None})


@pytest.mark.parametrize("kind", KINDS["ids"])
def test_every_kind_gives_llama_cpps_ids(kind):
    tokenizer = small(kind)
    for text, ids in zip(TEXTS, KINDS["ids"][kind], strict=True):
        assert tokenizer.encode(text) == ids, text
        # special tokens are not decoded, and where blanks are one, the text after it gets the prefix once more
        if "<|" not in text and not (kind == "spm" and "   " in text):
            assert tokenizer.decode(ids) == text


def test_the_golden_ids_tell_the_kinds_apart():
    """A pre-tokenizer in the place of another would not pass."""
    kinds = list(KINDS["ids"])
    for i, one in enumerate(kinds):
        for other in kinds[:i]:
            assert KINDS["ids"][one] != KINDS["ids"][other]


@pytest.mark.parametrize(
    ("kind", "changes", "bos_id"),
    [
        ("spm", {"add_bos_token": None}, 1),  # llama.cpp's defaults where the file does not say
        ("spm", {"add_bos_token": None, "bos_token_id": None}, 1),
        ("llama-bpe", {"add_bos_token": None}, 1),
        ("gpt-2", {"add_bos_token": None}, None),
        ("spm", {}, None),
        ("gpt-2", {"add_bos_token": True}, 1),
    ],
)
def test_bos_of_every_kind(kind, changes, bos_id, tmp_path):
    tokenizer = small(kind, **changes)
    tokenizer.save(tmp_path)
    bos = tokenizer.fast.id_to_token(1)
    for found in (tokenizer, Tokenizer.from_folder(tmp_path)):
        assert found.bos_id == bos_id
        assert found.encode("Hello") == ([] if bos_id is None else [1]) + small(kind).encode("Hello")
        assert found.encode(bos + "Hello") == [1, *small(kind).encode("Hello")]


def test_end_of_turn_ends_an_answer_too():
    assert small("spm", eot_token_id=260).stop_ids >= {2, 260}
    assert small("spm").stop_ids == {2, 260}  # </s>, and <|im_end|> by its name


def test_no_text_merges_into_a_control_token():
    """The blanks that SentencePiece writes as a letter of their own must not make one of what a user typed."""
    names = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "a\u2581", "a\u2581b", "\u2581b"]
    kinds = [2, 3, 3, 1, 1, 1, 1, 3, 1]
    metadata = {"model": "llama", "tokens": names, "token_type": kinds, "scores": [0.0] * 9, "add_space_prefix": False}
    tokenizer = Tokenizer.from_gguf({f"tokenizer.ggml.{key}": value for key, value in metadata.items()})
    assert 7 not in tokenizer.encode("a b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.pre": "tekken"}, r"'gpt2' with pre-tokenizer 'tekken' is not supported; known: llama; gpt2 with smollm, qwen2"),
        ({"tokenizer.ggml.pre": None}, "with pre-tokenizer None is not supported"),
        ({"tokenizer.ggml.model": "t5"}, "GGUF tokenizer 't5'"),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None}, "wants a BOS token and names none"),
    ],
)
def test_other_kinds_are_refused_by_name(smollm2_path, changes, message):
    with pytest.raises(ModelError, match=message):
        Tokenizer.from_gguf(GGUFFile(smollm2_path).metadata | changes)
