"""Hub ids against a loopback hub: which files are asked for, of which commit, and that a model which is refused costs no weights."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import TOKEN, Hub, point_at, serving
from safetensors.torch import load_file, save_file

from evalkit.cli import main
from evalkit.config import ModelSpec
from evalkit.data.hub_files import commit_of
from evalkit.errors import EvalkitError
from evalkit.lm.hub import HubId
from evalkit.lm.models import find
from evalkit.lm.native import NativeLM
from evalkit.tasks import Loglikelihood

REPO = "example/tiny"
SETTINGS = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def repo(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model, and what else Mistral, llama.cpp and optimum put in a repository."""
    folder = tmp_path / "repo"
    shutil.copytree(tiny_model, folder)
    for name in ("consolidated.safetensors", "pytorch_model.bin", "onnx/model.onnx", "tiny.Q8_0.gguf", "original/params.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("never read")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with serving() as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        yield hub


def shard(repo: Path) -> None:
    tensors = load_file(repo / "model.safetensors")
    (repo / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, repo / file)
    (repo / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    save_file({"stale": torch.zeros(1)}, repo / "model-00001-of-00003.safetensors")


def edit_config(repo: Path, **changes: object) -> None:
    raw = json.loads((repo / "config.json").read_text()) | changes
    (repo / "config.json").write_text(json.dumps(raw))


def scores(spec: str) -> list[object]:
    return list(NativeLM.open(ModelSpec(spec, kernel="reference")).loglikelihood([Loglikelihood("hello", (" a", " b"))]))


def fetched(hub: Hub) -> list[str]:
    """The files that were downloaded, in order."""
    return [request.path.split("/", 5)[5] for request in hub.asked("GET", "/resolve/")]


def test_the_server_speaks_the_librarys_protocol(hub: Hub, repo: Path) -> None:
    """The library's own download, its listing and its metadata: what the other tests rest on."""
    hub.add(REPO, repo)
    tagged = hub.push(REPO, {"config.json": b"{}", "a/b.bin": b"x" * 20_000}, "v1")
    folder = Path(huggingface_hub.snapshot_download(REPO))
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(
        hub.repos[REPO].commits[folder.name]
    )
    assert all((folder / name).read_bytes() == content for name, content in hub.repos[REPO].commits[folder.name].items())
    assert huggingface_hub.HfApi().repo_info(REPO, revision="v1").sha == tagged
    assert [entry.path for entry in huggingface_hub.HfApi().list_repo_tree(REPO, revision="v1", recursive=True)] == [
        "a/b.bin",
        "config.json",
    ]
    assert Path(huggingface_hub.hf_hub_download(REPO, "a/b.bin", revision="v1")).read_bytes() == b"x" * 20_000
    with pytest.raises(huggingface_hub.errors.RevisionNotFoundError):
        huggingface_hub.hf_hub_download(REPO, "config.json", revision="v2")
    with pytest.raises(huggingface_hub.errors.EntryNotFoundError):
        huggingface_hub.hf_hub_download(REPO, "none.json")
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        huggingface_hub.hf_hub_download("example/none", "config.json")


def test_one_file(hub: Hub, repo: Path, tiny_model: Path) -> None:
    hub.add(REPO, repo)
    assert scores(REPO) == scores(str(tiny_model))
    assert fetched(hub)[0] == "config.json"
    assert fetched(hub)[-1] == "model.safetensors"  # the weights last: an offline run that has them has all settings
    assert set(fetched(hub)) == SETTINGS | {"model.safetensors"}
    assert len(fetched(hub)) == 5  # each once


def test_the_commit_and_the_precision_are_recorded(hub: Hub, repo: Path, tiny_model: Path) -> None:
    """Of a folder that is not the hub's, no commit."""
    hub.add(REPO, repo)
    found, local = (NativeLM.open(ModelSpec(spec, kernel="reference")).describe()["weights"] for spec in (REPO, str(tiny_model)))
    assert found == {"precision": "float32", "bits": 32.0, "sha256": local["sha256"], "revision": hub.repos[REPO].refs["main"]}
    assert "revision" not in local


def test_shards_are_those_of_the_index(hub: Hub, repo: Path, tiny_model: Path) -> None:
    shard(repo)
    hub.add(REPO, {"config.json": b"{}"})
    hub.push(REPO, repo, "refs/pr/1")
    assert scores(f"{REPO}@refs/pr/1") == scores(str(tiny_model))
    shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert set(fetched(hub)) == SETTINGS | {"model.safetensors.index.json"} | shards


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mamba"}, ("model_type 'mamba' is not supported", "--engine lm_eval:hf")),
        ({"mlp_bias": True}, ("mlp_bias", "--engine lm_eval:hf")),
        ({"hidden_size": "32"}, ("hidden_size",)),
    ],
)
def test_a_model_that_is_refused_costs_no_weights(
    hub: Hub, repo: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], words: tuple[str, ...]
) -> None:
    shard(repo)
    edit_config(repo, **changes)
    hub.add(REPO, repo)
    assert main(["generate", "--model", REPO, "--prompt", "hello"]) == 2
    line = capsys.readouterr().err
    assert all(word in line for word in words), line
    assert line.count("\n") == 1
    assert fetched(hub) == ["config.json"]


