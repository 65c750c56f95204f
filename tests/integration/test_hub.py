"""Hub ids, with the hub played by a folder: which files are asked for, and that a model which is refused costs none of its weights."""

import fnmatch
import json
import shutil

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from evalkit.cli import main
from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.lm.hub import HubId
from evalkit.lm.models import find
from evalkit.lm.native import NativeLM
from evalkit.tasks import Loglikelihood

REPO = "example/tiny"


class Hub:
    """A repository in a folder, and the names of the files that were asked for; each download goes to the snapshot's folder."""

    def __init__(self, repo, cache):
        self.repo, self.snapshot, self.asked, self.revisions, self.offline = repo, cache / "snapshots" / "abc123", [], set(), False

    def hf_hub_download(self, repo_id, filename, revision=None):
        self._known(repo_id)
        self.revisions.add(revision)
        if self.offline and not (self.snapshot / filename).exists():
            raise LocalEntryNotFoundError(f"{filename} is not in the cache and outgoing traffic has been disabled")
        if not (self.repo / filename).exists():
            raise EntryNotFoundError(f"404: {filename} is not in {repo_id}")
        self.asked.append(filename)
        (self.snapshot / filename).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.repo / filename, self.snapshot / filename)
        return str(self.snapshot / filename)

    def snapshot_download(self, repo_id, revision=None, allow_patterns=None, ignore_patterns=()):
        self._known(repo_id)
        names = [path.relative_to(self.repo).as_posix() for path in self.repo.rglob("*") if path.is_file()]
        wanted = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns)]
        for name in wanted:
            if not any(fnmatch.fnmatch(name, pattern) for pattern in ignore_patterns):
                self.hf_hub_download(repo_id, name, revision)
        return str(self.snapshot)

    def _known(self, repo_id):
        if repo_id != REPO:
            raise ConnectionError(f"no such repository: {repo_id}")


@pytest.fixture
def hub(tiny_model, tmp_path, monkeypatch):
    """The tiny model, and what else Mistral, llama.cpp and optimum put in a repository."""
    repo = tmp_path / "repo"
    shutil.copytree(tiny_model, repo)
    for name in ("consolidated.safetensors", "pytorch_model.bin", "onnx/model.onnx", "tiny.Q8_0.gguf", "original/params.json"):
        (repo / name).parent.mkdir(exist_ok=True)
        (repo / name).write_text("never read")
    played = Hub(repo, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", played.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", played.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return played


def shard(repo):
    tensors = load_file(repo / "model.safetensors")
    (repo / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, repo / file)
    (repo / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    save_file({"stale": torch.zeros(1)}, repo / "model-00001-of-00003.safetensors")


def edit_config(repo, **changes):
    raw = json.loads((repo / "config.json").read_text()) | changes
    (repo / "config.json").write_text(json.dumps(raw))


SETTINGS = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


def scores(spec):
    return list(NativeLM.open(ModelSpec(spec, kernel="reference")).loglikelihood([Loglikelihood("hello", (" a", " b"))]))


def test_one_file(hub, tiny_model):
    assert scores(REPO) == scores(str(tiny_model))
    assert hub.asked[0] == "config.json"
    assert set(hub.asked) == SETTINGS | {"model.safetensors"}
    assert hub.revisions == {None, "abc123"}  # all others are of config.json's commit


def test_the_commit_and_the_precision_are_recorded(hub, tiny_model):
    """Of a folder that is not the hub's, no commit."""
    found, local = (NativeLM.open(ModelSpec(spec, kernel="reference")).describe()["weights"] for spec in (REPO, str(tiny_model)))
    assert found == {"precision": "float32", "bits": 32.0, "sha256": local["sha256"], "revision": "abc123"}
    assert "revision" not in local


def test_shards_are_those_of_the_index(hub, tiny_model):
    shard(hub.repo)
    assert scores(f"{REPO}@v1") == scores(str(tiny_model))
    shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert set(hub.asked) == SETTINGS | {"model.safetensors.index.json"} | shards
    assert hub.revisions == {"v1", "abc123"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mamba"}, ("model_type 'mamba' is not supported", "--engine lm_eval:hf")),
        ({"mlp_bias": True}, ("mlp_bias", "--engine lm_eval:hf")),
        ({"hidden_size": "32"}, ("hidden_size",)),
    ],
)
def test_a_model_that_is_refused_costs_no_weights(hub, capsys, changes, words):
    shard(hub.repo)
    edit_config(hub.repo, **changes)
    assert main(["generate", "--model", REPO, "--prompt", "hello"]) == 2
    line = capsys.readouterr().err
    assert all(word in line for word in words), line
    assert line.count("\n") == 1
    assert hub.asked == ["config.json"]


def test_an_index_that_is_damaged_costs_no_weights(hub):
    shard(hub.repo)
    (hub.repo / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(EvalkitError, match="weight_map"):
        NativeLM.open(ModelSpec(REPO))
    assert hub.asked == ["config.json", "model.safetensors.index.json"]


def test_a_gguf_file_by_its_name(hub):
    assert find(f"{REPO}:tiny.Q8_0.gguf").path == hub.snapshot / "tiny.Q8_0.gguf"
    assert hub.asked == ["tiny.Q8_0.gguf"]
    hub.asked.clear()
    for i in (1, 2, 3):
        (hub.repo / "q4").mkdir(exist_ok=True)
        (hub.repo / "q4" / f"tiny-0000{i}-of-00003.gguf").write_text("a part")
    assert find(f"{REPO}@main:q4/tiny-00002-of-00003.gguf").path == hub.snapshot / "q4" / "tiny-00002-of-00003.gguf"
    assert hub.asked == [f"q4/tiny-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    with pytest.raises(EvalkitError, match=r"tiny-00004-of-00003\.gguf is not one of 3 parts"):
        find(f"{REPO}:q4/tiny-00004-of-00003.gguf")
    with pytest.raises(EvalkitError, match=r"example/tiny:other\.gguf cannot be downloaded"):
        find(f"{REPO}:other.gguf")


def test_a_repository_of_gguf_files_alone(hub):
    (hub.repo / "config.json").unlink()
    with pytest.raises(EvalkitError, match=r"no config\.json.*example/tiny:FILE\.gguf"):
        find(REPO)
    assert hub.asked == []


def test_transformers_gets_all_settings_of_any_model(hub):
    edit_config(hub.repo, model_type="mamba")
    (hub.repo / "tokenizer.model").write_text("pieces")
    assert find(REPO, for_transformers=True).path == hub.snapshot
    assert {"config.json", "model.safetensors", "tokenizer.model"} <= set(hub.asked)
    assert not {"consolidated.safetensors", "pytorch_model.bin", "tiny.Q8_0.gguf"} & set(hub.asked)


def test_what_is_not_there(hub):
    with pytest.raises(EvalkitError, match=r"example/absent cannot be downloaded.*check the name and the network"):
        find("example/absent")
    hub.offline = True
    with pytest.raises(EvalkitError, match=r"example/tiny cannot be downloaded.*check the name and the network"):
        find(REPO)
    for spec in ("./model.gguf", "folder/model.gguf", "/tmp/none/here"):
        with pytest.raises(EvalkitError, match="no such file or folder"):
            find(spec)


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
def test_the_form_of_a_hub_id(spec, expected):
    assert HubId.parse(spec) == expected
    assert expected is None or str(expected) == spec
