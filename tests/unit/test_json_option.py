"""--json: one strict JSON document on standard output and nothing else, on every command that prints a table."""

import io
import json
import shlex
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runs import fake_run, flips
from report_runs import entry, run

from evalkit import cli
from evalkit.cli.output import present, standard_output
from evalkit.codec import encode
from evalkit.record.write import write_record

WITHOUT_TABLES = {"view", "export", "generate", "upcycle", "quantize", "serve", "completion", "help"}
Documents = Callable[[str], Any]


@pytest.fixture(autouse=True)
def no_github(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "EVALKIT_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def document(capsys: pytest.CaptureFixture[str]) -> Documents:
    """What a command prints with --json, and its exit code as `code`."""

    def printed(command: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert cli.main([*shlex.split(command), "--json"]) == code
        out = capsys.readouterr().out
        assert out.isascii()
        return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    return printed


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    base, cand = flips(2_000, 10, 50)
    fake_run(tmp_path / "a", "old", mmlu=base)
    fake_run(tmp_path / "b", "new", mmlu=cand)
    return tmp_path


def test_every_command_that_prints_a_table_has_it() -> None:
    parsers = cli._parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    without = {name for name, parser in parsers.items() if "--json" not in parser._option_string_actions}  # type: ignore[union-attr]
    assert without <= WITHOUT_TABLES


@pytest.mark.parametrize("what", ["tasks", "protocols", "models", "tables"])
def test_lists(what: str, document: Documents) -> None:
    found = document(f"ls {what}")
    assert (found["schema"], found["kind"]) == (1, what)
    assert len(found[what]) >= 2
    assert set(found) == {"schema", "kind", what, "notes"}


def test_a_list_has_figures_as_numbers(document: Documents) -> None:
    (mmlu,) = [each for each in document("ls tasks")["tasks"] if each["task"] == "mmlu"]
    assert mmlu["n"] == 14_042
    assert mmlu["default"] in mmlu["protocols"]


def test_runs_are_as_in_run_json(runs: Path, document: Documents) -> None:
    (runs / "broken").mkdir()
    (runs / "broken" / "run.json").write_text("{")
    broken, *whole = document(f"ls runs --out {runs}")["runs"]
    assert set(broken) == {"folder", "problem"}
    assert whole == [{"folder": str(runs / name), **json.loads((runs / name / "run.json").read_text())} for name in "ab"]
    assert [each["name"] for each in document(f"ls runs OLD --out {runs}")["runs"]] == ["a"]
    assert document(f"ls runs nothing --out {runs}")["runs"] == []


def test_data(tmp_path: Path, document: Documents) -> None:
    (status,) = document(f"data status gsm8k --data {tmp_path}")["data"]
    assert status == {"task": "gsm8k", "source": "dir", "files": 2, "present": 0, "without": status["without"]}
    (good,) = document("data verify mmlu@cloze --data sample")["data"]
    assert (good["state"], good["n"], len(good["sha256"])) == ("sample", 140, 64)
    (bad,) = document(f"data verify gsm8k --data {tmp_path}", code=2)["data"]
    assert "sha256" not in bad
    assert bad["problem"]


def test_parameters(document: Documents) -> None:
    found = document("params qwen1.5-moe-a2.7b")["parameters"]
    assert [each["parameters"] for each in found if each["figure"] == "total"] == [14_315_784_192]


def test_compare_and_gate(runs: Path, tmp_path: Path, document: Documents) -> None:
    compared = document(f"compare {runs}/a {runs}/b --out {tmp_path}/out")
    assert compared == json.loads((tmp_path / "out" / "compare.json").read_text())
    file = tmp_path / "gate.json"
    assert cli.main(["gate", f"{runs}/a", f"{runs}/b", "--json", str(file), "--bundle", f"{tmp_path}/bundle"]) == 1
    gate = document(f"gate {runs}/a {runs}/b", code=1)
    assert gate == json.loads(file.read_text())
    assert [task["value"] for task in gate["tasks"].values()] == [-0.02]
    audited = document(f"audit {tmp_path}/bundle")
    assert audited["tasks"] == gate["tasks"]
    assert audited["audit"]


def test_runs_that_are_not_comparable(runs: Path, document: Documents) -> None:
    fake_run(runs / "c", "other", gsm8k=[1.0, 0.0])
    refused = document(f"gate {runs}/a {runs}/c", code=2)
    assert (refused["outcome"], refused["exit_code"]) == ("not comparable", 2)


def test_a_refused_command_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1


def test_report(tmp_path: Path, document: Documents) -> None:
    record = run("Qwen/Qwen1.5-MoE-A2.7B", "base", mmlu=entry(0.6211))
    write_record(tmp_path / "base", record)
    (page,) = document(f"report {tmp_path}/base")["tables"]
    (line,) = [each for each in page["figures"] if each["run"] == "base"]
    assert (line["task"], line["protocol"], line["published"], line["verdict"]) == ("mmlu", "qwen", 62.5, "reproduced")
    assert line["measured"] == pytest.approx(62.11)
    assert line["fingerprint"] == record.model.fingerprint
    assert line["data"] == encode(record.tasks["mmlu"].data)
    (own,) = document(f"report {tmp_path}/base --runs-only")["tables"]
    assert [each["verdict"] for each in own["figures"]] == ["nothing published"]


STRAYS = """
import os
from argparse import Namespace
from evalkit.cli.output import present, standard_output
arguments = Namespace(json=True)
with standard_output(arguments):
    print("from a library", flush=True)
    os.system("echo from a child")
    os.write(1, b"from C\\n")
    present(arguments, lambda: {"a": "\\u00e9"}, lambda: None)
print("afterwards")
"""


def test_what_else_is_printed_goes_to_standard_error() -> None:
    """A library's print, and what a child process or C code writes to the descriptor."""
    found = subprocess.run([sys.executable, "-c", STRAYS], capture_output=True, text=True, check=True)
    assert found.stdout == '{\n  "a": "\\u00e9"\n}\nafterwards\n'
    assert found.stderr == "from a library\nfrom a child\nfrom C\n"


def test_without_it_the_tables_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (Namespace(json=False), Namespace(json="FILE"), Namespace()):
        with standard_output(arguments):
            present(arguments, lambda: pytest.fail("the document is not asked for"), lambda: print("table"))
        assert capsys.readouterr().out == "table\n"


def test_an_infinite_figure_is_no_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    arguments = Namespace(json=True)
    with standard_output(arguments), pytest.raises(ValueError, match="not JSON compliant"):
        present(arguments, lambda: {"a": float("inf")}, lambda: None)
