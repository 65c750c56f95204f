"""`evalkit run --workers N`: the samples of one process, whatever the number of workers, engine or servers."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from scripted_workers import Scripted, ScriptedWorkers, obey

from evalkit import cli, workers
from evalkit.config import ModelSpec, RunConfig
from evalkit.errors import EvalkitError
from evalkit.lm import open_lm
from evalkit.progress import Reporter
from evalkit.runner.journal import Journal
from evalkit.tasks import Loglikelihood, Request
from evalkit.workers.messages import FromWorker, Lease
from evalkit.workers.pool import WorkersLM

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = ["--tasks", "mmlu,gsm8k@lm-eval", "--data", "sample", "--limit", "12"]


def run(out: Path, name: str, *more: str) -> int:
    return cli.main(["run", *TASKS, "--out", str(out), "--name", name, "--quiet", *more])


def samples(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "samples").iterdir())}


@pytest.fixture(scope="module")
def alone(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without workers."""
    out = tmp_path_factory.mktemp("alone")
    assert run(out, "r", "--model", str(tiny_model)) == 0
    return out / "r"


def test_two_workers_of_the_native_engine(alone: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "r", "--model", str(tiny_model), "--workers", "2") == 0
    assert samples(tmp_path / "r") == samples(alone)
    record, expected = (json.loads((folder / "run.json").read_text()) for folder in (tmp_path / "r", alone))
    assert record["model"] == expected["model"]
    assert [each["metrics"] for each in record["tasks"].values()] == [each["metrics"] for each in expected["tasks"].values()]
    assert "lease 1: " in (tmp_path / "r" / "workers" / "1.log").read_text()


@pytest.mark.parametrize("count", ["1", "3"])
def test_any_number_of_workers_replays_a_run(alone: Path, tmp_path: Path, count: str) -> None:
    assert run(tmp_path, "r", "--engine", f"replay:{alone}", "--workers", count) == 0
    assert samples(tmp_path / "r") == samples(alone)


def test_a_run_goes_on_with_another_number_of_workers(alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replay = ["--engine", f"replay:{alone}"]
    assert cli.main(["run", *TASKS[2:4], "--tasks", "mmlu", "--limit", "12", "--out", str(tmp_path), "--name", "r", *replay]) == 0
    capsys.readouterr()
    arguments = ["run", *TASKS, "--out", str(tmp_path), "--name", "r", *replay, "--workers", "2"]
    assert cli.main(arguments) == 0
    assert "mmlu@qwen: 12 of 12 answers were in the journal" in capsys.readouterr().err
    assert samples(tmp_path / "r") == samples(alone)


def test_an_engine_that_refuses_a_request_ends_the_run_as_without_workers(
    alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tasks", "mmlu@cloze", "--data", "sample", "--limit", "1", "--engine", f"replay:{alone}", "--quiet"]
    codes, lines = [], []
    for more in ([], ["--workers", "2"]):
        codes.append(cli.main(["run", *arguments, "--out", str(tmp_path), "--name", f"r{len(more)}", *more]))
        lines.append(capsys.readouterr().err)
    assert codes == [2, 2]
    assert lines[0] == lines[1] != ""


def test_a_model_that_cannot_be_opened_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "out", "r", "--engine", f"replay:{tmp_path}", "--workers", "2") == 2
    assert "needs a run's folder" in capsys.readouterr().err
    assert not (tmp_path / "out" / "r").exists()


def test_requests_that_kill_workers_leave_the_other_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison: list[Request] = []

    def act(worker: Scripted, lease: Lease) -> Iterable[FromWorker | None]:
        poison[:] = poison or [next(each for each in lease.requests if isinstance(each, Loglikelihood))]
        return [None] if poison[0] in lease.requests else obey(worker, lease)

    def scripted(config: RunConfig, logs: Path, reporter: Reporter) -> WorkersLM:
        return WorkersLM(ScriptedWorkers(act), config.model_spec, config.num_workers, reporter.say)

    monkeypatch.setattr(workers, "open_workers", scripted)
    assert run(tmp_path, "r", "--engine", "replay:none", "--workers", "3") == 4
    assert re.search(r"mmlu: \d+ requests? (was|were) set aside, with which two workers were lost", capsys.readouterr().err)
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert record["status"] == "incomplete"
    assert record["tasks"]["gsm8k"]["n"] == 12
    assert "mmlu" not in record["tasks"]
    poison[:] = [Loglikelihood("none", ())]
    assert run(tmp_path, "r", "--engine", "replay:none", "--workers", "3") == 0


def test_two_servers_are_two_workers(alone: Path, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="pip install 'evalkit-lm[serve]'")
    from served import listening

    from evalkit.lm.native import NativeLM
    from evalkit.serve.app import make_app

    with (
        listening(make_app(NativeLM.load(ModelSpec(str(tiny_model))), "org/tiny")) as first,
        listening(make_app(NativeLM.load(ModelSpec(str(tiny_model))), "org/tiny")) as second,
    ):
        assert run(tmp_path, "r", "--model", "org/tiny", "--engine", f"openai:{first}/v1,{second}/v1") == 0
    assert samples(tmp_path / "r") == samples(alone)
    logs = [(tmp_path / "r" / "workers" / f"{i}.log").read_text() for i in (1, 2)]
    assert all("opens org/tiny" in log for log in logs)


def test_wrong_numbers_of_workers_are_refused() -> None:
    with pytest.raises(EvalkitError, match="workers is 0; give at least 1, or leave it out"):
        RunConfig(("mmlu",), workers=0)
    with pytest.raises(EvalkitError, match="workers is 1025; give 1024 at most, or cut the run into shards"):
        RunConfig(("mmlu",), workers=1025)
    with pytest.raises(EvalkitError, match="workers is 1; give at least 2, one a server"):
        RunConfig(("mmlu",), model="m", engine="openai:http://a/v1,http://b/v1", workers=1)
    servers = RunConfig(("mmlu",), model="m", engine="openai:http://a/v1,http://b/v1", data="sample")
    assert servers.num_workers == 2
    one = RunConfig(("mmlu",), model="m", engine="openai:http://a/v1", data="sample", workers=3)
    assert servers.run_name == one.run_name  # the run goes on with fewer servers


def test_other_commands_take_one_server() -> None:
    with pytest.raises(EvalkitError, match="only evalkit run asks several servers; name one"):
        open_lm(ModelSpec("m", engine="openai:http://a/v1,http://b/v1"))


def test_ls_shows_a_run_that_is_under_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "now").mkdir()
    journal = Journal(tmp_path / "now" / "journal.sqlite")
    assert cli.main(["ls", "runs", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "now is running (pid " in shown
    assert "0 answers so far" in shown
    journal.close()
    assert cli.main(["ls", "runs", "--out", str(tmp_path)]) == 0
    assert "running" not in capsys.readouterr().out
