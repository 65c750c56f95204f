"""What `evalkit quantize` does around moe_lm's writers: finds the source, refuses in one line, says what it made."""

import json
import os
import resource
import shutil
from pathlib import Path

import pytest

import moe_lm
from evalkit import cli
from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.lm.native import NativeLM
from evalkit.lm.quantize import FORMATS, quantize
from evalkit.tasks import Loglikelihood
from moe_lm.quant.file_types import FILE_TYPES

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_formats_are_those_of_the_model_package() -> None:
    assert [name.removeprefix("gguf:") for name in FORMATS if name.startswith("gguf:")] == list(FILE_TYPES)


def test_a_file_that_gives_the_same_answers(tiny_model: Path, tmp_path: Path) -> None:
    summary = quantize(str(tiny_model), tmp_path / "m.gguf", "gguf:f32")
    assert summary.startswith(f"wrote {tmp_path / 'm.gguf'}: ")
    requests = [Loglikelihood("the cat", (" sat", " on a mat")), Loglikelihood("", ("x",))]
    ours, theirs = (dict(NativeLM.load(ModelSpec(str(path))).loglikelihood(requests)) for path in (tiny_model, tmp_path / "m.gguf"))
    assert ours == theirs


def test_a_named_file_and_a_file_again(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "new" / "folder" / "first.gguf", tmp_path / "second.gguf"
    assert cli.main(["quantize", str(tiny_model), str(first), "--format", "gguf:q8_0", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "Q8_0" in out
    assert f"{first.stat().st_size / 1e6:,.1f} MB" in out
    assert cli.main(["quantize", str(first), str(second), "--format", "gguf:q8_0", "--quiet"]) == 0
    assert first.read_bytes() == second.read_bytes()


def _small(folder: Path) -> Path:
    raw = json.loads((Path(moe_lm.__file__).parent / "configs" / "qwen1.5-7b.json").read_text("utf-8"))
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    (folder / "config.json").write_text(json.dumps(raw | sizes | {"vocab_size": 300}))
    return folder / "config.json"


def test_a_folder_of_int4(tmp_path: Path) -> None:
    _small(tmp_path)
    summary = quantize(f"random:{tmp_path / 'config.json'}", tmp_path / "int4", "gptq-int4")
    assert "(int4 " in summary
    assert summary.count("without calibration data") == 1
    assert NativeLM.load(ModelSpec(str(tmp_path / "int4"))).describe()["weights"]["precision"] == "GPTQ-Int4"
    assert "not an empty folder" in refused(f"random:{tmp_path / 'config.json'}", tmp_path / "int4", "gptq-int4")


def test_a_folder_may_be_a_link_but_not_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, link = tmp_path / "empty", tmp_path / "link"
    empty.mkdir()
    link.symlink_to(empty)
    monkeypatch.chdir(empty)
    for name in (".", "", "../link"):
        assert "is the current folder" in refused(f"random:{_small(tmp_path)}", Path(name), "gptq-int4")
    monkeypatch.chdir(tmp_path)
    quantize(f"random:{_small(tmp_path)}", link, "gptq-int4")
    assert link.is_symlink()
    assert (empty / "config.json").exists()


def test_why_a_file_could_not_be_written_is_said(tiny_model: Path, tmp_path: Path) -> None:
    """In the middle of a tensor: the largest size of a file stands for a full disk here, whose error goes the same way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    quantize(str(tiny_model), tmp_path / "whole.gguf", "gguf:f32")
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "whole.gguf").stat().st_size // 2, limits[1]))
    try:
        assert "m.gguf: File too large" in refused(tiny_model, tmp_path / "m.gguf", "gguf:f32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["whole.gguf"]


def refused(source: object, dest: Path, format: str = "gguf:q8_0", kind: type[EvalkitError] = EvalkitError) -> str:
    with pytest.raises(kind) as error:
        quantize(str(source), dest, format)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_refusals(tiny_model: Path, tmp_path: Path) -> None:
    dest = tmp_path / "m.gguf"
    assert "unknown model" in refused("nonsuch", dest)
    assert "SPEC is empty" in refused("", dest)
    assert "unknown format 'int4'; did you mean 'gptq-int4'?" in refused(tiny_model, dest, "int4")
    assert "must end with .gguf" in refused(tiny_model, tmp_path / "m.bin")
    assert "is the name of a GGUF file, and --format gptq-int4 writes a folder" in refused(tiny_model, dest, "gptq-int4")
    assert "upcycled when it is loaded" in refused("demo", dest)
    assert not os.listdir(tmp_path)


def test_never_writes_over_anything(tiny_model: Path, tmp_path: Path) -> None:
    dest = tmp_path / "m.gguf"
    dest.write_text("mine")
    assert "is there already" in refused(tiny_model, dest)
    dest.unlink()
    dest.symlink_to("gone")
    assert "is there already" in refused(tiny_model, dest)
    assert os.readlink(dest) == "gone"


def test_a_disk_that_is_too_small_is_said_first(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    assert "0.0 GB free" in refused(tiny_model, tmp_path / "m.gguf", kind=RunIncomplete)
    assert not os.listdir(tmp_path)


def test_ctrl_c_leaves_nothing(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moe_lm.checkpoint.write_gguf.encode", interrupt)
    assert cli.main(["quantize", str(tiny_model), str(tmp_path / "m.gguf"), "--format", "gguf:q8_0", "--quiet"]) == 4
    assert not os.listdir(tmp_path)
