"""`evalkit reproduce` on tiny models and the bundled sample: the plan, the runs, what cannot be had, the budget, resumption."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from judge_runs import MODEL, judge_server
from reproduce_tables import report_of, write_table

from evalkit import cli
from evalkit.data.sources import SampleSource
from evalkit.lm.native import NativeLM
from evalkit.lm.pass_speed import PassSpeed
from evalkit.reproduce import measured
from evalkit.runner import asking

pytestmark = pytest.mark.usefixtures("one_thread", "known_speed", "no_hub")

CELLS = {"mmlu": "qwen", "gsm8k": "lm-eval", "humaneval": "codex"}
SPEED = PassSpeed(((1, 1e-9), (64, 4e-9), (256, 1e-8)), 1e-8)


@pytest.fixture
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours must not depend on the machine that tests run on."""
    monkeypatch.setattr(measured, "measure", lambda model, like: SPEED)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.lm.whereabouts._unreachable", lambda: "the hub cannot be reached (a test)")


@pytest.fixture
def table(tiny_model: Path, tmp_path: Path) -> Path:
    rows = {"Tiny 1": ([str(tiny_model)], CELLS), "Gone": ([], {"mmlu": "qwen"})}
    return write_table(tmp_path / "made-up.toml", rows)


def reproduce(table: Path, *more: str, limit: int | None = 5, data: str = "sample") -> int:
    limits = ["--limit", str(limit)] if limit else []
    return cli.main(["reproduce", str(table), *more, "--data", data, "--out", str(table.parent / "out"), "--quiet", *limits])


def folder_of(table: Path, limit: int = 5) -> Path:
    return table.parent / "out" / f"made-up-sample-limit{limit}"


def planned(table: Path, capsys: pytest.CaptureFixture[str], *more: str, **settings: Any) -> dict[str, Any]:
    capsys.readouterr()
    assert reproduce(table, "--plan", "--json", *more, **settings) == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    return plan


def run_of(table: Path, limit: int = 5) -> dict[str, Any]:
    (file,) = folder_of(table, limit).glob("*/run.json")
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def test_the_plan_says_what_each_figure_takes(table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NativeLM, "open", lambda *_: pytest.fail("opened a model"))
    plan = planned(table, capsys)
    assert {m["task"]: (m["model"], m["published"], m["answered"]) for m in plan["measurements"]} == {
        f"{task}@{protocol}": ("Tiny 1", ["25.0"], 0) for task, protocol in CELLS.items()
    }
    hours = [m["hours"] for m in plan["measurements"]]
    assert all(each > 0 for each in hours)
    (gone,) = plan["out_of_reach"]
    assert (gone["model"], gone["cell"]) == ("Gone", "mmlu")
    assert "the hub cannot be reached" in gone["reason"]
    assert not list(folder_of(table).glob("*/journal.sqlite"))


