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
from moe_lm.tokenizer.pre_types import PRE_TYPES
from moe_lm.tokenizer.tokenizer import Tokenizer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizer_corpus.json").read_text("utf-8"))
CASES = {case["name"]: case for case in GOLDEN["cases"]}
KINDS = json.loads((Path(__file__).parents[1] / "golden" / "gguf_tokenizers.json").read_text("utf-8"))
ADAPTED = ("tekken", "gpt-4o")
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
    metadata = ({"pre": kind} if vocabulary["model"] == "gpt2" else {}) | metadata
    outside = {"architecture": "general.architecture", "chat_template": "tokenizer.chat_template"}
    return Tokenizer.from_gguf({outside.get(k, f"tokenizer.ggml.{k}"): value for k, value in metadata.items() if value is not None})


@pytest.mark.parametrize("kind", KINDS["ids"])
def test_every_kind_gives_llama_cpps_ids(kind):
    tokenizer = small(kind)
    for text, ids in zip(TEXTS, KINDS["ids"][kind], strict=True):
        if kind in ADAPTED and not text.isascii():  # llama.cpp's own patterns tell upper and lower case apart for A to Z alone
            continue
        if kind == "qwen2" and text != unicodedata.normalize("NFC", text):  # which llama.cpp leaves out
            continue
        assert tokenizer.encode(text) == ids, text
        # special tokens are not decoded, and where blanks are one, the text after it gets the prefix once more
        if "<|" not in text and not (kind == "spm" and "   " in text):
            assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", ADAPTED)
def test_words_end_where_lower_case_turns_into_upper_case(kind):
    """tiktoken's rule, in any alphabet; the marks of a letter stay with it."""
    text = "camelCase \u0434\u043e\u043c\u0414\u043e\u043c \u0939\u093f\u0928\u094d\u0926\u0940 12345"
    words = [text[begin:end] for _, (begin, end) in PRE_TYPES[kind].words().pre_tokenize_str(text)]
    digits = [*"12345"] if kind == "tekken" else ["123", "45"]
    hindi = " \u0939\u093f\u0928\u094d\u0926\u0940"
    assert words == ["camel", "Case", " \u0434\u043e\u043c", "\u0414\u043e\u043c", hindi, " ", *digits]


@pytest.mark.parametrize(("kind", "cut"), [("qwen2", ["();\n\n"]), ("seed-coder", ["();", "\n\n"])])
def test_newlines_after_punctuation(kind, cut):
    text = "a();\n\nb"
    words = [text[begin:end] for _, (begin, end) in PRE_TYPES[kind].words().pre_tokenize_str(text)]
    assert words == ["a", *cut, "b"]


def test_the_golden_ids_tell_the_kinds_apart():
    """A pre-tokenizer in the place of another would not pass. (The words of the adapted ones have a test above.)"""
    kinds = [kind for kind in KINDS["ids"] if kind not in ADAPTED]
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
        ("llama-bpe", {"add_bos_token": None, "bos_token_id": None}, None),  # no token of that name in this vocabulary
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


@pytest.mark.parametrize(
    ("alias", "kind"),
    [("deepseek-r1-qwen", "qwen2"), ("llama3", "llama-bpe"), ("llama-v3", "llama-bpe"), ("falcon3", "llama-bpe"), ("smaug-bpe", "dbrx")],
)
def test_names_for_one_kind(alias, kind):
    for text in TEXTS:
        assert small(kind, pre=alias).encode(text) == small(kind).encode(text)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen2moe"])
@pytest.mark.parametrize("absent", [None, ""])
def test_early_files_name_no_pre_tokenizer(architecture, absent):
    """Qwen's have one kind of tokenizer; of another's it would be a guess."""
    for text in TEXTS:
        assert small("qwen2", pre=absent, architecture=architecture).encode(text) == small("qwen2").encode(text)
    with pytest.raises(ModelError, match=r"names no pre-tokenizer .*convert the model again"):
        small("qwen2", pre=absent, architecture="llama")


