"""`evalkit gate`: three outcomes and their exit codes, what it refuses, and the files that CI reads."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fake_runs import edit_run, fake_run, flips

from evalkit.comparison import gate
from evalkit.comparison.ci import CI, annotation, junit
from evalkit.comparison.gate_config import GateConfig, Margins
from evalkit.errors import EvalkitError
from evalkit.report.published import read_table
from evalkit.stats.estimate import mean

HOSTILE = "a\r\n::error::owned\n##[add-mask]x %0A ]]> <b>&amp; \x00\x1b[31m\x85\u202e\ud800 \ufffe, title=x::y"


@pytest.fixture(autouse=True)
def no_github(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may themselves run on GitHub."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def two_runs(folder: Path, n: int, gained: int, lost: int) -> list[str]:
    base, cand = flips(n, gained, lost)
    return [str(fake_run(folder / "a", "old", mmlu=base)), str(fake_run(folder / "b", "new", mmlu=cand))]


def asked(runs: list[str], margin: str | float = 0.01, **options: object) -> GateConfig:
    return GateConfig(tuple(runs), Margins.parse(str(margin)), **options)  # type: ignore[arg-type]


def refusal(runs: list[str], *arguments: object, **options: object) -> str:
    with pytest.raises(EvalkitError) as caught:
        gate.gate_runs(asked(runs, *arguments, **options))  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_three_outcomes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.gate_runs(asked(two_runs(tmp_path / "pass", 2_000, 20, 21), 0.01)) == 0
    assert gate.gate_runs(asked(two_runs(tmp_path / "fail", 2_000, 10, 50), 0.01)) == 1
    assert gate.gate_runs(asked(two_runs(tmp_path / "inconclusive", 2_000, 25, 45), 0.015)) == 3
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("gate: ")] == ["gate: PASS", "gate: FAIL", "gate: INCONCLUSIVE"]
    assert "detectable" in printed


def right_and_wrong(folder: Path, n: int, right: int, lost: int, gained: int = 0) -> list[str]:
    """A base with `right` of n documents right, of which the candidate loses `lost`; it gains `gained` of the others."""
    base = [1.0] * right + [0.0] * (n - right)
    cand = [0.0] * lost + [1.0] * (right - lost) + [1.0] * gained + [0.0] * (n - right - gained)
    return [str(fake_run(folder / name, name, mmlu=scores)) for name, scores in (("a", base), ("b", cand))]


def test_a_margin_below_the_detectable_effect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = right_and_wrong(tmp_path, 50, 25, 3, 2)
    message = refusal(runs, 0.01, json=str(tmp_path / "gate.json"), junit=str(tmp_path / "gate.xml"))
    needed = int(re.search(r"takes about ([\d,]+) documents", message)[1].replace(",", ""))  # type: ignore[index]
    assert "give --margin 0.131" in message
    assert "--allow-small-margin" in message
    printed = capsys.readouterr().out  # the table all the same
    assert "CANNOT DETECT" in printed
    assert "detectable 13.08" in printed
    found = json.loads((tmp_path / "gate.json").read_text())
    assert (found["outcome"], found["exit_code"], found["tasks"]["mmlu@qwen"]["needed"]) == ("cannot detect", 2, needed)
    assert ElementTree.parse(tmp_path / "gate.xml").getroot().find(".//error") is not None
    assert gate.gate_runs(asked(runs, 0.01, allow_small_margin=True)) == 3
    # with that many the margin is no longer refused
    assert gate.decide(asked(right_and_wrong(tmp_path / "more", needed, needed // 2, 5, 5), 0.01)).word == "pass"


@pytest.mark.parametrize(("n", "right", "lost"), [(1_000, 700, 12), (1_000, 700, 86), (1_000, 600, 590), (140, 120, 71)])
def test_a_real_drop_fails_however_large_it_is(n: int, right: int, lost: int, tmp_path: Path) -> None:
    """The margin of one point is far below what these documents can detect, which does not excuse a candidate that lost more."""
    runs = right_and_wrong(tmp_path, n, right, lost)
    assert gate.gate_runs(asked(runs, 0.01)) == 1
    (outcome,) = gate.decide(asked(runs, 0.01)).outcomes
    assert 0.01 < outcome.difference.mde == gate.decide(asked([runs[0], runs[0]], 0.01)).outcomes[0].difference.mde


def test_a_margin_for_each_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = flips(2_000, 20, 20), flips(2_000, 5, 45)
    runs = [str(fake_run(tmp_path / name, name, mmlu=good[i], gsm8k=bad[i])) for i, name in enumerate("ab")]
    assert gate.gate_runs(asked(runs, "mmlu=0.01,gsm8k=0.03")) == 0
    assert "margin mmlu=0.01,gsm8k=0.03" in capsys.readouterr().out
    assert {o.task: o.margin for o in gate.decide(asked(runs, "0.02,gsm8k@qwen=0.03")).outcomes} == {"mmlu@qwen": 0.02, "gsm8k@qwen": 0.03}
    assert gate.gate_runs(asked(runs, "mmlu=0.03,gsm8k=0.01")) == 1
    assert "--margin has none for gsm8k; add gsm8k=0.01" in refusal(runs, "mmlu=0.01")
    assert "unknown task in --margin 'gsm8'; did you mean 'gsm8k'?" in refusal(runs, "0.01,gsm8=0.03")
    assert "0.01 and 0.02 for gsm8k" in refusal(runs, "0.01,gsm8k=0.01,gsm8k@qwen=0.02")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("one", "give a number"),
        ("mmlu=", "give a number"),
        ("", "give a number"),
        ("0.01,0.02", "two for all tasks"),
        ("=0.01", "name the task"),
        ("mmlu=0.01,mmlu=0.02", "two for mmlu"),
        ("nan", "between 1e-09 and 1"),
        ("mmlu=-0.01", "between 1e-09 and 1"),
        ("1e-160", "between 1e-09 and 1"),
    ],
)
def test_margins_that_are_none(text: str, complaint: str) -> None:
    with pytest.raises(EvalkitError, match=complaint):
        Margins.parse(text)


def test_no_flip_in_few_documents_is_no_pass(tmp_path: Path) -> None:
    assert "it takes about 671 documents" in refusal(two_runs(tmp_path / "few", 100, 0, 0), 0.01)
    assert gate.gate_runs(asked(two_runs(tmp_path / "few", 100, 0, 0), 0.01, allow_small_margin=True)) == 3
    assert gate.gate_runs(asked(two_runs(tmp_path / "enough", 671, 0, 0), 0.01)) == 0


def test_one_failing_task_fails_the_gate(tmp_path: Path) -> None:
    good, bad = flips(2_000, 20, 20), flips(2_000, 5, 60)
    runs = [str(fake_run(tmp_path / name, name, mmlu=good[i], gsm8k=bad[i])) for i, name in enumerate("ab")]
    found = gate.decide(asked(runs, 0.01))
    assert {o.task: o.word for o in found.outcomes} == {"mmlu@qwen": "pass", "gsm8k@qwen": "fail"}
    assert found.word == "fail"
    assert gate.decide(asked(runs, 0.01, tasks=("mmlu",))).word == "pass"


def test_holm_over_tasks(tmp_path: Path) -> None:
    """One task's p of 0.03 is a failure alone, and chance among four."""
    scores, same = flips(200, 3, 11), flips(200, 1, 1)
    alone = [str(fake_run(tmp_path / "alone" / name, name, mmlu=scores[i])) for i, name in enumerate("ab")]
    assert gate.decide(asked(alone, 0.03, allow_small_margin=True)).word == "fail"
    four = [
        str(fake_run(tmp_path / "four" / name, name, mmlu=scores[i], gsm8k=same[i], mgsm=same[i], arc=same[i]))
        for i, name in enumerate("ab")
    ]
    assert gate.decide(asked(four, 0.03, allow_small_margin=True)).word == "inconclusive"


