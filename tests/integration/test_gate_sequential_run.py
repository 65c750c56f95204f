"""`evalkit gate BASE --model SPEC --sequential` on a tiny model: what it computes and leaves behind; `evalkit run` finishes it."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.lm.native import NativeLM
from evalkit.record.pairs import read_our_answers
from evalkit.record.read import read_run
from evalkit.runner.journal import Journal
from evalkit.tasks import Loglikelihood, Loglikelihoods

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's 140 documents."""
    out = tmp_path_factory.mktemp("base")
    arguments = ["run", "--tasks", "mmlu@cloze", "--model", str(tiny_model), "--data", "sample", "--out", str(out), "--name", "base"]
    assert cli.main([*arguments, "--quiet"]) == 0
    return out / "base"


def sequential(base: Path, model: Path, out: Path, *options: str) -> list[str]:
    """The gate's command."""
    arguments = ["gate", str(base), "--sequential", "--model", str(model), "--data", "sample", "--out", str(out), "--name", "cand"]
    return [*arguments, "--margin", "0.06", "--quiet", "--allow-small-margin", *options]


def answers(folder: Path) -> int:
    journal = Journal(folder / "journal.sqlite", read_only=True)
    try:
        return len(journal)
    finally:
        journal.close()


def test_it_computes_what_the_decision_needs_and_evalkit_run_does_the_rest(
    base: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = sequential(base, tiny_model, tmp_path, "--json", str(tmp_path / "live.json"))
    assert cli.main(gate) == 0
    printed = capsys.readouterr().out
    live = json.loads((tmp_path / "live.json").read_text())["tasks"]["mmlu@cloze"]
    cand = tmp_path / "cand"
    assert live["n"] == answers(cand) < 130
    assert live["of"] == 140

    # a part is no run: nothing takes it for one
    record = read_run(cand)
    assert (record.status, dict(record.tasks)) == ("incomplete", {})
    assert record.command.startswith("evalkit run --tasks mmlu@cloze --model ")
    assert f"stays incomplete: `{record.command}` answers the rest" in printed
    for command in (["compare", str(base), str(cand)], ["gate", str(base), str(cand)]):
        assert cli.main(command) == 2
        assert f"incomplete; run `{record.command}` again to finish it" in capsys.readouterr().err
    assert cli.main(["report", str(cand), "--runs-only", "--out", str(tmp_path / "report")]) == 2
    assert "incomplete" in capsys.readouterr().err

    # the same command decides the same out of the journal, and reads no weights
    with monkeypatch.context() as patched:
        patched.setattr(NativeLM, "prepare", lambda *_: pytest.fail("the weights were read"))
        assert cli.main(gate) == 0
    assert json.loads((tmp_path / "live.json").read_text())["tasks"]["mmlu@cloze"] == live

    assert cli.main([*shlex.split(record.command)[1:], "--quiet"]) == 0
    assert read_run(cand).is_complete
    assert (cand / "samples" / "mmlu.jsonl").read_bytes() == (base / "samples" / "mmlu.jsonl").read_bytes()
    found = re.search(r"in the order of (--order-seed 0 --block \d+);", printed)
    assert found
    replay = ["gate", str(base), str(cand), "--replay-order", *found[1].split(), "--margin", "0.06", "--allow-small-margin", "--json"]
    assert cli.main([*replay, str(tmp_path / "replay.json")]) == 0
    assert json.loads((tmp_path / "replay.json").read_text())["tasks"]["mmlu@cloze"] == live

    # a gate on top of a finished run leaves it as it is
    whole = (cand / "run.json").read_bytes()
    assert cli.main(gate) == 0
    assert (cand / "run.json").read_bytes() == whole


def test_a_guided_order_is_replayed(base: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a candidate whose numerics differ, so that some answers flip; blocks share what their prompts begin with."""
    gate = sequential(base, tiny_model, tmp_path, "--order", "margin", "--dtype", "bfloat16", "--margin", "0.2", "--json")
    assert cli.main([*gate, str(tmp_path / "live.json")]) in (0, 3)
    found = re.search(r"in the order of (--order-seed 0 --block \d+ --order margin);", capsys.readouterr().out)
    assert found
    record = read_run(tmp_path / "cand")
    assert cli.main([*shlex.split(record.command)[1:], "--quiet"]) == 0
    replay = ["gate", str(base), str(tmp_path / "cand"), "--replay-order", *found[1].split(), "--margin", "0.2", "--allow-small-margin"]
    assert cli.main([*replay, "--json", str(tmp_path / "replay.json")]) in (0, 3)
    live, replayed = (json.loads((tmp_path / name).read_text())["tasks"] for name in ("live.json", "replay.json"))
    assert live == replayed
    assert live["mmlu@cloze"]["n"] < 140


def test_a_gate_that_sees_all_documents_leaves_a_whole_run(base: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert cli.main(sequential(base, tiny_model, tmp_path, "--margin", "0.001")) == 0  # all answers are the same
    assert read_run(tmp_path / "cand").is_complete
    assert cli.main(["gate", str(base), str(tmp_path / "cand"), "--allow-small-margin"]) == 0


def test_limits(base: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "gate.json"), "--junit", str(tmp_path / "gate.xml")]
    assert cli.main(sequential(base, tiny_model, tmp_path, "--max-minutes", "0.00001", *files)) == 3
    assert "undecided: --max-minutes 1e-05 are over before the first look at mmlu@cloze: inconclusive" in capsys.readouterr().err
    found = json.loads((tmp_path / "gate.json").read_text())
    assert (found["outcome"], found["exit_code"]) == ("inconclusive", 3)
    assert answers(tmp_path / "cand") >= 1  # those that came are kept
    assert cli.main(sequential(base, tiny_model, tmp_path, "--max-documents", "30")) == 3
    assert "undecided: --max-documents 30 after" in capsys.readouterr().out
    assert read_run(tmp_path / "cand").status == "incomplete"


def test_what_cannot_be_asked_again_is_refused_before_the_model_is_opened(
    base: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalkit.runner.run.open_lm", lambda *_: pytest.fail("the model was opened"))
    without = [each for each in sequential(base, tiny_model, tmp_path) if each != "--allow-small-margin"]
    assert cli.main([*without, "--margin", "0.01"]) == 2
    assert "mmlu@cloze's 140 documents can detect" in capsys.readouterr().err
    (results,) = (base / "lm_eval").glob("*/results_*.json")
    assert cli.main(sequential(results, tiny_model, tmp_path)) == 2
    assert "is lm-eval's, whose tasks are not asked here" in capsys.readouterr().err
    changed = tmp_path / "changed"
    (changed / "samples").mkdir(parents=True)
    for name in ("run.json", "samples/mmlu.jsonl"):
        (changed / name).write_text((base / name).read_text().replace('"prompt_hash": "', '"prompt_hash": "0'))
    assert cli.main(sequential(changed, tiny_model, tmp_path)) == 2
    assert "the prompts of 140 of 140 documents differ" in capsys.readouterr().err
    assert not (tmp_path / "cand").exists()


def test_a_finished_run_of_another_model_is_not_replaced(
    base: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["run", "--tasks", "mmlu@cloze", "--model", str(tiny_model), "--dtype", "bfloat16", "--data", "sample", "--out", str(tmp_path)]
    assert cli.main([*other, "--name", "cand", "--quiet"]) == 0
    before = (tmp_path / "cand" / "run.json").read_bytes()
    assert cli.main(sequential(base, tiny_model, tmp_path)) == 2
    assert "holds a finished run of another model" in capsys.readouterr().err
    assert (tmp_path / "cand" / "run.json").read_bytes() == before


def test_two_tasks_take_turns_and_a_chosen_one_is_run_alone(tiny_model: Path, tmp_path: Path) -> None:
    run = ["run", "--tasks", "mmlu@cloze,mmlu@qwen", "--model", str(tiny_model), "--data", "sample", "--limit", "40", "--quiet"]
    assert cli.main([*run, "--out", str(tmp_path), "--name", "base"]) == 0
    for name, options, keys in (("both", (), {"mmlu@cloze", "mmlu@qwen"}), ("one", ("--tasks", "mmlu@qwen"), {"mmlu"})):
        out = tmp_path / name
        command = sequential(tmp_path / "base", tiny_model, out, "--margin", "0.25", "--json", str(tmp_path / "g.json"), *options)
        assert cli.main(command) == 0
        found = json.loads((tmp_path / "g.json").read_text())["tasks"]
        assert found.keys() == {"mmlu@qwen"} | ({"mmlu@cloze"} if name == "both" else set())
        assert all(task["n"] < task["of"] == 40 for task in found.values())
        assert answers(out / "cand") == sum(task["n"] for task in found.values())
        record = read_run(out / "cand")
        assert record.limit == 40
        assert cli.main([*shlex.split(record.command)[1:], "--quiet"]) == 0
        assert read_run(out / "cand").tasks.keys() == keys


def test_an_engine_that_fails_ends_the_gate_undecided_and_keeps_the_answers(
    base: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = sequential(base, tiny_model, tmp_path, "--json", str(tmp_path / "gate.json"))
    whole = NativeLM.loglikelihood

    def breaks(self: NativeLM, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        for number, answer in enumerate(whole(self, requests)):
            if number == 5:
                raise RuntimeError("out of memory")
            yield answer

    with monkeypatch.context() as patched:
        patched.setattr(NativeLM, "loglikelihood", breaks)
        assert cli.main(gate) == 4
    assert "the engine failed (RuntimeError: out of memory); 5 answers are kept" in capsys.readouterr().err
    found = json.loads((tmp_path / "gate.json").read_text())
    assert (found["outcome"], found["exit_code"]) == ("incomplete", 4)
    assert cli.main(gate) == 0
    assert json.loads((tmp_path / "gate.json").read_text())["outcome"] == "pass"


def test_a_suite_is_gated_set_by_set(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--tasks", "belebele,m3exam", "--model", str(tiny_model), "--data", "sample", "--quiet", "--out", str(tmp_path)]
    assert cli.main([*run, "--name", "base"]) == 0
    gate = sequential(tmp_path / "base", tiny_model, tmp_path, "--margin", "0.3", "--json", str(tmp_path / "g.json"))
    assert cli.main(gate) in (0, 3)
    capsys.readouterr()
    found = json.loads((tmp_path / "g.json").read_text())["tasks"]
    base = read_our_answers(tmp_path / "base")
    assert len(found) == len(base.tasks)
    for name, task in base.tasks.items():
        entry = found[task.protocol["protocol"]]
        assert entry["of"] == len(task.answers), name
        assert entry["word"] in ("pass", "inconclusive")
    record = read_run(tmp_path / "cand")
    if not record.is_complete:
        assert cli.main([*shlex.split(record.command)[1:], "--quiet"]) == 0
    for file in sorted((tmp_path / "base" / "samples").iterdir()):
        assert file.read_bytes() == (tmp_path / "cand" / "samples" / file.name).read_bytes()
