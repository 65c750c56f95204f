"""What may be written into a run's folder: no figures are replaced in silence, and no name leads anywhere else."""

import json
from pathlib import Path

import pytest
from fake_runs import fake_run

from evalkit import cli
from evalkit.config import RunConfig, require_folder_name
from evalkit.errors import EvalkitError
from evalkit.exchange import lm_eval_write
from evalkit.files import LONGEST_NAME, shortened
from evalkit.record.read import read_run
from evalkit.runner.folder import made, require_own, require_same_tasks
from evalkit.runner.score_file import run_name
from evalkit.tasks.registry import resolve_all


@pytest.mark.parametrize("name", ["", ".", "..", "...", "../x", "a/b", "/tmp/x", "a b", "a\nb", "~", "a\0b"])
def test_names_that_are_no_folder(name: str) -> None:
    with pytest.raises(EvalkitError, match="it becomes a folder"):
        require_folder_name(name)
    with pytest.raises(EvalkitError, match="it becomes a folder"):
        RunConfig(("mmlu",), name=name)


def test_score_writes_into_its_own_folder_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = tmp_path / "a.google.en.jsonl"
    answers.write_text("".join(json.dumps({"task_id": f"Sample/{i}", "completion": "    return 1\n"}) + "\n" for i in range(2)))
    out = tmp_path / "deep" / "runs"
    command = ["score", "humaneval", str(answers), "--data", "sample", "--out", str(out), "--quiet"]
    for name in ("../../escaped", "..", "/escaped"):
        assert cli.main([*command, "--name", name]) == 2
    assert not out.exists()
    assert not (tmp_path / "escaped").exists()
    other = fake_run(out / "kept", "m", gsm8k=[1.0])
    before = {file: file.read_bytes() for file in other.rglob("*") if file.is_file()}
    assert cli.main([*command, "--name", "kept"]) == 2
    assert "holds a run of gsm8k by m, which this would replace; pass another --name" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in other.rglob("*") if file.is_file()} == before
    # the same file again replaces itself
    assert cli.main(command) == cli.main(command) == 0
    assert [path.name for path in out.iterdir() if path.name != "kept"] == ["a.google.en--humaneval"]


def test_the_name_of_a_scored_file() -> None:
    names = {run_name(Path(file), "humaneval") for file in ("a.google.en.jsonl", "a.microsoft.en.jsonl.gz", "T0.0_x.jsonl", "T0.1_x.jsonl")}
    assert names == {f"{stem}--humaneval" for stem in ("a.google.en", "a.microsoft.en", "t0.0_x", "t0.1_x")}
    assert run_name(Path("[/b].jsonl"), "flores:en-de") == "b---flores-en-de"


def test_a_run_of_other_tasks_is_not_replaced(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "r", "m", mmlu=[1.0], gsm8k=[0.0])
    require_same_tasks(folder, resolve_all(("mmlu", "gsm8k")))
    require_same_tasks(folder, resolve_all(("mmlu@cloze", "gsm8k", "humaneval")))  # scored again, and one task more
    require_same_tasks(tmp_path / "none", resolve_all(("mmlu",)))
    with pytest.raises(EvalkitError, match=r"holds a run of mmlu@qwen, .* --tasks mmlu@qwen,gsm8k@qwen for all of them"):
        require_same_tasks(folder, resolve_all(("gsm8k@qwen",)))
    before = (folder / "run.json").read_bytes()
    assert cli.main(["run", "--tasks", "humaneval", "--data", "sample", "--out", str(tmp_path), "--name", "r", "--quiet"]) == 2
    assert (folder / "run.json").read_bytes() == before
    with pytest.raises(EvalkitError, match="holds a run of mmlu, gsm8k by m"):
        require_own(folder, "m", resolve_all(("mmlu",))["mmlu"].protocol)


@pytest.mark.parametrize("arguments", [["--model", "smollm"], ["--model", "./none"], ["--engine", "vllm"], ["--model", "x.gguf"]])
def test_a_typo_is_found_before_any_data_and_leaves_nothing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_data(*_: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr("evalkit.runner.run.open_source", no_data)
    assert cli.main(["run", "--tasks", "mmlu", *arguments, "--out", str(tmp_path / "runs")]) == 2
    assert arguments[1] in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_an_answer_is_removed(tmp_path: Path) -> None:
    def run(folder: Path, *files: str) -> None:
        with made(folder):
            for file in files:
                (folder / file).write_text("")
            raise EvalkitError("the model is none")

    def fails(folder: Path, *files: str) -> None:
        with pytest.raises(EvalkitError, match="the model is none"):
            run(folder, *files)

    fails(tmp_path / "new", "journal.sqlite", "journal.lock", "journal.sqlite-wal")
    assert not (tmp_path / "new").exists()
    fails(tmp_path / "begun", "journal.sqlite", "run.json")
    assert (tmp_path / "begun" / "journal.sqlite").exists()
    (tmp_path / "old").mkdir()
    fails(tmp_path / "old", "journal.sqlite")
    assert (tmp_path / "old" / "journal.sqlite").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalkitError, match=r"cannot write .*make it writable"), made(tmp_path / "file" / "r"):
        pass


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["run", "--task", "mmlu"], ["ls", "runs", "--o", "x"], ["--vers"]):
        with pytest.raises(SystemExit):
            cli.main(command)
        assert "evalkit: " in capsys.readouterr().err


def test_long_names_are_shortened(tmp_path: Path) -> None:
    long = "m" * 320
    assert shortened("x" * LONGEST_NAME) == "x" * LONGEST_NAME
    assert len({shortened(long), shortened(long + "n"), shortened("é" * 200)}) == 3
    assert all(len(shortened(name).encode()) <= LONGEST_NAME for name in (long, "é" * 200, "\udcff" * 300))
    tasks = tuple(f"mmlu@{protocol}" for protocol in ("qwen", "cloze", "lm-eval", "opencompass")) * 6
    for config in (RunConfig(("mmlu",), model=f"/models/{long}"), RunConfig(tasks, name=long), RunConfig(tasks * 10)):
        (tmp_path / config.run_name).mkdir()
        assert config.run_name == shortened(config.run_name)
    run = read_run(fake_run(tmp_path / "r", long, mmlu=[1.0]))
    lm_eval_write.write(tmp_path / "r" / "lm_eval", run, {"mmlu": []})
    assert len(list((tmp_path / "r" / "lm_eval").glob("*/results_*.json"))) == 1