def test_wrong_use(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, 10, 0, 0)
    assert "between 1e-09 and 1" in refusal(runs, 1.0)
    for option in ("junit", "json", "bundle"):
        with pytest.raises(EvalkitError, match=f"--{option} is empty; give a file's name, or leave it out"):
            asked(runs, **{option: ""})
    assert "takes BASE CAND" in refusal(runs[:1])
    assert "takes one RUN" in refusal(runs, against="published")
    assert "unknown value of --against" in refusal(runs, against="publshed")
    assert "cannot write" in refusal([runs[0], runs[0]], json="/dev/null/gate.json")


# --- published figures ------------------------------------------------------------------------------------------------------


def published_run(folder: Path, mmlu: float) -> list[str]:
    """A full MMLU run of Qwen1.5-MoE-A2.7B, published as 62.5."""
    right = round(mmlu * 14_042)
    run = fake_run(folder, "Qwen/Qwen1.5-MoE-A2.7B", mmlu=[1.0] * right + [0.0] * (14_042 - right))
    return [str(run)]


def test_against_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert any(row.cells["mmlu"].value == 62.5 for row in read_table("qwen1.5-moe").rows)
    run = published_run(tmp_path / "same", 0.625)
    assert "14,042 documents can detect, 0.0144" in refusal(run, 0.01, against="published")
    assert gate.gate_runs(asked(run, 0.015, against="published")) == 0
    assert "unpaired" in capsys.readouterr().out
    assert gate.gate_runs(asked(published_run(tmp_path / "worse", 0.59), 0.015, against="published")) == 1
    assert gate.gate_runs(asked(published_run(tmp_path / "near", 0.615), 0.015, against="published")) == 3