def test_an_index_that_is_damaged_costs_no_weights(hub: Hub, repo: Path) -> None:
    shard(repo)
    (repo / "model.safetensors.index.json").write_text("{}")
    hub.add(REPO, repo)
    with pytest.raises(EvalkitError, match="weight_map"):
        NativeLM.open(ModelSpec(REPO))
    assert fetched(hub) == ["config.json", "model.safetensors.index.json"]


def test_an_index_that_names_a_file_which_is_not_there(hub: Hub, repo: Path) -> None:
    shard(repo)
    (repo / "model-00002-of-00002.safetensors").unlink()
    hub.add(REPO, repo)
    with pytest.raises(EvalkitError, match=r"model-00002-of-00002\.safetensors"):
        NativeLM.open(ModelSpec(REPO))
    assert fetched(hub) == ["config.json", "model.safetensors.index.json"]


def test_a_gguf_file_by_its_name(hub: Hub, repo: Path) -> None:
    for i in (1, 2, 3):
        (repo / "q4").mkdir(exist_ok=True)
        (repo / "q4" / f"tiny-0000{i}-of-00003.gguf").write_text(f"part {i}")
    hub.add(REPO, repo)
    found = find(f"{REPO}:tiny.Q8_0.gguf")
    assert found.path.read_text() == "never read"
    assert commit_of(found.path) == hub.repos[REPO].refs["main"]
    assert fetched(hub) == ["tiny.Q8_0.gguf"]
    found = find(f"{REPO}@main:q4/tiny-00002-of-00003.gguf")
    assert found.path.read_text() == "part 2"
    assert [(found.path.parent / f"tiny-0000{i}-of-00003.gguf").read_text() for i in (1, 2, 3)] == ["part 1", "part 2", "part 3"]
    with pytest.raises(EvalkitError, match=r"tiny-00004-of-00003\.gguf is not one of 3 parts"):
        find(f"{REPO}:q4/tiny-00004-of-00003.gguf")
    with pytest.raises(EvalkitError, match=r"has no file tiny\.q8\.gguf; --model example/tiny:tiny\.Q8_0\.gguf names a GGUF file of it"):
        find(f"{REPO}:tiny.q8.gguf")


def test_a_repository_of_gguf_files_alone(hub: Hub, repo: Path) -> None:
    (repo / "config.json").unlink()
    hub.add(REPO, repo)
    hub.add("example/other", {"README.md": b"Nothing here."})
    with pytest.raises(EvalkitError, match=r"no config\.json; --model example/tiny:tiny\.Q8_0\.gguf"):
        find(REPO)
    with pytest.raises(EvalkitError, match=r"no config\.json; and no GGUF file"):
        find("example/other")
    assert fetched(hub) == []


def test_transformers_gets_all_settings_of_any_model(hub: Hub, repo: Path) -> None:
    edit_config(repo, model_type="mamba")
    (repo / "tokenizer.model").write_text("pieces")
    hub.add(REPO, repo)
    assert find(REPO, for_transformers=True).path.name == hub.repos[REPO].refs["main"]
    assert {"config.json", "model.safetensors", "tokenizer.model"} <= set(fetched(hub))
    assert not {"consolidated.safetensors", "pytorch_model.bin", "tiny.Q8_0.gguf"} & set(fetched(hub))


