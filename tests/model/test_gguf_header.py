"""Headers of GGUF files that are damaged, hostile or of another kind: one line that says what is wrong, without much memory."""

import re
import struct
import tracemalloc

import gguf
import numpy as np
import pytest
from gguf_files import add_key, gguf_tensors, write
from refusals import refused
from tiny_models import tiny_config, tiny_decoder

from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.errors import ModelError

UINT8, UINT32, BOOL, STRING, ARRAY = 0, 4, 7, 8, 9


def text(value):
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def uint32(key, value):
    return text(key) + struct.pack("<II", UINT32, value)


def tensor(name, shape=(32,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf_bytes(keys=(), tensors=(), data=1024, version=3):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def refusal(path, raw):
    path.write_bytes(raw)
    return refused(path, path.name, by=GGUFFile)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html>" + bytes(99), r"begins with b'<!DO'"),
        (gguf_bytes(version=1), "version 1, expected 2 or 3"),
        (gguf_bytes(version=0x03000000), "big-endian; convert it"),
        (gguf_bytes([uint32("a", 1), uint32("a", 2)]), "the key a twice"),
        (gguf_bytes([text("a") + struct.pack("<I", 13)]), "key a has unknown type 13"),
        (gguf_bytes([text("a") + struct.pack("<IB", BOOL, 2)]), "key a is a bool of value 2"),
        (gguf_bytes([text("a") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQ", UINT8, 0)]), "key a is a list of lists"),
        (gguf_bytes([text("a") + struct.pack("<IIQ", ARRAY, UINT32, 2**61)]), "ends, after"),
        (gguf_bytes([text("a") + struct.pack("<IIQ", ARRAY, STRING, 2**63)]), "key a is a list of 9,223,372,036,854,775,808 texts"),
        (gguf_bytes([text("a") + struct.pack("<IIQ", ARRAY, STRING, 2**20)]), "ends, after"),
        (gguf_bytes([text("a") + struct.pack("<IQ", STRING, 2**64 - 1)]), "ends, after"),
        (gguf_bytes([text("a") + struct.pack("<I", STRING) + text(b"\xff")]), "key a is not UTF-8"),
        (gguf_bytes([uint32("a\nb", 1)]), r"names a key b'a\\nb'"),
        (gguf_bytes([uint32("", 1)]), "names a key b''"),
        (gguf_bytes([uint32("a" * 70_000, 1)]), "70,000 bytes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40) + bytes(99), "1,099,511,627,776 keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0) + bytes(99), "1,099,511,627,776 tensors"),
        *((gguf_bytes([uint32("general.alignment", wrong)]), f"general.alignment is {wrong}") for wrong in (0, 3, 48)),
        (gguf_bytes([text("general.alignment") + struct.pack("<I", STRING) + text("32")]), "general.alignment is '32'"),
        (gguf_bytes(tensors=[tensor("t", kind=42)]), "tensor t has unknown type 42"),
        (gguf_bytes(tensors=[tensor("t", (1,) * 5)]), "tensor t has 5 dimensions"),
        (gguf_bytes(tensors=[tensor("t", (31,), kind=8)]), "rows of 31, no multiple of the 32 that type Q8_0"),
        (gguf_bytes(tensors=[tensor("t", offset=4)]), "tensor t lies at byte 4"),
        (gguf_bytes(tensors=[tensor("t", (2**32, 2**32))]), "truncated or damaged: 1,1"),
        (gguf_bytes(tensors=[tensor("t", offset=2**64 - 32)]), "truncated or damaged"),
        (gguf_bytes(tensors=[tensor("t"), tensor("t", offset=128)]), "the tensor t twice"),
        (gguf_bytes(tensors=[tensor("t"), tensor("u", offset=96)]), "tensors t and u overlap"),
        (gguf_bytes(tensors=[tensor("t", (64,)), tensor("u", offset=32)]), "tensors t and u overlap"),
        (gguf_bytes(tensors=[tensor("t", kind=26)]), "tensor t has type I32, which the gguf library can't dequantise"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, raw, words):
    assert re.search(words, refusal(tmp_path / "m.gguf", raw)), refusal(tmp_path / "m.gguf", raw)


def test_a_file_without_faults(tmp_path):
    """What the broken ones above are made of."""
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes([uint32("a", 7), uint32("general.alignment", 64)], [tensor("t"), tensor("u", (8, 4), offset=128)]))
    file = GGUFFile(path)
    assert (file.metadata["a"], file.shape("u"), file.paths) == (7, (4, 8), [path])
    assert file.tensors["t"].offset % 64 == 0
    assert file.tensors["u"].offset - file.tensors["t"].offset == 128


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(ModelError, match="folder"):
        GGUFFile(tmp_path / "folder.gguf")
    with pytest.raises(ModelError, match=r"absent\.gguf"):
        open_checkpoint(tmp_path / "absent.gguf")


def test_values_are_those_of_the_gguf_library(tmp_path):
    """Every type of value, alone and in lists, beside the library's own reader."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    numbers = {"uint8": 200, "int8": -5, "uint16": 60_000, "int16": -7, "uint32": 4_000_000_000, "int32": -9, "uint64": 2**63}
    for kind, value in (numbers | {"int64": -(2**62), "float32": 0.5, "float64": 1e300, "bool": True, "string": "é x"}).items():
        getattr(writer, f"add_{kind}")(kind, value)
    for key, values in {"ints": [1, -2], "floats": [0.5, -1.5], "bools": [True, False], "texts": ["", "é", "abc"]}.items():
        add_key(writer, key, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = GGUFFile(tmp_path / "m.gguf").metadata
    for key, field in gguf.GGUFReader(tmp_path / "m.gguf").fields.items():
        if not key.startswith("GGUF."):
            expected, ours = field.contents(), found[key]
            assert (list(ours) if isinstance(expected, list) else ours) == expected, key


@pytest.mark.parametrize("kind", ["numbers", "texts", "description"])
def test_memory_is_bounded_by_the_file(tmp_path, kind):
    """A megabyte of metadata takes at most twice as much, whatever it holds."""
    size = 1 << 20
    value = {
        "numbers": struct.pack("<IIQ", ARRAY, UINT8, size) + bytes(size),
        "texts": struct.pack("<IIQ", ARRAY, STRING, size // 10) + text("ab") * (size // 10),
        "description": struct.pack("<I", STRING) + text(b"x" * size),
    }[kind]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes([text("general.description") + value]))
    tracemalloc.start()
    try:
        found = GGUFFile(path).metadata["general.description"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == (size // 10 if kind == "texts" else size)
    assert peak < 2.1 * path.stat().st_size


def test_a_text_that_no_model_has(tmp_path):
    raw = gguf_bytes([text("general.description") + struct.pack("<I", STRING) + text(b"x" * (17 << 20))])
    assert "a text of 17,825,792 bytes" in refusal(tmp_path / "m.gguf", raw)


def split(path, model, count, **changed):
    """The model in `count` files, as gguf-split writes them: the metadata in the first; `changed` is {part: {key: value}}."""
    tensors = gguf_tensors(model)
    names, paths = list(tensors), [path / f"tiny-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    for i, part in enumerate(paths):
        keys = {"split.no": i, "split.count": count, "split.tensors.count": len(names)} | changed.get(f"part{i}", {})
        mine = {name: tensors[name] for name in names[i * len(names) // count : (i + 1) * len(names) // count]}
        write(part, model.config, mine, keys=keys, first=i == 0)
    return paths


@pytest.fixture(scope="module")
def model():
    return tiny_decoder(tiny_config("llama", vocab_size=260))


def test_split_files_are_one_checkpoint(tmp_path, model):
    paths = split(tmp_path, model, 3)
    whole = write(tmp_path / "whole.gguf", model.config, gguf_tensors(model))
    parts, one = GGUFFile(paths[0]), GGUFFile(whole)
    assert (parts.paths, parts.tensors.keys()) == (paths, one.tensors.keys())
    for name in one.tensors:
        assert np.array_equal(*(np.concatenate(list(file.chunks(name))) for file in (parts, one)))
    checkpoint = open_checkpoint(paths[0])
    assert checkpoint.config == open_checkpoint(whole).config
    changed = bytearray(paths[2].read_bytes())
    changed[-1] ^= 1
    paths[2].write_bytes(changed)
    assert open_checkpoint(paths[0]).sha256 != checkpoint.sha256
    with pytest.raises(ModelError, match="changed after it was opened"):
        checkpoint.read(None, "cpu", None)


def test_a_folder_with_one_gguf_model(tmp_path, model):
    paths = split(tmp_path, model, 3)
    assert open_checkpoint(tmp_path).sha256 == open_checkpoint(paths[0]).sha256
    (tmp_path / "other.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"several GGUF files \(other\.gguf, tiny-00001-of-00003\.gguf\); give one"):
        open_checkpoint(tmp_path)


def test_a_later_part_names_the_first(tmp_path, model):
    paths = split(tmp_path, model, 2)
    with pytest.raises(ModelError, match=r"00002-of-00002\.gguf is not the first of 2 parts; give tiny-00001-of-00002\.gguf"):
        open_checkpoint(paths[1])


def test_a_missing_part(tmp_path, model):
    paths = split(tmp_path, model, 3)
    paths[1].unlink()
    with pytest.raises(ModelError, match=r"of which tiny-00002-of-00003\.gguf is missing"):
        open_checkpoint(paths[0])


def test_a_renamed_part(tmp_path, model):
    paths = split(tmp_path, model, 2)
    other = paths[0].rename(tmp_path / "model.gguf")
    with pytest.raises(ModelError, match="one of 2 parts, which its name must say"):
        open_checkpoint(other)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"part1": {"split.count": 3}}, "split.count = 3"),
        ({"part1": {"split.no": 0}}, "split.no = 0"),
        ({"part1": {"split.tensors.count": 7}}, "split.tensors.count = 7"),
        ({"part1": {"general.name": "another"}}, "general.name = 'another'"),
        ({"part0": {"split.tensors.count": 7}, "part1": {"split.tensors.count": 7}}, "split.tensors.count says 7"),
        ({"part0": {"split.count": "two"}}, "split.count is 'two'"),
        ({"part0": {"split.count": 10**6}}, "split.count is 1000000"),
    ],
)
def test_parts_that_do_not_belong_together(tmp_path, model, changed, words):
    paths = split(tmp_path, model, 2, **changed)
    with pytest.raises(ModelError) as caught:
        open_checkpoint(paths[0])
    assert words in str(caught.value)


def test_a_tensor_in_two_parts(tmp_path, model):
    paths = split(tmp_path, model, 2)
    tensors = gguf_tensors(model)
    keys = {"split.no": 1, "split.count": 2, "split.tensors.count": len(tensors)}
    write(paths[1], model.config, tensors, keys=keys, first=False)
    with pytest.raises(ModelError, match=r"holds tensor .*, as another part does"):
        open_checkpoint(paths[0])
