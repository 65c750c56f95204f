"""`--shard I/N` and `evalkit merge`: the same run as one process makes, for every kind of task, and one line for what is no whole run."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval_reference import Ours, answered_by, require_one_line
from lm_eval_rows import write

from evalkit import cli
from evalkit.data.sources import SampleSource
from evalkit.record.read import read_run
from evalkit.sandbox import Pool
from evalkit.tasks import REFUSED, Generated, last_asked

pytestmark = pytest.mark.usefixtures("one_thread")

# where and when, and what sharing prefixes spared, are each process's own
OWN = {"name", "command", "started", "seconds", "environment", "merged", "tokens"}


def run(out: Path, name: str, *arguments: str) -> int:
    return cli.main(["run", "--out", str(out), "--name", name, "--quiet", *arguments])


def shards(out: Path, of: int, *arguments: str) -> list[str]:
    """The folders of a run's shards, each answered by itself, the last first."""
    for index in range(of, 0, -1):
        assert run(out, f"{index}of{of}", *arguments, "--shard", f"{index}/{of}") == 0
    return [str(out / f"{index}of{of}") for index in range(of, 0, -1)]


def merge(out: Path, folders: Sequence[str], *more: str) -> int:
    return cli.main(["merge", *folders, "--out", str(out), "--name", "merged", "--quiet", *more])


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def common(value: Any) -> Any:
    """A record without what is each process's own."""
    if isinstance(value, dict):
        return {key: common(each) for key, each in value.items() if key not in OWN}
    return value


def record(folder: Path) -> Any:
    return common(json.loads((folder / "run.json").read_text()))


def require_same(whole: Path, merged: Path) -> None:
    """The same samples, figures and files for lm-eval."""
    assert files(whole / "samples") == files(merged / "samples")
    assert record(whole) == record(merged)
    theirs = [{"_".join(f.name.split("_")[:-1]): f.read_bytes() for f in (at / "lm_eval").rglob("samples_*")} for at in (whole, merged)]
    assert theirs[0] == theirs[1] != {}
    if (whole / "completions").exists():
        assert files(whole / "completions") == files(merged / "completions")


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Ours:
    """The model of every run of the test: its answers are hashes of what it is asked."""
    model = Ours()
    answered_by(monkeypatch, lambda: model)
    return model


@pytest.fixture
def two(tmp_path: Path, ours: Ours) -> list[str]:
    """Both shards of a run of MMLU and GSM8K."""
    return shards(tmp_path, 2, "--tasks", "mmlu,gsm8k", "--data", "sample", "--limit", "20")


@pytest.mark.parametrize(
    ("numbers", "sampled"), [((2, 5), False), ((2,), True), pytest.param((3, 5), True, marks=pytest.mark.slow)], ids=str
)
def test_the_native_engine_gives_the_same_bytes(tiny_model: Path, tmp_path: Path, numbers: tuple[int, ...], sampled: bool) -> None:
    asked = ["--model", str(tiny_model), "--data", "sample", *(SAMPLED if sampled else GREEDY)]
    assert run(tmp_path, "whole", *asked) == 0
    for of in numbers:
        assert merge(tmp_path / str(of), shards(tmp_path, of, *asked)) == 0
        require_same(tmp_path / "whole", tmp_path / str(of) / "merged")


GREEDY = ["--tasks", "mmlu,gsm8k@lm-eval", "--limit", "5"]
SAMPLED = ["--tasks", "humaneval", "--limit", "2", "--temperature", "0.8", "--repeats", "2", "--seed", "1", "--allow-unsafe-code"]


@pytest.mark.parametrize(
    ("tasks", "more"),
    [
        ("mmlu,mmlu@cloze,gsm8k,mt_bench,humaneval", ["--limit", "30", "--allow-unsafe-code"]),
        ("multilingual", ["--limit", "1"]),
        ("flores:de-en", []),
    ],
)
def test_every_kind_of_task(tmp_path: Path, ours: Ours, tasks: str, more: list[str]) -> None:
    asked = ["--tasks", tasks, "--data", "sample", *more]
    assert run(tmp_path, "whole", *asked) == 0
    assert merge(tmp_path, shards(tmp_path, 3, *asked)) == 0
    require_same(tmp_path / "whole", tmp_path / "merged")