def test_a_revision_that_moves(hub: Hub, repo: Path, tmp_path: Path) -> None:
    """Each load is of the commit that the branch names then, whole; the earlier one is still to be had by its id, without the hub."""
    hub.add(REPO, repo)
    first = hub.repos[REPO].refs["main"]
    before, again = NativeLM.open(ModelSpec(REPO)), NativeLM.open(ModelSpec(REPO))
    edit_config(repo, rms_norm_eps=1e-5)
    second = hub.push(REPO, repo)
    after = NativeLM.open(ModelSpec(REPO))
    assert (before.revision, again.revision, after.revision) == (first, first, second)
    assert before.fingerprint == again.fingerprint != after.fingerprint
    assert fetched(hub).count("model.safetensors") == 1  # the same content is not fetched again
    pinned = NativeLM.open(ModelSpec(f"{REPO}@{first}"))
    assert (pinned.revision, pinned.fingerprint) == (first, before.fingerprint)


def test_what_is_in_the_cache_needs_no_hub(
    hub: Hub, repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(REPO, repo, gated=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    before = NativeLM.open(ModelSpec(REPO))
    gguf = find(f"{REPO}:tiny.Q8_0.gguf").path
    monkeypatch.delenv("HF_TOKEN")  # gone with the CI job's secret: the line says what is used
    assert NativeLM.open(ModelSpec(REPO)).fingerprint == before.fingerprint
    assert f"gated; ask for access at {hub.url}/{REPO}" in (said := capsys.readouterr().err)
    assert f"the copy in the cache is used, of commit {before.revision[:12]}" in said
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert NativeLM.open(ModelSpec(REPO)).fingerprint == before.fingerprint
    assert find(f"{REPO}:tiny.Q8_0.gguf").path == gguf
    assert commit_of(find(REPO, for_transformers=True).path) == before.revision
    assert (capsys.readouterr().err, hub.requests) == ("", [])  # asked for: nothing to say
    for spec in ("example/absent", f"{REPO}@v2", f"{REPO}:other.gguf"):
        with pytest.raises(EvalkitError, match=r"HF_HUB_OFFLINE is set, and .* is not in the cache"):
            find(spec)


def test_what_is_there_in_part_is_not_used_offline(hub: Hub, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, repo)
    folder = Path(huggingface_hub.snapshot_download(REPO))  # by another program, which lists what there is
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find(REPO).path == folder
    (folder / "generation_config.json").unlink()
    with pytest.raises(EvalkitError, match="the cache has only a part of its files"):
        find(REPO)


@pytest.mark.parametrize("name", ["../../../../evil.safetensors", "a/../../../../../evil.safetensors"])
def test_a_name_that_leads_out_of_the_cache(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.add("example/evil", {"config.json": b"{}", name: b"evil"})
    with pytest.raises(EvalkitError, match="evil"):
        find("example/evil", for_transformers=True)
    assert not list(tmp_path.rglob("evil.safetensors"))


def test_a_setting_that_cannot_be_read(tmp_path: Path) -> None:
    """In a process of its own: the library reads its environment once."""
    code = (
        "from evalkit.data.hub_files import HubError, Repository\ntry:\n    Repository('a/b')\nexcept HubError as error:\n    print(error)"
    )
    environment = os.environ | {"HF_HUB_ETAG_TIMEOUT": "soon", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "an HF_* environment variable can't be read (invalid literal" in done.stdout


def test_a_path_names_no_hub_id(hub: Hub) -> None:
    for spec in ("./model.gguf", "folder/model.gguf", "/tmp/none/here"):
        with pytest.raises(EvalkitError, match="no such file or folder"):
            find(spec)
    assert not hub.requests


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("org/repo", HubId("org/repo", None, None)),
        ("org/repo@v1.0", HubId("org/repo", "v1.0", None)),
        ("org/repo@refs/pr/1:a/b-Q4.gguf", HubId("org/repo", "refs/pr/1", "a/b-Q4.gguf")),
        ("org/repo:b.gguf", HubId("org/repo", None, "b.gguf")),
        ("org/repo:b.bin", None),
        ("org", None),
        ("a/b/c", None),
        ("a b/c", None),
    ],
)
def test_the_form_of_a_hub_id(spec: str, expected: HubId | None) -> None:
    assert HubId.parse(spec) == expected
    assert expected is None or str(expected) == spec