def test_what_can_not_be_gated_on_a_published_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = published_run(tmp_path, 0.625)
    edit_run(tmp_path, "mmlu", protocol="cloze")
    assert "mmlu: not gated: cannot tell (published under mmlu@qwen, measured under mmlu@cloze)" in refusal(run, 0.02, against="published")
    edit_run(tmp_path, "mmlu", protocol="qwen", data={"source": "sample", "revision": None, "sha256": "0"})
    assert "not comparable (bundled sample" in refusal(run, 0.02, against="published")
    unknown = fake_run(tmp_path / "unknown", "nobody/nothing", mmlu=[1.0, 0.0] * 7_021)
    assert "nothing published" in refusal([str(unknown)], 0.02, against="published")
    # one task gated, the other named
    edit_run(tmp_path, "mmlu", data={"source": "dir", "revision": None, "sha256": "0"})
    record = json.loads((tmp_path / "run.json").read_text())
    record["tasks"]["arc"] = record["tasks"]["mmlu"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert gate.gate_runs(asked(run, 0.02, against="published")) == 0
    assert "arc: not gated: nothing published" in capsys.readouterr().out


# --- files -----------------------------------------------------------------------------------------------------------


def test_junit(tmp_path: Path) -> None:
    good, bad, unclear = flips(2_000, 20, 20), flips(2_000, 5, 60), flips(2_000, 25, 45)
    runs = [str(fake_run(tmp_path / name, name, mmlu=good[i], gsm8k=bad[i], arc=unclear[i])) for i, name in enumerate("ab")]
    assert gate.gate_runs(asked(runs, 0.015, junit=str(tmp_path / "out" / "gate.xml"))) == 1
    suite = ElementTree.parse(tmp_path / "out" / "gate.xml").getroot().find("testsuite")
    assert suite is not None
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
    }
    tags = {case.get("name"): [child.tag for child in case] for case in suite}
    assert tags == {"mmlu@qwen": ["system-out"], "gsm8k@qwen": ["failure"], "arc@qwen": ["skipped"]}
    assert "a real drop" in str(suite.find(".//failure").get("message"))  # type: ignore[union-attr]


def test_a_gate_that_could_not_be_held_says_so_in_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("before\n")
    refusal([str(tmp_path / "none"), str(tmp_path / "none")], junit=str(tmp_path / "gate.xml"), json=str(tmp_path / "gate.json"))
    found = json.loads((tmp_path / "gate.json").read_text())
    assert (found["outcome"], found["exit_code"]) == ("not comparable", 2)
    assert "no such run" in found["reason"]
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot().find("testsuite")
    assert suite is not None
    assert suite.get("errors") == "1"
    assert (tmp_path / "summary.md").read_text().startswith("before\n## evalkit gate: not comparable\n")
    assert "::error title=evalkit gate%3A not comparable::" in capsys.readouterr().out