@pytest.mark.filterwarnings("ignore")  # of lm-eval, datasets and sklearn
def test_tasks_of_lm_evals(tmp_path: Path, ours: Ours) -> None:
    """Their aggregations need not be means."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    asked = ["--tasks", "lm_eval:arc_easy,lm_eval:pile_arxiv", "--data", str(write(tmp_path / "rows"))]
    assert run(tmp_path, "whole", *asked) == 0
    assert merge(tmp_path, shards(tmp_path, 2, *asked)) == 0
    require_same(tmp_path / "whole", tmp_path / "merged")


def test_no_program_runs_again(tmp_path: Path, ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = shards(tmp_path, 2, "--tasks", "humaneval", "--data", "sample", "--limit", "3", "--allow-unsafe-code")
    monkeypatch.setattr(Pool, "map", lambda *_: pytest.fail("ran a program"))
    assert merge(tmp_path, folders) == 0


def test_more_shards_than_documents(tmp_path: Path, ours: Ours) -> None:
    asked = ["--tasks", "mmlu,mt_bench", "--data", "sample", "--limit", "2"]
    folders = shards(tmp_path, 5, *asked)
    assert [sum(entry.n for entry in read_run(folder).tasks.values()) for folder in folders].count(0) >= 1
    assert run(tmp_path, "whole", *asked) == 0
    assert merge(tmp_path, folders) == 0
    require_same(tmp_path / "whole", tmp_path / "merged")


def test_a_shard_is_no_run(tmp_path: Path, two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No reader takes one for the whole, and it has no figure to be taken for one."""
    capsys.readouterr()
    held = read_run(two[0])
    assert (held.status, str(held.shard), held.shard and held.shard.finished) == ("incomplete", "2/2", True)
    assert not any(entry.metrics for entry in held.tasks.values())
    assert not (Path(two[0]) / "lm_eval").exists()
    for command in (
        ["report", two[0]],
        ["compare", *two],
        ["gate", *two, "--margin", "0.1"],
        ["gate", "--against", "published", two[0], "--margin", "0.1"],
        ["judge", two[0], "--judge-model", "m"],
        ["gate", two[0], "--model", "m", "--sequential", "--margin", "0.1"],
    ):
        assert cli.main(command) == 2, command
        require_one_line(capsys.readouterr().err, "shard 2/2", "evalkit merge")
    assert cli.main(["view", two[0], "--out", str(tmp_path / "page.html")]) == 0
    assert "is a shard" in capsys.readouterr().out
    assert cli.main(["ls", "runs", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "shard 1/2" in said
    assert f"evalkit merge {tmp_path / '1of2'} {tmp_path / '2of2'}" in said


def test_a_merged_run_is_a_run(tmp_path: Path, two: list[str], ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command without --shard finds every answer, and its default name is the merged run's."""
    assert cli.main(["merge", *two, "--out", str(tmp_path / "runs"), "--quiet"]) == 0
    (merged,) = (tmp_path / "runs").iterdir()
    before, held = files(merged / "samples"), read_run(merged)
    assert held.seconds == pytest.approx(sum(read_run(folder).seconds for folder in two))
    assert held.started == min(read_run(folder).started for folder in two)
    assert [(each.index, each.command, each.environment) for each in held.merged] == [
        (index, read_run(folder).command, read_run(folder).environment) for index, folder in enumerate(reversed(two), start=1)
    ]
    for key, entry in held.tasks.items():
        assert entry.seconds == pytest.approx(sum(read_run(folder).tasks[key].seconds for folder in two), abs=0.01)
    monkeypatch.setattr(Ours, "loglikelihood", lambda *_: pytest.fail("asked again"))
    monkeypatch.setattr(Ours, "generate", lambda *_: pytest.fail("asked again"))
    again = ["run", "--tasks", "mmlu,gsm8k", "--data", "sample", "--limit", "20", "--out", str(tmp_path / "runs"), "--quiet"]
    assert cli.main(again) == 0
    assert [each.name for each in (tmp_path / "runs").iterdir()] == [merged.name]
    assert files(merged / "samples") == before


def test_refused_answers_are_merged_as_they_were(tmp_path: Path, ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's refusal is in no journal. Where it leaves the whole without a score, so does it here."""
    asked = ["--tasks", "gsm8k", "--data", "sample"]
    turned_away, answers = gsm8k_question(7), Ours.generate

    def refusing(self: Ours, requests: Sequence[Any]) -> Any:
        for i, answer in answers(self, requests):
            yield i, Generated("", REFUSED, 0) if turned_away in last_asked(requests[i]) else answer

    monkeypatch.setattr(Ours, "generate", refusing)
    folders = shards(tmp_path, 2, *asked)
    assert merge(tmp_path, folders) == run(tmp_path, "whole", *asked) == 4
    assert not (tmp_path / "merged" / "run.json").exists()
    monkeypatch.setattr("evalkit.record.schema.MAX_UNANSWERED", 0.5)
    assert merge(tmp_path, folders) == run(tmp_path, "whole", *asked) == 0
    assert read_run(tmp_path / "merged").tasks["gsm8k"].counts.unanswered == 1
    require_same(tmp_path / "whole", tmp_path / "merged")


def gsm8k_question(number: int) -> str:
    """One of the sample's."""
    file = SampleSource().folder / "gsm8k" / "test.jsonl"
    return str(json.loads(file.read_text().splitlines()[number])["question"])


def copied(folders: Sequence[str], to: Path) -> list[str]:
    return [str(shutil.copytree(folder, to / Path(folder).name)) for folder in folders]


def edited(folder: str, change: Callable[[dict[str, Any]], object]) -> None:
    file = Path(folder) / "run.json"
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


def _flip(folder: str, name: str, old: bytes, new: bytes) -> None:
    file = Path(folder) / name
    raw = file.read_bytes()
    assert old in raw
    file.write_bytes(raw.replace(old, new, 1))


def test_what_is_no_whole_run_is_one_line(tmp_path: Path, two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--tasks", "mmlu,gsm8k", "--data", "sample", "--limit", "20"]
    others: dict[str, Sequence[str]] = {
        "seed": [*asked, "--seed", "1"],
        "limit": [*asked[:-1], "21"],
        "tasks": ["--tasks", "mmlu,gsm8k@lm-eval", *asked[2:]],
        "of": asked,
    }
    for name, arguments in others.items():
        assert run(tmp_path, name, *arguments, "--shard", "1/3" if name == "of" else "1/2") == 0
    assert merge(tmp_path, two) == 0
    second, first = two
    alone = str(tmp_path / "merged")

    def damaged(name: str, change: Callable[[str], object]) -> list[str]:
        folders = copied(two, tmp_path / name)
        change(folders[1])
        return folders

    cases: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "missing": ([second], ["1 of 2 shards are missing: 1/2"]),
        "twice": ([second, first, first], ["both shard 1/2", "once"]),
        "merged": ([second, alone], ["merged already", "--shard I/N"]),
        "other N": ([second, str(tmp_path / "of")], ["cut into 3", "2 in the second"]),
        "seed": ([second, str(tmp_path / "seed")], ["seed is 1 in the first and 0 in the second"]),
        "limit": ([second, str(tmp_path / "limit")], ["limit is 21 in the first and 20"]),
        "protocol": ([second, str(tmp_path / "tasks")], ["tasks is", "gsm8k@lm-eval"]),
        "nothing": ([str(tmp_path / "nowhere")], ["not a run"]),
        "version": (damaged("v", lambda at: edited(at, lambda raw: raw["shard"].update(evalkit="9.9"))), ["evalkit 9.9"]),
        "unfinished": (
            damaged("u", lambda at: edited(at, lambda raw: raw["shard"].update(finished=False))),
            ["unfinished", "again to finish it"],
        ),
        "model": (
            damaged("m", lambda at: edited(at, lambda raw: raw["model"].update(fingerprint="sha256:0"))),
            ["fingerprint is sha256:0"],
        ),
        "numerics": (damaged("n", lambda at: edited(at, lambda raw: raw["model"].update(dtype="int8"))), ["dtype is int8"]),
        "engine": (damaged("e", lambda at: edited(at, lambda raw: raw["model"].update(engine="llama_cpp"))), ["engine is llama_cpp"]),
        "settings": (
            damaged("s", lambda at: edited(at, lambda raw: raw["shard"]["settings"].update(limits=3))),
            ["limits", "did you mean"],
        ),
        "code": (
            damaged("t", lambda at: edited(at, lambda raw: raw["shard"]["settings"].update(allow_task_code=True))),
            ["were run with --allow-task-code"],  # leave to run code is no file's to give
        ),
        "python": (
            damaged("y", lambda at: edited(at, lambda raw: raw["shard"]["settings"].update(tasks=["evil.py:words"]))),
            ["is Python of evil.py, by the run's record", "--allow-task-code"],
        ),
        "cut": (damaged("c", lambda at: (Path(at) / "journal.sqlite").write_bytes(b"no journal")), ["journal.sqlite", "damaged"]),
        "byte": (damaged("b", lambda at: _flip(at, "journal.sqlite", b'"is_greedy"', b'"is_griddy"')), ["not as it was written"]),
        "gone": (damaged("g", lambda at: (Path(at) / "journal.sqlite").unlink()), ["journal.sqlite does not exist"]),
        "score": (damaged("d", lambda at: _flip(at, "samples/mmlu.jsonl", b'"acc": 0.0', b'"acc": 1.0')), ["not what its answers score"]),
        "answer": (damaged("a", lambda at: _flip(at, "samples/mmlu.jsonl", b'"logprobs": [-', b'"logprobs": [-1')), ["not in its journal"]),
        "prompt": (damaged("p", lambda at: _flip(at, "samples/mmlu.jsonl", b"Answer:", b"Answer?")), ["asked something else"]),
        "line": (damaged("l", lambda at: _flip(at, "samples/mmlu.jsonl", b'{"doc_id"', b'"doc_id"')), ["line 1 is damaged"]),
        "sample": (damaged("o", lambda at: (Path(at) / "samples/gsm8k.jsonl").write_bytes(b"")), ["has no sample of gsm8k"]),
    }
    capsys.readouterr()
    for name, (folders, words) in cases.items():
        assert cli.main(["merge", *folders, "--out", str(tmp_path), "--name", f"no {name}".replace(" ", "-"), "--quiet"]) == 2, name
        require_one_line(capsys.readouterr().err, *words)
        assert not (tmp_path / f"no {name}".replace(" ", "-") / "run.json").exists(), name


def test_other_data_are_refused(tmp_path: Path, ours: Ours, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    two = shards(tmp_path, 2, "--tasks", "gsm8k", "--data", "sample", "--limit", "20")
    data = shutil.copytree(SampleSource().folder, tmp_path / "data")
    assert merge(tmp_path, two, "--data", str(data)) == 0  # the same rows elsewhere
    assert read_run(tmp_path / "merged").tasks["gsm8k"].data.source == "sample"
    shutil.rmtree(tmp_path / "merged")
    moved = shards(tmp_path / "moved", 2, "--tasks", "gsm8k", "--data", str(data), "--limit", "20")
    data = data.rename(tmp_path / "here")  # as on another machine
    capsys.readouterr()
    assert merge(tmp_path, moved) == 2
    require_one_line(capsys.readouterr().err, "no such folder")
    monkeypatch.setenv("EVALKIT_DATA", str(data))
    assert merge(tmp_path / "moved", moved) == 0
    file = data / "gsm8k" / "test.jsonl"
    file.write_text(file.read_text().replace("?", "!", 1))
    capsys.readouterr()
    assert merge(tmp_path, two, "--data", str(data)) == 2
    require_one_line(capsys.readouterr().err, "the data of gsm8k", "not those", "--data")


def test_a_folder_keeps_its_shard(tmp_path: Path, two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--tasks", "mmlu,gsm8k", "--data", "sample", "--limit", "20"]
    assert run(tmp_path, "1of2", *asked, "--shard", "1/2") == 0
    assert merge(tmp_path, two) == 0
    capsys.readouterr()
    for name, more, words in (
        ("1of2", ["--shard", "2/2"], ["holds shard 1/2", "--name"]),
        ("1of2", [], ["holds shard 1/2", "--shard 1/2"]),
        ("merged", ["--shard", "1/2"], ["holds a whole run", "leave --shard out"]),
    ):
        assert run(tmp_path, name, *asked, *more) == 2
        require_one_line(capsys.readouterr().err, *words)
    assert merge(tmp_path, two) == 2
    require_one_line(capsys.readouterr().err, "holds a run already", "--name")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["reproduce", "smollm2", "--shard", "1/2"])  # each of its runs would need all its shards


def test_an_interrupted_merge_leaves_no_run(tmp_path: Path, two: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """At any point before run.json; the same command then goes on."""
    for place in ("evalkit.runner.merge.plans_of", "evalkit.runner.merge.task_entry", "evalkit.runner.merge.write_run"):
        with monkeypatch.context() as patch:
            patch.setattr(place, _interrupted)
            assert merge(tmp_path, two) == 4
        assert not (tmp_path / "merged" / "run.json").exists()
    assert merge(tmp_path, two) == 0


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_shard_resumes(tmp_path: Path, ours: Ours, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--tasks", "mmlu", "--data", "sample", "--limit", "20", "--shard", "1/2"]
    answers = Ours.loglikelihood

    def stopping(self: Ours, requests: Sequence[Any]) -> Any:
        for count, answer in enumerate(answers(self, requests)):
            if count == 3:
                raise KeyboardInterrupt
            yield answer

    with monkeypatch.context() as patch:
        patch.setattr(Ours, "loglikelihood", stopping)
        assert run(tmp_path, "s", *asked) == 4
    held = read_run(tmp_path / "s")
    assert held.shard is not None
    assert not held.shard.finished
    capsys.readouterr()
    assert merge(tmp_path, [str(tmp_path / "s")]) == 2
    require_one_line(capsys.readouterr().err, "unfinished", "again")
    assert run(tmp_path, "s", *asked) == 0
    held = read_run(tmp_path / "s")
    assert held.shard is not None
    assert held.shard.finished
