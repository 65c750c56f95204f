"""`evalkit run` whole, on a tiny model: results, resume, replay, and one clear line for whatever is wrong."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from evalkit import cli
from evalkit.lm.native import NativeLM
from evalkit.runner import asking
from evalkit.runner.plan import spread
from evalkit.tasks import Doc

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = "mmlu,gsm8k@lm-eval"


def run(tiny_model: Path, out: Path, *more: str) -> int:
    return cli.main(["run", "--tasks", TASKS, "--model", str(tiny_model), "--data", "sample", "--limit", "5", "--out", str(out), *more])


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("finished")
    assert run(tiny_model, out, "--name", "r") == 0
    return out / "r"


def samples(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "samples").iterdir())}


def test_what_a_run_leaves(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert (record["schema"], record["status"], record["limit"]) == (1, "complete", 5)
    assert record["model"]["fingerprint"].startswith("sha256:")
    assert record["model"]["parameters"]["total"] == record["model"]["parameters"]["activated"] > 0
    mmlu, gsm8k = record["tasks"]["mmlu"], record["tasks"]["gsm8k"]
    assert (mmlu["protocol"], mmlu["headline"], mmlu["n"], mmlu["n_total"]) == ("qwen", "acc", 5, 140)
    assert (gsm8k["protocol"], gsm8k["headline"], gsm8k["n"], gsm8k["n_total"]) == ("lm-eval", "exact_match_strict", 5, 60)
    assert set(gsm8k["metrics"]) == {"exact_match_strict", "exact_match_flexible"}
    for entry in (mmlu, gsm8k):
        figure = entry["metrics"][entry["headline"]]
        assert figure["ci95"][0] <= figure["value"] <= figure["ci95"][1]
        assert entry["data"]["source"] == "sample"
        assert entry["tokens"]["computed"] > 0
    rows = [json.loads(line) for line in (finished / "samples" / "mmlu.jsonl").read_text().splitlines()]
    assert len({row["group"] for row in rows}) == 5
    assert sum(row["metrics"]["acc"] for row in rows) / 5 == mmlu["metrics"]["acc"]["value"]


def test_the_same_command_computes_nothing_again(tiny_model: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = samples(finished)
    monkeypatch.setattr(NativeLM, "loglikelihood", lambda *_: pytest.fail("asked again"))
    monkeypatch.setattr(NativeLM, "generate", lambda *_: pytest.fail("asked again"))
    assert run(tiny_model, finished.parent, "--name", "r") == 0
    assert samples(finished) == before


def test_an_interrupted_run_resumes_to_the_same_bytes(
    tiny_model: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []
    original = asking._ask

    def interrupted(lm, requests) -> Iterator:
        asked.append(len(requests))
        for count, answer in enumerate(original(lm, requests)):
            if len(asked) == 1 and count == 3:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(asking, "_ask", interrupted)
    assert run(tiny_model, tmp_path, "--name", "r") == 4
    assert "3 answers are kept" in capsys.readouterr().err
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "incomplete"
    assert run(tiny_model, tmp_path, "--name", "r") == 0
    assert asked == [5, 2, 5]
    assert samples(tmp_path / "r") == samples(finished)


def test_replay_needs_no_model(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NativeLM, "open", lambda *_: pytest.fail("opened a model"))
    arguments = ["run", "--tasks", TASKS, "--data", "sample", "--limit", "5", "--out", str(tmp_path), "--name", "again"]
    assert cli.main([*arguments, "--engine", f"replay:{finished}"]) == 0
    assert samples(tmp_path / "again") == samples(finished)
    record = json.loads((tmp_path / "again" / "run.json").read_text())
    assert record["model"]["fingerprint"] == json.loads((finished / "run.json").read_text())["model"]["fingerprint"]


def test_replay_does_not_guess(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--tasks", "mmlu@cloze", "--data", "sample", "--limit", "5", "--out", str(tmp_path)]
    assert cli.main([*arguments, "--engine", f"replay:{finished}"]) == 2
    assert "holds no answer" in capsys.readouterr().err


def test_other_weights_get_no_stale_answer(tiny_model: Path, finished: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "tiny"
    shutil.copytree(tiny_model, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][0] += 0.5
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(finished, tmp_path / "runs" / "r")
    before = len(list_answers(tmp_path / "runs" / "r"))
    assert run(other, tmp_path / "runs", "--name", "r") == 0
    assert len(list_answers(tmp_path / "runs" / "r")) == 2 * before


def list_answers(folder: Path) -> list[str]:
    import sqlite3

    return [row[0] for row in sqlite3.connect(folder / "journal.sqlite").execute("SELECT key FROM responses")]


def test_fresh_starts_anew(tiny_model: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "r")
    assert run(tiny_model, tmp_path, "--name", "r", "--limit", "2", "--fresh") == 0
    assert len(list_answers(tmp_path / "r")) == 4


def test_config_file_and_command_line(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f'tasks = ["mmlu"]\nmodel = "{tiny_model}"\ndata = "sample"\nlimit = 2\nout = "{tmp_path}"\n')
    assert cli.main(["run", "--config", str(tmp_path / "run.toml"), "--limit", "3", "--name", "c", "--quiet"]) == 0
    assert json.loads((tmp_path / "c" / "run.json").read_text())["tasks"]["mmlu"]["n"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "no task given"),
        (["run", "--tasks", "mmul"], "did you mean 'mmlu'"),
        (["run", "--tasks", "mmlu", "--model", "qwen2.5-coder-0.5"], "did you mean 'qwen2.5-coder-0.5b'"),
        (["run", "--tasks", "mmlu", "--model", "./gone.gguf"], "no such file"),
        (["run", "--tasks", "mmlu", "--engine", "vllm"], "unknown engine 'vllm'"),
        (["run", "--tasks", "mmlu", "--engine", "replay:/nowhere"], "needs a run's folder"),
        (["run", "--tasks", "mmlu", "--data", "/nowhere"], "no such folder"),
        (["run", "--tasks", "mmlu", "--limit", "-3"], "at least 1"),
        (["run", "--tasks", "mmlu", "--config", "/nowhere.toml"], "cannot read /nowhere.toml"),
        (["report", "/nowhere"], "/nowhere: no such run"),
        (["report", "--published", "qwen"], "unknown published table"),
        (["data", "verify", "mmul"], "did you mean 'mmlu'"),
    ],
)
def test_wrong_use_gets_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] == "run":
        arguments = [*arguments, "--out", str(tmp_path)]
        if "--data" not in arguments:
            arguments += ["--data", "sample"]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert error[-1].startswith("evalkit: ")


def test_argparse_errors_are_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "--tasks", "mmlu", "--limt", "3"])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_unwritable_folder_is_named(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(tiny_model, tmp_path / "file") == 2
    assert "give --out a path in a writable folder" in capsys.readouterr().err


def test_limits_are_spread_and_stable() -> None:
    docs = [Doc(f"{g}/{i}", g, {}) for g, n in (("a", 10), ("b", 3), ("c", 50)) for i in range(n)]
    chosen = [d.id for d in spread(docs, 12)]
    assert chosen == [*(f"a/{i}" for i in range(5)), *(f"b/{i}" for i in range(3)), *(f"c/{i}" for i in range(4))]
    assert [d.id for d in spread(docs, 2)] == ["a/0", "b/0"]
    assert spread(docs, None) == docs == spread(docs, 1000)
    for n in range(1, len(docs) + 1):
        assert len(spread(docs, n)) == n