def test_a_speed_measured_on_a_busy_device_is_measured_again(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hours(speed: PassSpeed) -> float:
        monkeypatch.setattr(measured, "measure", lambda model, like: speed)
        return sum(float(m["hours"]) for m in planned(table, capsys)["measurements"])

    slow = PassSpeed(tuple((tokens, 10 * seconds) for tokens, seconds in SPEED.points), SPEED.load, waited=0.9)
    busy, idle = hours(slow), hours(SPEED)
    assert busy > idle
    assert hours(slow) == idle  # what was measured on the idle device is kept


def test_the_plan_on_a_screen_of_80_columns(table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.progress.PIPE_WIDTH", 80)
    assert reproduce(table, "--plan") == 0
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if "@" in line and "25.0" in line and "cannot" not in line and "Gone" not in line]
    assert len(rows) == len(CELLS)
    assert all(len(line) <= 80 for line in rows)
    assert "Gone, mmlu@qwen (25.0): nobody/Gone: the weights are not here" in said


def test_it_measures_what_can_be_had_and_reports(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(table) == 0
    record = run_of(table)
    assert (record["status"], record["limit"]) == ("complete", 5)
    assert {name: entry["protocol"] for name, entry in record["tasks"].items()} == CELLS
    said = capsys.readouterr().out
    assert said.count("not comparable (bundled sample, not the benchmark)") == 3
    assert (folder_of(table) / "report" / "report.html").exists()
    plan = planned(table, capsys)
    assert all(m["answered"] == m["work"]["requests"] and m["hours"] == 0 for m in plan["measurements"])


def test_the_same_command_asks_no_model_again(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reproduce(table) == 0
    before = report_of(folder_of(table))
    monkeypatch.setattr(NativeLM, "prepare", lambda *_: pytest.fail("read the weights"))
    assert reproduce(table) == 0
    assert report_of(folder_of(table)) == before


def test_an_interrupted_reproduction_goes_on(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = asking._ask

    def interrupted(lm: Any, requests: Any) -> Any:
        for count, answer in enumerate(original(lm, requests)):
            if count == 2:
                raise KeyboardInterrupt
            yield answer

    with monkeypatch.context() as patch:
        patch.setattr(asking, "_ask", interrupted)
        assert reproduce(table) == 4
    assert "run the same command again" in capsys.readouterr().err
    plan = planned(table, capsys)
    assert [m["answered"] for m in plan["measurements"]] == [2, 0, 0]
    assert reproduce(table) == 0
    (tmp_path / "whole").mkdir()
    whole = tmp_path / "whole" / table.name
    whole.write_text(table.read_text())
    assert reproduce(whole) == 0
    assert report_of(folder_of(table)) == report_of(folder_of(whole))


def test_answers_to_other_rows_are_not_counted(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    shutil.copytree(SampleSource().folder, data)
    assert reproduce(table, data=str(data)) == 0
    assert all(m["answered"] == m["work"]["requests"] for m in planned(table, capsys, data=str(data))["measurements"])
    rows = data / "gsm8k" / "test.jsonl"
    rows.write_text(rows.read_text().replace("How", "And how"))
    plan = planned(table, capsys, data=str(data))
    # as a folder, the sample lacks most of MMLU's subjects
    assert {m["task"]: m["answered"] > 0 for m in plan["measurements"]} == {"gsm8k@lm-eval": False, "humaneval@codex": True}


def test_a_budget_takes_the_cheapest_and_names_the_others(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(table, capsys, "--warm-up", limit=12)
    assert all(0 < m["answered"] < 12 and m["basis"] == "its own answers" for m in plan["measurements"])
    cheap, *dear = sorted(plan["measurements"], key=lambda m: m["hours"])
    assert reproduce(table, "--budget", str(cheap["hours"] * 1.001), limit=12) == 0
    said = capsys.readouterr().out
    assert [f"{task}@{entry['protocol']}" for task, entry in run_of(table, 12)["tasks"].items()] == [cheap["task"]]
    assert all(f"left out: {m['task']}" in said for m in dear)
    assert reproduce(table, limit=12) == 0
    assert len(run_of(table, 12)["tasks"]) == 3


@pytest.mark.slow
def test_rows_on_the_same_weights_keep_each_others_figures(table: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"Base": {"mmlu": "cloze"}, "Chat": {"mmlu": "qwen", "gsm8k": "lm-eval"}}
    write_table(table, {name: ([str(tiny_model)], cells) for name, cells in rows.items()})
    assert reproduce(table, "base") == 0
    assert reproduce(table, "chat") == 0
    measured = {(task.partition("@")[0], entry["protocol"]) for task, entry in run_of(table)["tasks"].items()}
    assert measured == {("mmlu", "cloze"), ("mmlu", "qwen"), ("gsm8k", "lm-eval")}
    assert reproduce(table, "base") == 0
    assert len(run_of(table)["tasks"]) == 3
    plan = planned(table, capsys)
    assert all(m["answered"] == m["work"]["requests"] for m in plan["measurements"])
    assert {m["weights"].partition(" for ")[2] for m in plan["measurements"]} == {"nobody/Base, here", "nobody/Chat, here"}


def test_ratings_are_not_lost_for_want_of_a_judge(
    table: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = tmp_path / "chat"
    shutil.copytree(tiny_model, chat)
    (chat / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    rows = {"Chat": {"mmlu": "cloze", "mt_bench": "fastchat"}, "Base": {"mmlu": "cloze"}}
    write_table(table, {name: ([str(chat)], cells) for name, cells in rows.items()})
    with judge_server() as (server, url):
        judged = ["--judge-model", MODEL, "--judge-url", url]
        assert reproduce(table, *judged, limit=1) == 0
        before = run_of(table, 1)["tasks"]["mt_bench"]
        assert before["metrics"]["score"]["value"] == 7
        assert reproduce(table, limit=1) == 4
        assert f"which this would remove: give --judge-model {MODEL}" in capsys.readouterr().err
        assert reproduce(table, "base", *judged, limit=1) == 0
        assert run_of(table, 1)["tasks"]["mt_bench"]["metrics"] == before["metrics"]
        assert server.requests == 2  # one a turn: no judgment is asked for again


def test_a_budget_that_holds_nothing(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(table, "--budget", "1e-12", limit=30) == 2
    assert "the cheapest takes" in capsys.readouterr().err
    assert not (folder_of(table, 30) / "report").exists()


def test_what_cannot_be_had_says_why(table: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    tiny = [str(tiny_model)]
    write_table(
        table,
        {
            "No data": (tiny, {"mmlu": "qwen"}),
            "No protocol": (tiny, {"gsm8k": "no-such"}),
            "Unpublished": (tiny, {"mmlu": ""}),
            "No judge": (tiny, {"mt_bench": "fastchat"}),
            "No template": (tiny, {"humaneval": "chat"}),
            "Too large": (["random:Qwen/Qwen1.5-MoE-A2.7B"], {"mmlu": "qwen"}),
        },
    )
    assert reproduce(table, data=str(tmp_path / "empty")) == 2
    assert "nothing of" in capsys.readouterr().err
    reasons = {o["model"]: o["reason"] for o in planned(table, capsys, data=str(tmp_path / "empty"))["out_of_reach"]}
    reasons |= {o["model"]: o["reason"] for o in planned(table, capsys)["out_of_reach"]}
    assert "is missing" in reasons["No data"]
    assert "is not among evalkit's protocols" in reasons["No protocol"]
    assert "unpublished" in reasons["Unpublished"]
    assert "--judge-model" in reasons["No judge"]
    assert "GB of memory" in reasons["Too large"]
    assert "has no chat template, which humaneval@chat writes its prompts with" in reasons["No template"]


def test_one_model_that_fails_does_not_stop_the_others(
    table: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    write_table(table, {"Broken": ([str(broken)], {"mmlu": "qwen"}), "Tiny": ([str(tiny_model)], {"gsm8k": "lm-eval", "mmlu": "qwen"})})
    assert reproduce(table) == 4
    said = capsys.readouterr()
    assert "model.safetensors" in said.err
    assert set(run_of(table)["tasks"]) == {"mmlu", "gsm8k"}
    assert "Tiny" in said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["qwen2.5-codr"], "unknown published table"),
        (["TABLE", "tiny-2"], "did you mean 'tiny-1'?"),
        (["TABLE", "--budget", "0"], "budget is 0"),
        (["TABLE", "--budget", "nan"], "budget is nan"),
        (["TABLE", "--limit", "0"], "limit is 0"),
        (["TABLE", "--data", "/nowhere"], "no such folder"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = [str(table) if each == "TABLE" else each for each in arguments]
    assert cli.main(["reproduce", *(["--data", "sample"] if "--data" not in named else []), *named, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
