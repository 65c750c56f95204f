"""A model of one's own, `--engine python:FILE:CLASS`: docs/models.md as it is written, no stale answer, one line for whatever is wrong."""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evalkit import cli
from evalkit.config import ModelSpec, RunConfig
from evalkit.errors import EvalkitError, OwnCodeError
from evalkit.lm import open_lm, require_model
from evalkit.lm.python.engine import BATCH, PythonLM
from evalkit.progress import Reporter
from evalkit.runner.verify import verify
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods
from evalkit.tasks.own_file import _run, run_file

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8").partition("## A model of your own\n")[2].partition("\n## ")[0]
(PROGRAM,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^    (evalkit .+)$", PAGE, re.MULTILINE)
CLASS = """
class {name}:
    def loglikelihood(self, requests):
        return [[(-1.0, False)] * len(each.continuations) for each in requests]
    def loglikelihood_rolling(self, texts):
        return [-1.0] * len(texts)
    def generate(self, requests):
        return {answers}
{more}"""


@pytest.fixture(autouse=True)
def as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file's folder is on the path of modules from then on; tracebacks are kept in the temporary directory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = [*sys.path]
    yield
    sys.path[:] = before


def written(folder: Path, text: str = "", name: str = "mine.py", **parts: str) -> str:
    """The engine of a class in a file."""
    parts = {"name": "Mine", "answers": "['#### 1'] * len(requests)", "more": ""} | parts
    (folder / name).write_text(text + CLASS.format(**parts))
    return f"python:{folder / name}:Mine"


def test_the_page_followed_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(PROGRAM.splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(PROGRAM)
    assert [cli.main(shlex.split(command)[1:]) for command in COMMANDS] == [0, 0, 0]
    out, err = capsys.readouterr()
    assert "no layout invariance (engine python:my_model.py:Short)" in out
    assert "layout invariance is not proven for a model of one's own" in err
    assert "invariant: every log-probability and every generated token is the same in all 4 layouts (python:my_model.py:Short)" in out
    four, eighteen = (json.loads(file.read_text()) for file in sorted(tmp_path.glob("results/runs/*/run.json"), reverse=True))
    assert [(run["model"]["spec"], run["status"], run["tasks"]["gsm8k"]["n"]) for run in (four, eighteen)] == [
        ("Short", "complete", 60),
        ("18", "complete", 60),
    ]
    assert four["model"]["fingerprint"] != eighteen["model"]["fingerprint"]
    assert four["model"]["layout_invariant"] is False
    assert "not proven" in four["model"]["notices"][0]
    # the shortest option, as the class has it
    rows = [json.loads(line) for line in (next(tmp_path.glob("results/runs/short-*/samples")) / "mmlu.jsonl").read_text().splitlines()]
    assert rows[0]["responses"][0]["logprobs"] == [-2.0] * 4


def run(engine: str, out: Path, *more: str) -> int:
    return cli.main(["run", "--tasks", "gsm8k@lm-eval", "--engine", engine, "--data", "sample", "--limit", "4", "--out", str(out), *more])


def fingerprint(engine: str, model: str | None = None) -> str:
    return open_lm(ModelSpec(model, engine)).fingerprint


def test_no_answer_is_stale(tmp_path: Path) -> None:
    """Another file, module beside it, --model, or content of what --model names: another fingerprint; else the same one."""
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").write_text("from . import words\n")
    (tmp_path / "helpers" / "words.py").write_text("WORD = 1\n")
    (tmp_path / "aside.py").write_text("")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w").write_text("1")
    begin = "import numpy\nfrom helpers import words\n"
    takes = "    def __init__(self, model=None): pass\n"
    seen = [fingerprint(written(tmp_path, begin))]
    assert fingerprint(written(tmp_path, begin)) == seen[0]
    (tmp_path / "aside.py").write_text("x = 1")  # nothing imports it
    assert fingerprint(written(tmp_path, begin)) == seen[0]
    engine = written(tmp_path, begin, more=takes)
    seen += [fingerprint(engine), fingerprint(engine, "a"), fingerprint(engine, str(tmp_path / "weights"))]
    (tmp_path / "weights" / "w").write_text("2")
    seen.append(fingerprint(engine, str(tmp_path / "weights")))
    seen.append(fingerprint(engine, str(tmp_path / "weights" / "w")))
    code = f"from evalkit.config import ModelSpec; from evalkit.lm import open_lm; print(open_lm(ModelSpec(None, {engine!r})).fingerprint)"
    before = new_process(code)
    assert before == seen[1]  # of no process alone
    (tmp_path / "helpers" / "words.py").write_text("WORD = 2\n")
    seen.append(new_process(code))
    assert len({*seen}) == len(seen)


def test_a_module_beside_the_file_is_the_one_that_is_imported(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("")
    with pytest.raises(
        EvalkitError, match=r"mine\.py imports random, which is \S+random\.py here, and not .*/random\.py beside it; rename"
    ):
        require_model(ModelSpec(None, written(tmp_path, "import random\n")))


def new_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_fingerprint_takes_the_files_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    says = (
        "    def __init__(self, model=None): self.name, self.num_parameters = 'mine-2b', (2, 1)\n    def fingerprint(self): return {!r}\n"
    )
    assert run(written(tmp_path, more=says.format("v1")), tmp_path, "--name", "r") == 0
    engine = written(tmp_path, "# rewritten\n", answers="1 / 0", more=says.format("v1"))
    assert run(engine, tmp_path, "--name", "r") == 0  # nothing is asked again
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert (record["model"]["spec"], record["model"]["parameters"]) == ("mine-2b", {"total": 2, "activated": 1})
    assert not any("fingerprint" in notice for notice in record["model"]["notices"])
    assert fingerprint(engine) != fingerprint(engine, "other")
    assert fingerprint(engine) != fingerprint(written(tmp_path, more=says.format("v2")))
    assert run(written(tmp_path), tmp_path, "--name", "by file") == 2
    assert run(written(tmp_path), tmp_path, "--name", "by-file") == 0
    assert "fingerprint: " in json.loads((tmp_path / "by-file" / "run.json").read_text())["model"]["notices"][1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"mine\.py: no such file"),
        ("x = 1\n\nclass Mine(\n", r"mine\.py line \d: the import failed \(SyntaxError: .*; the traceback is in "),
        (
            "\nimport nothing_of_the_kind\nclass Mine: pass",
            r"mine\.py line 2: the import failed \(ModuleNotFoundError: No module named 'noth",
        ),
        ("import sys\nsys.exit(1)", r"mine\.py line 2: the import failed \(SystemExit: 1\)"),
        ("class Mien: pass", r"unknown class of .*mine\.py 'Mine'; did you mean 'Mien'"),
        ("def Mine(): pass", r"Mine in .*mine\.py is a function, not a class"),
        (
            "class Mine:\n    def generate(self, requests): pass",
            r"Mine in .* has no loglikelihood\(requests\), no loglikelihood_rolling\(texts\); a",
        ),
        (
            CLASS.replace("generate(self, requests)", "generate(self)"),
            r"Mine in .*\.generate\(self\) can't be called as it will be, generate\(re",
        ),
        (CLASS.replace("texts):", "texts, n):"), r"loglikelihood_rolling\(self, texts, n\) can't be called as it will be"),
        (
            CLASS.replace("def generate", "async def generate"),
            r"generate is async, and is called as generate\(requests\): make it a plain method",
        ),
        (CLASS + "    fingerprint = 'v1'", r"fingerprint is 'v1', not a method; it is called as fingerprint\(\)"),
        (CLASS + "    def __init__(self, model): pass", r"takes \(model\), and is made without arguments unless --model gives it one"),
        (CLASS + "    def __init__(self, a, b): pass", r"takes \(a, b\), and is made without arguments"),
    ],
)
def test_a_class_that_can_be_no_model_is_refused_before_any_data_is_read(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "mine.py").write_text(text.replace("{name}", "Mine").replace("{answers}", "1").replace("{more}", ""))
    with pytest.raises(EvalkitError, match=message) as raised:
        require_model(ModelSpec(None, f"python:{tmp_path / 'mine.py'}:Mine"))
    assert (raised.value.exit_code, "\n" in str(raised.value)) == (2, False)


def test_settings_that_have_no_effect_are_refused(tmp_path: Path) -> None:
    engine = written(tmp_path)
    for spec, message in (
        (ModelSpec("m", engine), r"takes \(\), not the one argument that --model m gives it; leave --model out"),
        (ModelSpec(None, engine, device="cpu"), "device is 'cpu', which a model of one's own can't be told"),
        (ModelSpec(None, engine, dtype="float16"), "dtype is 'float16'"),
        (ModelSpec(None, "python:mine.py"), "engine python:mine.py does not name a file and a class"),
        (ModelSpec(None, "python"), "unknown engine 'python'"),
    ):
        with pytest.raises(EvalkitError, match=message):
            require_model(spec)


class Own:
    """An object whose methods give what they are told to; `asked` is what they were given."""

    def __init__(self, result: Any = None, **attributes: Any):
        self.result, self.asked = result, []  # type: ignore[var-annotated]
        vars(self).update(attributes)

    def loglikelihood(self, requests: list[Any]) -> Any:
        self.asked.append(requests)
        return self.result

    loglikelihood_rolling = generate = loglikelihood


SCORED = Loglikelihood("two and two:", (" 4", " 5"))
ASKED = Generate("two and two:", ("\n", "Q:"), 8)
PAIR = (-1.0, True)


@pytest.mark.parametrize(
    ("method", "result", "message"),
    [
        ("loglikelihood", None, r"^Own\.loglikelihood gave None for 1 requests; give a list with a result for each, or yield them"),
        ("loglikelihood", [], r"^Own\.loglikelihood gave 0 results for 1 requests; give one for each, in their order"),
        ("loglikelihood", [[PAIR, PAIR]] * 2, "gave 2 results for 1 requests"),
        (
            "loglikelihood",
            [-1.0],
            r"^Own\.loglikelihood gave -1\.0 for a request that begins 'two and two:': it is a float; give a list with",
        ),
        ("loglikelihood", [[PAIR]], r"has 1 entries, and the request 2 continuations"),
        ("loglikelihood", [[-1.0, -2.0]], r"-1\.0 is no pair"),
        ("loglikelihood", [[PAIR, (float("nan"), True)]], r"nan is not finite"),
        ("loglikelihood", [[PAIR, (float("-inf"), True)]], r"-inf is not finite"),
        ("loglikelihood", [[PAIR, (2.5, True)]], r"2\.5 is above 0, so it is no log-probability \(a loss is its negative\)"),
        ("loglikelihood", [[PAIR, ("-1", True)]], r"'-1' is no number"),
        ("loglikelihood", [[PAIR, (True, True)]], r"True is no number"),
        ("loglikelihood", [[PAIR, (np.zeros(2), True)]], r"array\(\[0\., 0\.\]\) is no single number"),
        ("loglikelihood", [[PAIR, (-1.0, "yes")]], r"is_greedy is 'yes', expected True or False"),
        ("loglikelihood", [[PAIR, (-1.0, None)]], r"is_greedy is None"),
        ("loglikelihood", [Loglikelihoods((-1.0, -1.0), (True, True), -1)], r"truncated is -1, expected a whole number, 0 or more"),
        ("loglikelihood", [Loglikelihoods((-1.0, -1.0), (True, True), 0, 0, True)], r"cut_by_protocol is True, expected a whole number"),
        ("loglikelihood", [Loglikelihoods((-1.0, -1.0), (True,))], r"2 log-probabilities and 1 is_greedy"),
        ("loglikelihood_rolling", [None], r"^Own\.loglikelihood_rolling gave None for a request that begins 'a text': None is no number"),
        ("loglikelihood_rolling", [float("inf")], r"inf is not finite; give one log-probability for each text"),
        ("generate", "4", r"^Own\.generate gave '4' for 1 requests; give a list"),
        ("generate", [4], r"^Own\.generate gave 4 for a request that begins 'two and two:': it is a int; give the text of the answer, or"),
        ("generate", [b"4"], r"it is a bytes"),
        ("generate", ["\ud83d"], r"its text is no str that UTF-8 can hold"),
        ("generate", [Generated(4, "stop", 1)], r"its text is no str"),  # type: ignore[arg-type]
        ("generate", [Generated("4", "done", 1)], r"finish_reason is 'done', expected one of stop, eos, length, refused"),
        ("generate", [Generated("4", "stop", -1)], r"num_tokens is -1, expected a whole number, 0 or more"),
        ("generate", [Generated("4", "stop", 1.5)], r"num_tokens is 1\.5"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_result_is_refused(method: str, result: Any, message: str) -> None:
    asked: Any = {"loglikelihood": SCORED, "loglikelihood_rolling": "a text", "generate": ASKED}[method]
    with pytest.raises(EvalkitError, match=message) as raised:
        list(getattr(PythonLM(Own(result), "Own"), method)([asked]))
    assert "\n" not in str(raised.value)


def test_right_results_of_any_librarys_numbers() -> None:
    given = [[(np.float32(-1.5), np.bool_(True)), (torch.tensor(-2.0), torch.tensor(False))], Loglikelihoods((-1, 0.0), (False, 1), 3, 1)]  # type: ignore[arg-type]
    found = dict(PythonLM(Own(iter(given)), "Own").loglikelihood([SCORED, SCORED]))
    assert found == {0: Loglikelihoods((-1.5, -2.0), (True, False)), 1: Loglikelihoods((-1.0, 0.0), (False, True), 3, 1)}
    assert all(type(each) is float for each in found[0].logprobs)
    assert all(type(each) is bool for each in found[1].is_greedy)
    assert list(PythonLM(Own([-3, np.float64(-1)]), "Own").loglikelihood_rolling(["a", "b"])) == [(0, -3.0), (1, -1.0)]
    texts = ["4 Q: and\nthree?", Generated("5\n", "length", 8, 2), ""]
    assert [each for _, each in PythonLM(Own(texts), "Own").generate([ASKED] * 3)] == [
        Generated("4 ", "stop", 0),
        Generated("5", "length", 8, 2),
        Generated("", "stop", 0),
    ]


def test_a_call_is_given_a_batch_and_counts_as_a_whole() -> None:
    """One result that is missing would give all later ones of the call to other requests."""
    own = Own(["x"] * BATCH)
    answers = PythonLM(own, "Own").generate([ASKED] * (BATCH + 1))
    assert [next(answers)[0] for _ in range(BATCH)] == [*range(BATCH)]
    with pytest.raises(EvalkitError, match=f"gave {BATCH} results for 1 requests"):
        next(answers)
    assert [len(each) for each in own.asked] == [BATCH, 1]
    with pytest.raises(EvalkitError, match="it is a int"):  # and not after the first one has counted
        next(PythonLM(Own(["x", 3]), "Own").generate([ASKED] * 2))
    assert len(list(PythonLM(Own(["x"], batch_size=1), "Own").generate([ASKED] * 3))) == 3
    with pytest.raises(EvalkitError, match=r"Own\.batch_size is 0, expected a whole number, 1 or more"):
        PythonLM(Own(batch_size=0), "Own")


def test_conversations_are_written_by_the_template_or_refused() -> None:
    chat = Generate("Well,", (), 8, messages=(("user", "two and two?"),))
    with pytest.raises(EvalkitError, match=r"Own is asked a conversation, and has no apply_chat_template\(messages\)"):
        list(PythonLM(Own(["4"]), "Own").generate([chat]))
    own = Own(["4"], apply_chat_template=lambda messages: "".join(f"<{each['role']}>{each['content']}" for each in messages) + "<answer>")
    assert list(PythonLM(own, "Own").generate([chat])) == [(0, Generated("4", "stop", 0))]
    assert own.asked[0][0] == Generate("<user>two and two?<answer>Well,", (), 8)
    with pytest.raises(EvalkitError, match=r"Own\.apply_chat_template gave \[1\], expected the prompt as a text"):
        list(PythonLM(Own(["4"], apply_chat_template=lambda messages: [1]), "Own").generate([chat]))


def test_limits_that_only_the_class_can_keep_are_told() -> None:
    lm = PythonLM(Own([[PAIR]]), "Own")
    list(lm.loglikelihood([Loglikelihood("x" * 99, ("y",), truncate_above=100, truncate_to=50)]))
    assert len(lm.describe()["notices"]) == 2
    list(lm.loglikelihood([Loglikelihood("x" * 100, ("y",), truncate_above=100, truncate_to=50)]))
    assert lm.describe()["notices"][2].startswith("requests that may be above their protocol's limit of 100 tokens")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": 3}, "name is 3, expected a text"),
        ({"num_parameters": -1}, "num_parameters is -1, expected a whole number, or two"),
        ({"num_parameters": (1, 2, 3)}, r"num_parameters is \(1, 2, 3\)"),
        ({"fingerprint": lambda: ""}, r"fingerprint\(\) is '', expected a text"),
        ({"fingerprint": lambda: 1 / 0}, r"test_own_model\.py line \d+: Own\.fingerprint failed \(ZeroDivisionError"),
        ({"generate": None}, r"Own has no generate\(requests\); a model has the methods"),
    ],
)
def test_what_an_object_says_of_itself_is_checked(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(EvalkitError, match=message):
        PythonLM(Own(**attributes), "Own", file=Path(__file__))


def test_an_error_in_the_class_is_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, the file's line, the traceback in a file, and the earlier calls' answers kept."""
    engine = written(tmp_path, answers="[self.answer()]", more=THIRD)
    assert run(engine, tmp_path, "--name", "r") == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("evalkit: ")]
    kept = r"the traceback is in (\S+); 2 answers are kept in (.*)"
    found = re.fullmatch(rf"evalkit: .*mine\.py line (\d+): Mine\.generate failed \(AssertionError: too\); {kept}", line)
    assert found
    assert "assert self.calls" in (tmp_path / "mine.py").read_text().splitlines()[int(found[1]) - 1]
    assert "in answer" in Path(found[2]).read_text()
    assert json.loads((Path(found[3]) / "run.json").read_text())["status"] == "incomplete"


THIRD = """
    batch_size, calls = 1, 0
    def answer(self):
        self.calls += 1
        assert self.calls < 3, "too\\nmany"
        return "#### 1"
"""


def test_an_error_while_it_is_made_is_too(tmp_path: Path) -> None:
    with pytest.raises(OwnCodeError, match=r"mine\.py line \d+: Mine\(\) failed \(FileNotFoundError: .*/nowhere"):
        fingerprint(written(tmp_path, more="    def __init__(self): open('/nowhere')\n"))


def test_verify_finds_an_answer_that_depends_on_its_neighbours(tmp_path: Path) -> None:
    engine = written(tmp_path, answers="[f'#### {i}' for i in range(len(requests))]")
    report = verify(RunConfig(("gsm8k@lm-eval",), engine=engine, data="sample", limit=2), Reporter(quiet=True))
    assert not report.is_invariant
    assert report.model.layout_invariant is False
    same = written(tmp_path, name="same.py")
    assert verify(RunConfig(("gsm8k@lm-eval",), engine=same, data="sample", limit=2), Reporter(quiet=True)).is_invariant


def test_without_a_model_it_is_not_the_demo() -> None:
    config = RunConfig(("mmlu",), engine="python:a/b.py:Mine")
    assert (config.is_demo, config.data_spec, config.model_spec.name) == (False, "hub", "Mine")
    assert config.run_name == "mine--mmlu--hub--python-a-b.py-mine"


def test_a_tasks_questions_do_not_depend_on_the_versions_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's answers do, so they are told apart."""
    file = tmp_path / "mine.py"
    file.write_text("import numpy\n")
    before = run_file(file)
    assert [each.partition(" ")[0] for each in before.packages] == ["numpy"]
    monkeypatch.setattr("evalkit.tasks.own_file.version", lambda name: "0")
    _run.cache_clear()
    after = run_file(file)
    assert after.sha256 == before.sha256
    assert after.packages == ("numpy 0",)