def test_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_runs(tmp_path, 2_000, 5, 60)
    assert gate.gate_runs(asked(runs, 0.015, summary=str(tmp_path / "mine.md"))) == 1
    assert "::" not in capsys.readouterr().out
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert gate.gate_runs(asked(runs, 0.015)) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::")]
    assert line.startswith("::error title=evalkit gate%3A mmlu@qwen%3A fail::fail: a real drop, at least the margin. Difference -2.75")
    assert gate.gate_runs(asked(two_runs(tmp_path / "unclear", 2_000, 25, 45), 0.015)) == 3
    assert "\n::warning title=" in capsys.readouterr().out
    summary = (tmp_path / "summary.md").read_text()
    assert summary.count("## evalkit gate:") == 2  # appended, not replaced
    assert "| mmlu@qwen | FAIL | 2,000 |" in summary
    assert (tmp_path / "mine.md").read_text() in summary


def test_hostile_texts() -> None:
    line = annotation("error", HOSTILE, HOSTILE)
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    title, message = re.fullmatch(r"::error title=([^:,]*)::(.*)", line).groups()  # type: ignore[union-attr]
    assert "%0D%0A%3A%3Aerror%3A%3Aowned%0A" in title
    assert message.startswith("a%0D%0A::error::owned%0A##")
    assert "%250A" in message
    for outcome in ("pass", "fail", "inconclusive", "error"):
        case = ElementTree.fromstring(junit([(HOSTILE, outcome, HOSTILE)]).encode()).find(".//testcase")
        assert case is not None
        assert "]]> <b>&amp;" in str(case.get("name"))
        assert not set("\x00\x1b\ud800\ufffe") & set(str(case.get("name")))


def test_hostile_names_in_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    base, cand = flips(2_000, 5, 60)
    name = "x|y <img src=x> ::error::owned ##[error]z"
    runs = [
        str(fake_run(tmp_path / "a", HOSTILE.replace("\ud800", "@team"), **{name: base})),
        str(fake_run(tmp_path / "b", HOSTILE.replace("\ud800", "@team"), **{name: cand})),
    ]
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    summary = tmp_path / "summary.md"
    assert gate.gate_runs(asked(runs, 0.015, summary=str(summary), junit=str(tmp_path / "g.xml"), json=str(tmp_path / "g.json"))) == 1
    printed = capsys.readouterr().out
    commands = [line for line in printed.splitlines() if line.lstrip().startswith("::")]
    assert len(commands) == 1
    assert "##[" not in printed.replace(commands[0], "")
    assert "<img" not in summary.read_text().replace("\\<", "")
    assert "\\@team" in summary.read_text()
    assert "\x1b" not in printed + summary.read_text()
    ElementTree.parse(tmp_path / "g.xml")


def test_where_the_summary_goes() -> None:
    assert CI.from_environment(None, {}) == CI(None, False)
    assert CI.from_environment(None, {"GITHUB_STEP_SUMMARY": "s", "GITHUB_ACTIONS": "true"}) == CI("s", True)
    assert CI.from_environment("mine", {"GITHUB_STEP_SUMMARY": "s"}) == CI("mine", False)


def test_a_run_against_itself_needs_no_documents(tmp_path: Path) -> None:
    run = str(fake_run(tmp_path / "a", "m", mmlu=[1.0, 0.0, 1.0]))
    assert gate.decide(asked([run, run], 0.01)).outcomes[0].reason == "all 3 answers are the same"
    assert mean([1.0, 0.0, 1.0]).value == gate.decide(asked([run, run], 0.01)).outcomes[0].difference.base


def test_blanked_answers_do_not_pass_as_the_same(tmp_path: Path) -> None:
    base, cand = (fake_run(tmp_path / name, "m", mmlu=scores) for name, scores in (("a", [1.0] * 40), ("b", [0.0] + [1.0] * 39)))
    for run in (base, cand):
        file = run / "samples" / "mmlu.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["responses"][0]["text"] = "[removed]"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert gate.decide(asked([str(base), str(cand)], 0.01)).outcomes[0].word == "cannot detect"
    assert gate.decide(asked([str(base), str(base)], 0.01)).outcomes[0].word == "pass"
