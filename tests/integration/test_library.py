"""evalkit as a library: docs/library.md and the README's program as they are written, the exported names, and what a call may not do."""

import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import library_user
import pandas
import pytest
from fake_runs import fake_run, flips

import evalkit
from evalkit import cli
from evalkit.comparison.gate_config import GateConfig, Sequential
from evalkit.config import RunConfig
from evalkit.errors import EvalkitError
from evalkit.lm.native import NativeLM

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
NAMES = {"Comparison", "Gate", "Run", "compare", "gate", "load_run", "run"}
ERRORS = {name for name, each in vars(sys.modules["evalkit.errors"]).items() if isinstance(each, type) and issubclass(each, EvalkitError)}


def programs(page: str) -> str:
    """The Python of a page, one block after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("README.md", [r"Estimate\(value=0\.\d+, .*n=28\)", r"astronomy +\d\.\d+"]),
        (
            "docs/library.md",
            [
                r"^0\.\d{3} \(0\.\d{3} to 0\.\d{3}\), 14 documents, /",
                r"astronomy +\d\.\d+ +1",
                r"doc_id +extracted +target",
                r"^mmlu -?0\.\d+",
                r"^(pass|fail|inconclusive) (True|False) \[\('mmlu@qwen', '",
            ],
        ),
    ],
)
def test_the_programs_of_the_pages_run(
    page: str, printed: list[str], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tiny model in place of the one that has to be installed."""
    program = programs(page)
    assert program.count('"smollm2-135m"') == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(program.replace('"smollm2-135m"', repr(str(tiny_model))), page, "exec"), {"__name__": "program"})
    out, err = capsys.readouterr()
    for pattern in printed:
        assert re.search(pattern, out, re.MULTILINE), pattern
    assert err == ""


def test_the_exported_names() -> None:
    assert set(evalkit.__all__) == NAMES | ERRORS
    assert sorted(evalkit.__all__) == evalkit.__all__
    assert set(dir(evalkit)) == {*evalkit.__all__, "__version__"}
    given: dict[str, object] = {}
    exec("from evalkit import *", given)
    assert given.keys() - {"__builtins__"} == set(evalkit.__all__)
    # and nothing else that looks public, but for evalkit's own modules
    assert not {name for name in vars(evalkit) if name[0] != "_" and f"evalkit.{name}" not in sys.modules} - set(evalkit.__all__)
    with pytest.raises(AttributeError, match=r"has no attribute 'evaluate'; it has .*load_run"):
        _ = evalkit.evaluate  # type: ignore[attr-defined]


def test_importing_it_imports_nothing_else() -> None:
    code = "import sys, typing; before = {*sys.modules}; import evalkit; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["evalkit"]
    code = "import sys, evalkit; evalkit.run, evalkit.load_run, evalkit.Run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "scipy", "transformers"} & {*done.stdout.split()}


def test_a_runs_settings_are_the_commands() -> None:
    """By name, order and default: a setting that is new in RunConfig is missing here."""
    parameters = inspect.signature(evalkit.run).parameters
    settings = {field.name: field for field in fields(RunConfig)}
    assert [*parameters] == [*settings]
    differ = {name for name, each in parameters.items() if settings[name].default not in (each.default, *MISSING)}
    assert differ == {"quiet"}
    assert parameters["quiet"].default is True
    assert parameters["chat_template_args"].default is None


MISSING = [field.default for field in fields(RunConfig) if field.name in ("tasks", "chat_template_args")]  # no default, or a factory


def test_a_gates_settings_are_the_commands() -> None:
    files = {"junit", "summary", "json", "comment", "bundle"}  # which a call does not write
    parameters = inspect.signature(evalkit.gate).parameters
    assert {*parameters} == {field.name for field in fields(GateConfig)} - files - {"sequential", "margins"} | {"margin"}
    defaults = {field.name: field.default for field in fields(GateConfig)}
    assert all(each.default == defaults[name] for name, each in parameters.items() if name not in ("runs", "margin"))


