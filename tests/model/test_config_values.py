"""config.json: every value of a wrong kind is refused by name, keys without effect are ignored, and files that are no JSON are one line."""

import json
import math

import pytest
from tiny_models import tiny_config

from moe_lm.config import from_hf, to_hf
from moe_lm.errors import ModelError, Unsupported
from moe_lm.families import FAMILIES
from moe_lm.families.base import DEFAULTS, KINDS, WITHOUT_EFFECT
from moe_lm.files import MAX_BYTES, MAX_VALUES, read_json

NO_KIND = ["2", "", [], [[1]], {}, 2.5, math.nan, math.inf, -math.inf, True, -1, 0, 10**400, 2**31]
# what a kind's words promise
ACCEPTED = {
    "an integer from 1": lambda value: False,
    "an integer from 0": lambda value: type(value) is int and value == 0,
    "a number above 0 and at most 1": lambda value: False,
    "a finite number of at least 1": lambda value: value in (2.5, 2**31) and value is not True,
    "true or false": lambda value: value is True,
    "an object": lambda value: value == {},
    "a token id": lambda value: type(value) is int or value == [],
}


def raw_config(family, **changes):
    return to_hf(tiny_config(family)) | changes


@pytest.mark.parametrize("family", FAMILIES)
def test_every_value_of_a_wrong_kind_is_refused_by_name(family):
    row = FAMILIES[family]
    kinds = {**KINDS, **(row.moe.kinds() if row.moe else {}), **row.kinds}
    assert kinds.keys() > {"hidden_size", "eos_token_id", "rope_theta"}
    refused = 0
    for key, kind in kinds.items():
        accepts = next((accepts for words, accepts in ACCEPTED.items() if kind.words.startswith(words)), None)
        for value in NO_KIND:
            if kind.holds(value):
                assert accepts is None or accepts(value), (key, value)
                continue
            with pytest.raises(ModelError) as caught:
                from_hf(raw_config(family, **{key: value}))
            message = str(caught.value)
            assert key in message, (key, value, message)
            assert "\n" not in message
            assert len(message) < 300
            refused += 1
    assert refused > 10 * len(kinds) - 20


@pytest.mark.parametrize("family", FAMILIES)
def test_null_is_taken_where_it_means_the_default_and_nowhere_else(family):
    defaults = {**DEFAULTS, **FAMILIES[family].defaults}
    for key in KINDS:
        if defaults.get(key, 0) is None or key in ("num_key_value_heads", "rope_theta", "rope_scaling", "rope_parameters"):
            from_hf(raw_config(family, **{key: None}))
        else:
            with pytest.raises(ModelError, match=key):
                from_hf(raw_config(family, **{key: None}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": ["llama"]}, "llama"),
        ({"model_type": None}, "None"),
        ({"rope_parameters": {"rope_theta": "1e4"}}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": math.nan}}, "rope_theta"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": None}, "not a multiple of num_attention_heads 5"),
        ({"head_dim": 7}, "head_dim"),
        ({"num_hidden_layers": 100_000}, "num_hidden_layers"),
        ({"hidden_act": "x" * 5000}, "hidden_act"),
        ({"an_option": "x" * 5000}, "an_option"),
        ({"an_option" * 500: 1}, "an_optionan"),
        ({"quantization_config": {"quant_method": "awq", "modules": ["x"] * 5000}}, "quantization_config"),
    ],
)
def test_other_values_that_no_model_has(changes, words):
    with pytest.raises(ModelError, match=words) as caught:
        from_hf(raw_config("llama", **changes))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_without_effect_are_ignored_and_unknown_ones_are_not(family):
    expected = from_hf(raw_config(family))
    known = dict.fromkeys(WITHOUT_EFFECT - {"model_type", *KINDS}, "something")
    assert {"unsloth_version", "_attn_implementation_autoset", "max_sequence_length"} <= known.keys()
    assert from_hf(raw_config(family) | known) == expected
    assert from_hf(raw_config(family, unknown=None, another=False, third=0)) == expected
    for value in (1, "x", [0], {"a": 1}, True):
        with pytest.raises(Unsupported, match="unknown"):
            from_hf(raw_config(family, unknown=value))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_writes_of_every_model_is_known(family):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install evalkit-lm[dev]")
    if family not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers has no configuration class for {family}")
    written = transformers.CONFIG_MAPPING[family](**raw_config(family)).to_dict()
    assert from_hf(written) == from_hf(raw_config(family))


NESTED = 100_000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"a":', "not readable as JSON"),
        (b'{"a": "\xff"}', "not readable as JSON"),
        (b"[]", "does not hold a JSON object"),
        (b"5", "does not hold a JSON object"),
        (b'"text"', "does not hold a JSON object"),
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' twice"),
        (b'{"b": {"a": 1, "a": 2}}', "the key 'a' twice"),
        (b'{"a": "\\ud83d"}', "surrogates not allowed"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": ' + b"[" * NESTED + b"]" * NESTED + b"}", "nested too deeply"),
        (b'{"a": [' + b"0," * MAX_VALUES + b"0]}", "JSON values"),
        (b'{"a": "' + b"x" * MAX_BYTES + b'"}', "larger than the 16 MiB"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[:12]!r}",
)
def test_files_that_are_no_json_object(tmp_path, content, words):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_json(path)
    message = str(caught.value)
    assert words in message
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "ü \U0001f600"}).encode())
    assert read_json(tmp_path / "config.json") == {"a": "ü \U0001f600"}


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelError, match="cannot read"):
            read_json(path)