def test_end_of_turn_ends_an_answer_too():
    assert small("spm", eot_token_id=260).stop_ids >= {2, 260}
    assert small("spm").stop_ids == {2, 260}  # </s>, and <|im_end|> by its name
    assert small("spm", eom_token_id=270, eos_token_ids=[271, 2]).stop_ids == {2, 260, 270, 271}
    assert small("spm", eos_token_id=2**32 - 1, eot_token_id=-1).stop_ids == {2, 260}  # none, in the words of some files


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("spm", {"tokens": []}, "tokens is empty"),
        ("spm", {"tokens": "abc"}, "tokens is 'abc', expected a list"),
        ("spm", {"tokens": None}, "has no tokenizer.ggml.tokens"),
        ("spm", {"token_type": [1, 2]}, "token_type has 2 entries for"),
        ("spm", {"scores": None}, "has no tokenizer.ggml.scores"),
        ("spm", {"scores": 7}, "scores is 7, expected a list"),
        ("spm", {"eos_token_id": 10**6}, "eos_token_id is 1000000, expected a token id below"),
        ("spm", {"eos_token_id": "2"}, "eos_token_id is '2', expected a token id"),
        ("spm", {"eot_token_id": 2.0}, "eot_token_id is 2.0, expected a token id"),
        ("spm", {"unknown_token_id": 10**6}, "unknown_token_id is 1000000"),
        ("spm", {"eos_token_ids": [2, "x"]}, "eos_token_ids is 'x'"),
        ("spm", {"add_bos_token": 1}, "add_bos_token is 1, expected true or false"),
        ("spm", {"add_space_prefix": "no"}, "add_space_prefix is 'no', expected true or false"),
        ("gpt-2", {"merges": None}, "has no tokenizer.ggml.merges"),
        ("gpt-2", {"merges": ["ab"]}, "merges has 'ab', which is not two tokens"),
        ("gpt-2", {"merges": ["a no"]}, "merges has 'a no', which is not two tokens"),
        ("gpt-2", {"merges": ["a b"] * 10**5}, "merges has 100,000 entries"),
        ("gpt-2", {"chat_template": 5}, "chat_template is 5, expected a text"),
    ],
)
def test_wrong_metadata_is_named(kind, changes, words):
    with pytest.raises(ModelError) as caught:
        small(kind, **changes)
    assert words in str(caught.value)


def test_values_of_single_tokens():
    vocabulary = KINDS["vocabularies"]["llama"]
    tokens, kinds, scores = (list(vocabulary[name]) for name in ("tokens", "token_type", "scores"))
    for changes, words in (
        ({"tokens": [*tokens[:-1], "</s>"]}, "has '</s>' twice, as 2 and"),
        ({"tokens": [*tokens[:-1], 5]}, "tokens holds 5, which is of another type"),
        ({"token_type": [*kinds[:-1], 9]}, "token_type holds 9, expected 0 to 6"),
        ({"scores": [*scores[:-1], float("nan")]}, "scores holds nan"),
    ):
        with pytest.raises(ModelError) as caught:
            small("spm", **changes)
        assert words in str(caught.value)
    unnamed = small("spm", tokens=[*tokens[:-2], "", ""])
    assert unnamed.encode("Hello") == small("spm").encode("Hello")


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
        ({"tokenizer.ggml.pre": "kimi-k2"}, r"pre-tokenizer 'kimi-k2' is not supported; known: smollm, starcoder"),
        ({"tokenizer.ggml.pre": ["qwen2"]}, r"pre-tokenizer \['qwen2'\] is not supported"),
        ({"tokenizer.ggml.model": "t5"}, "GGUF tokenizer 't5'"),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None}, "wants a BOS token and names none"),
    ],
)
def test_other_kinds_are_refused_by_name(smollm2_path, changes, message):
    with pytest.raises(ModelError, match=message):
        Tokenizer.from_gguf(GGUFFile(smollm2_path).metadata | changes)