def test_the_same_call_and_the_command_resume(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = library_user.by_name(tiny_model, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (first.folder.parent, first.is_complete, first.tasks["mmlu"].n) == (tmp_path, True, 6)
    monkeypatch.setattr(NativeLM, "loglikelihood", lambda *_: pytest.fail("asked again"))
    again = library_user.by_name(tiny_model, tmp_path)
    assert again.tasks == first.tasks
    # the command that is recorded is the one that resumes it
    assert first.command.startswith(f"evalkit run --tasks mmlu --model {tiny_model} --data sample --limit 6 --out {tmp_path} --name ")
    assert cli.main([*first.command.split()[1:], "--quiet"]) == 0
    assert evalkit.load_run(first.folder).tasks == first.tasks == evalkit.load_run(first.folder / "run.json").tasks


def test_progress_is_shown_where_it_is_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evalkit.run("gsm8k@lm-eval", model=lambda prompt: "#### 1", data="sample", limit=2, out=tmp_path, quiet=False)
    out, err = capfd.readouterr()
    assert out == ""
    assert "no fingerprint: no answer of an earlier run is used" in err


def test_an_object_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = library_user.by_object(tmp_path)
    assert (first.model.spec, first.model.engine, first.model.layout_invariant) == ("Shortest", "python", False)
    assert first.command == (
        "evalkit.run(['mmlu', 'gsm8k@lm-eval'], model=<Shortest>, data='sample', limit=6, " + f"out='{tmp_path}', name='object')"
    )
    monkeypatch.setattr(library_user.Shortest, "generate", lambda *_: pytest.fail("asked again"))
    assert library_user.by_object(tmp_path).tasks == first.tasks
    monkeypatch.setattr(library_user.Shortest, "fingerprint", lambda self: "shortest 2")
    monkeypatch.setattr(library_user.Shortest, "generate", lambda self, requests: ["#### 18"] * len(requests))
    assert library_user.by_object(tmp_path).model.fingerprint != first.model.fingerprint


def test_a_function_is_a_model_and_is_asked_anew(tmp_path: Path) -> None:
    """What a function does can't be hashed: no answer of an earlier one is taken for its own."""
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return f"so it is {answers.pop()}.\n\nQuestion: is it?"

    answers = [18] * 12
    first, second = (evalkit.run("gsm8k@lm-eval", model=answer, data="sample", limit=6, out=tmp_path, name="f") for _ in range(2))
    assert (first.model.spec, len(asked)) == ("answer", 12)
    assert first.model.fingerprint != second.model.fingerprint
    assert all(row.responses[0].text == "so it is 18.\n\n" for row in second.samples("gsm8k"))  # "Question:" is a stop string
    with pytest.raises(
        EvalkitError, match=r"^answer is a callable, prompt -> text, and the task asks for log-probabilities; give an object"
    ):
        evalkit.run("mmlu", model=answer, data="sample", limit=1, out=tmp_path)
    with pytest.raises(EvalkitError, match=r"asks for answers sampled at temperature 0\.8"):
        evalkit.run("humaneval", model=answer, data="sample", limit=1, out=tmp_path, temperature=0.8, allow_unsafe_code=True)
    with pytest.raises(
        evalkit.OwnCodeError, match=r"test_library\.py line \d+: answer failed \(IndexError: .*12 answers are kept"
    ) as raised:
        evalkit.run("gsm8k@lm-eval", model=answer, data="sample", limit=6, out=tmp_path, name="f")
    assert isinstance(raised.value.__cause__, IndexError)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": "mmul"}, "did you mean 'mmlu'"),
        ({"tasks": None}, r"tasks is None; give names"),
        ({"limit": "5"}, r'^evalkit.run: limit is "5", expected a whole number or null; see help\(evalkit.run\)'),
        ({"temperature": "hot"}, "temperature is"),
        ({"limit": 0}, "limit is 0; give at least 1"),
        ({"model": library_user.Shortest}, r"model is the class Shortest; give an object of it, as in model=Shortest\(\)"),
        ({"model": 3}, r"model is 3; give a SPEC as a text, an object with the methods loglikelihood\(requests\), .*, or a callable"),
        (
            {"model": object.__new__(type("Half", (), {"generate": lambda self, requests: []}))},
            r"^Half has no loglikelihood\(requests\), no",
        ),
        ({"model": library_user.Shortest(), "engine": "llama_cpp"}, "engine is 'llama_cpp', and the model an object"),
        ({"model": library_user.Shortest(), "device": "cpu"}, "device is 'cpu', which a model of one's own can't be told"),
        ({"model": "./nowhere"}, "no such file or folder"),
        ({"engine": "python"}, "unknown engine 'python'"),
        ({"name": "../x"}, "name is '../x'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(EvalkitError, match=message):
        evalkit.run(**{"tasks": "mmlu", "data": "sample", "out": tmp_path, **settings})  # type: ignore[arg-type]
    assert not [*tmp_path.iterdir()]


def test_a_frame_has_a_row_a_document(tmp_path: Path) -> None:
    run = library_user.by_object(tmp_path)
    frame = run.to_pandas()
    assert [*frame.columns[:4]] == ["task", "protocol", "doc_id", "group"]
    assert frame.dtypes[["task", "acc", "prompt", "truncated"]].astype(str).to_list() == ["category", "float64", "string", "bool"]
    assert frame.groupby("task", observed=True).size().to_dict() == {"mmlu": 6, "gsm8k": 6}
    for task, metric in (("mmlu", "acc"), ("gsm8k", "exact_match_flexible")):
        own = frame[frame.task == task]
        assert own[metric].mean() == pytest.approx(run.tasks[task].metrics[metric].value)
        assert own.extraction_failed.sum() == run.tasks[task].counts.extraction_failed
        assert own.doc_id.to_list() == [row.doc_id for row in run.samples(task)]
    assert frame[frame.task == "mmlu"][["response", "exact_match_strict"]].isna().all().all()
    assert set(frame[frame.task == "gsm8k"].response) == {"The answer is 18."}
    with pytest.raises(EvalkitError, match=r"unknown task in .*: 'mmul'; did you mean 'mmlu'"):
        run.samples("mmul")


def test_a_frame_of_odd_metrics(tmp_path: Path) -> None:
    """A metric that has another column's name, and one that only the corpus has."""
    folder = fake_run(tmp_path / "r", t=[1.0, 0.0])
    file = folder / "samples" / "t.jsonl"
    file.write_text(file.read_text().replace('"metrics": {"acc"', '"metrics": {"bleu": [["x"], "y"], "target": 0.5, "acc"'))
    frame = evalkit.load_run(folder).to_pandas()
    assert frame["metrics.target"].to_list() == [0.5, 0.5]
    assert frame["target"].to_list() == ["A", "A"]
    assert "bleu" not in frame
    assert isinstance(frame, pandas.DataFrame)


def test_without_pandas_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = evalkit.load_run(fake_run(tmp_path / "r", t=[1.0]))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(EvalkitError, match=r"to_pandas needs pandas; run `pip install 'evalkit-lm\[pandas\]'`"):
        run.to_pandas()


def test_a_run_is_frozen_and_typed(tmp_path: Path) -> None:
    run = library_user.by_object(tmp_path)
    assert library_user.figure(run.folder) == run.tasks["mmlu"].metrics["acc"]
    assert library_user.judged(run, run.folder) == "pass"
    with pytest.raises(AttributeError):
        run.name = "other"  # type: ignore[misc]
    with pytest.raises(EvalkitError, match="is not a run: cannot read"):
        evalkit.load_run(tmp_path)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, evalkit.Run]:
    """A base, and a candidate that lost 100 of 1,000 documents."""
    base, cand = flips(1_000, gained=5, lost=105)
    fake_run(tmp_path / "cand", "cand", mmlu=cand)
    return fake_run(tmp_path / "base", "base", mmlu=base), evalkit.load_run(tmp_path / "cand")


def test_compare_and_gate_say_and_write_nothing(
    runs: tuple[Path, evalkit.Run], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = runs[0].parent / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    (task,) = evalkit.compare(*runs).tasks
    assert (task.difference.value, task.difference.gained, task.difference.lost) == (pytest.approx(-0.1), 5, 105)
    gate = evalkit.gate(*runs, margin=0.05)
    assert (gate.word, gate.passed, gate.outcomes[0].difference) == ("fail", False, task.difference)
    assert evalkit.gate(runs[1], runs[0], margin="mmlu=0.05").passed
    assert evalkit.gate(*runs, margin={"mmlu": 0.11}, allow_small_margin=True).word == "inconclusive"
    assert capfd.readouterr() == ("", "")
    assert not summary.exists()


def test_what_a_gate_refuses(runs: tuple[Path, evalkit.Run]) -> None:
    policy = runs[0].parent / "gate.toml"
    policy.write_text('[[rule]]\ntask = "mmlu"\nmargin = 0.05\n')
    other = fake_run(runs[0].parent / "other", "other", mmlu=flips(1_000, gained=5, lost=5)[1])
    with pytest.raises(EvalkitError, match=r"^margin 0\.001 is below what mmlu@qwen's 1,000 documents can detect"):
        evalkit.gate(runs[0], other, margin=0.001)
    with pytest.raises(EvalkitError, match="margin is 5; give it in the metric's unit"):
        evalkit.gate(*runs, margin=5)
    with pytest.raises(EvalkitError, match="1 runs given"):
        evalkit.gate(runs[0])
    with pytest.raises(EvalkitError, match="--margin stands beside --policy"):
        evalkit.gate(*runs, margin=0.05, policy=policy)
    with pytest.raises(EvalkitError, match=f"{os.sep}nowhere: no such run"):
        evalkit.compare(runs[0], "/nowhere")
    assert "sequential" not in inspect.signature(evalkit.gate).parameters  # the command's alone, as docs/library.md says
    assert Sequential.__name__ not in evalkit.__all__
