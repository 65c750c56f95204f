"""Tasks of one's own from end to end: run, resume, compare, gate, report, view, judge; what is refused; what makes another protocol."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from lm_eval_reference import Ours, answered_by, require_one_line

from evalkit import cli
from evalkit.errors import EvalkitError
from evalkit.judge.answered import read_answered
from evalkit.record.read import read_run
from evalkit.record.schema import TaskEntry
from evalkit.runner.journal import Journal
from evalkit.tasks.own import OwnSpec
from evalkit.tasks.registry import spec_of

CSV = "question,choices,answer\nOne?,a|b,A\nTwo?,a|c,B\nThree?,b|c,A\nFour?,d|e,B\n"
PYTHON = """
from evalkit.tasks import Doc, Generate, Protocol, Scored, Task

class Words(Task):
    name, default_protocol = "words", "short"
    protocols = {"short": Protocol("words", "short", "no shots", "made up", "acc", "micro")}

    def load(self, source):
        return [Doc(word, "all", {"word": word}) for word in ("Mars", "Heat", "Ice")]

    def requests(self, doc):
        return [Generate(f"Say {doc.id}:", (), 8)]

    def score(self, doc, responses):
        return Scored({"acc": float(doc.id in responses[0].text)}, responses[0].text, doc.id)
"""
JUDGED = """
from evalkit.tasks import Doc, JudgedTask, JudgePrompt, Protocol, TextFile

class Talk(JudgedTask):
    name, default_protocol, title, scale = "talk", "one", "Talk", (1.0, 10.0)
    protocols = {"one": Protocol("talk", "one", "one turn", "made up", "score", "micro", {"max_new_tokens": 8})}
    judge_prompts = TextFile("talk.txt", "https://127.0.0.1/talk.txt", "0" * 64)

    def load(self, source):
        return [Doc(str(i), "all", {"turns": [f"Say {i}"]}) for i in range(3)]

    def rating_prompts(self, conversation, prompts):
        return [JudgePrompt(1, "plain", (("user", conversation.answers[0]),))]

    def published_rating(self, text):
        return None
"""
Run = Callable[..., tuple[int, str]]

GATE = ("gate", "runs/base", *"--sequential --model m --data sample --allow-small-margin --out runs --name cand".split())


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in a folder with the files above, answered by an oracle: the exit code, and what was said on stderr (or stdout)."""
    answered_by(monkeypatch, Ours)
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    for name, text in (("words.csv", CSV), ("words.py", PYTHON), ("talk.py", JUDGED)):
        (Path("own") / name).write_text(text)

    def run(*arguments: str) -> tuple[int, str]:
        code = cli.main([*arguments])
        said = capsys.readouterr()
        return code, said.out if code == 0 else said.err

    return run


def ran(command: Run, tasks: str, name: str, *options: str) -> dict[str, TaskEntry]:
    code, said = command("run", "--tasks", tasks, "--model", "m", "--out", "runs", "--name", name, "--data", "sample", "--quiet", *options)
    assert code == 0, said
    return dict(read_run(Path("runs") / name).tasks)


def test_runs_are_compared_gated_reported_and_viewed_without_the_file(command: Run) -> None:
    first = ran(command, "own/words.csv,own/words.py", "base")
    assert {key: (entry.file, entry.data.source, entry.n) for key, entry in first.items()} == {
        "words.csv": ("own/words.csv", "dir", 4),
        "words.py:words": ("own/words.py", "dir", 3),
    }
    ran(command, "own/words.csv,own/words.py:words", "cand")
    for file in Path("own").iterdir():
        file.unlink()
    assert command("compare", "runs/base", "runs/cand", "--tasks", "own/words.csv")[0] == 0
    assert command("gate", "runs/base", "runs/cand", "--allow-small-margin", "--tasks", "words.csv,own/words.py:words")[0] == 0
    code, said = command("report", "runs/base", "--runs-only")
    assert code == 0
    assert "words.csv" in said
    assert command("view", "runs/base", "runs/cand")[0] == 0
    assert command("ls", "runs", "--out", "runs")[0] == 0
    code, said = command(*GATE, "--allow-task-code")
    assert code == 2
    require_one_line(said, "own/words.csv: no such file")


def test_the_same_command_resumes_and_a_changed_file_is_asked_anew(command: Run) -> None:
    ran(command, "own/words.py", "r")
    with_path = Path("runs/r/journal.sqlite")
    journal = Journal(with_path, read_only=True)
    answered = len(journal)
    journal.close()
    before = ran(command, "own/words.py", "r")["words.py:words"]
    Path("own/words.py").write_text(PYTHON.replace("Say {doc.id}:", "Say {doc.id}!"))
    after = ran(command, "own/words.py", "r")["words.py:words"]
    journal = Journal(with_path, read_only=True)
    assert (answered, len(journal)) == (3, 6)
    journal.close()
    assert before.protocol != after.protocol
    assert before.protocol_sha256 != after.protocol_sha256
    Path("own/words.py").write_text(PYTHON.replace('"Ice"', '"Snow"'))
    ran(command, "own/words.py", "other")
    code, said = command("compare", "runs/r", "runs/other")
    assert code == 2
    require_one_line(said, "not comparable", "words.py:words", "protocol differs")


def test_a_gate_that_stops_by_itself_runs_the_base_s_own_files(command: Run) -> None:
    ran(command, "own/words.csv@+chat,own/words.py", "base")
    code, said = command(*GATE)
    assert code == 2
    require_one_line(said, "words.py:words is Python of own/words.py, by the run's record", "pass --allow-task-code")
    code, said = command(*GATE, "--allow-task-code")
    assert code == 0, said
    assert {key: entry.protocol for key, entry in read_run(Path("runs/cand")).tasks.items()} == {
        key: entry.protocol for key, entry in read_run(Path("runs/base")).tasks.items()
    }


@pytest.mark.parametrize("file", [None, "own/words.csv", "words.csv"])
def test_no_file_of_a_record_lets_its_python_run(file: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the record says of the file, or does not: the task's own name is what would be run."""
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    for place in ("evil.py", "own/evil.py"):
        Path(place).write_text("raise SystemExit('it ran')")
    with pytest.raises(EvalkitError, match=r"is Python of .*evil\.py, by the run's record"):
        spec_of("evil.py:words", "short", file)


@pytest.mark.parametrize("spec", ["humaneval@evil.py", "mmlu@../evil.py:words", "belebele:th@evil.py"])
def test_a_protocols_name_is_no_file(spec: str) -> None:
    assert OwnSpec.parse(spec) is None


def test_a_gate_asks_a_protocol_s_file_and_a_system_message_again(command: Run) -> None:
    text = (
        (Path(__file__).parents[2] / "docs" / "tasks.md").read_text("utf-8").partition("`short.toml`:\n\n```toml\n")[2].partition("```")[0]
    )
    Path("short.toml").write_text(text)
    form = ("--protocol-file", "short.toml", "--system-instruction", "Be brief.")
    base = ran(command, "mmlu", "base", "--limit", "14", *form)["mmlu"]
    assert base.protocol.startswith("short-")
    assert "+system-" in base.protocol
    code, said = command(*GATE)
    assert code == 2
    require_one_line(said, base.protocol.partition("+")[0], "the file is not given", "--protocol-file")
    code, said = command(*GATE, *form[:2])
    assert code == 2
    require_one_line(said, "not comparable", "protocol differs")
    assert command(*GATE, *form)[0] == 0
    Path("short.toml").write_text(text.replace("num_fewshot = 1", "num_fewshot = 2"))
    code, said = command(*GATE, *form)
    assert code == 2
    require_one_line(said, "the file is short-")


def test_a_changed_protocol_is_not_held_against_a_published_figure(command: Run) -> None:
    code, said = command("run", "--tasks", "mmlu@qwen+chat", "--model", "m", "--data", "sample", "--limit", "14", "--out", "runs")
    assert code == 0
    assert "no published figure is under qwen+chat" in said.replace("\n", " ")


def test_rows_are_in_the_data_s_hash_and_settings_in_the_protocol_s_name(command: Run) -> None:
    one = ran(command, "own/words.csv", "one")["words.csv"]
    Path("own/words.csv").write_text(CSV.replace("Four?", "Five?"))
    two = ran(command, "own/words.csv", "two")["words.csv"]
    Path("own/words.toml").write_text('data = "words.csv"\nscores = "texts"\n')
    three = ran(command, "own/words.toml", "three")["words.toml"]
    assert one.protocol == two.protocol != three.protocol
    assert one.data.sha256 != two.data.sha256 == three.data.sha256
    assert (three.headline, set(three.metrics)) == ("acc_norm", {"acc", "acc_norm"})


def test_two_files_of_one_name_are_two_tasks_of_a_run(command: Run) -> None:
    Path("other").mkdir()
    Path("other/words.csv").write_text(CSV.replace("choices", "A,B").replace("|", ","))
    found = ran(command, "own/words.csv,other/words.csv", "both")
    assert len(found) == 2
    assert all(key.startswith("words.csv@file-") for key in found)
    code, said = command("run", "--tasks", "own/words.csv,./own/words.csv", "--model", "m", "--data", "sample")
    assert code == 2
    require_one_line(said, "a task is given twice")


def test_a_judged_task_of_ones_own_waits_for_its_judge(command: Run) -> None:
    entry = ran(command, "own/talk.py", "talk")["talk.py:talk"]
    assert entry.counts.unscored == 3
    with pytest.raises(EvalkitError, match="pass --allow-task-code"):
        read_answered(Path("runs/talk"))
    answered = read_answered(Path("runs/talk"), allow_task_code=True)
    assert (answered.judged_task.name, len(answered.conversations)) == ("talk.py:talk", 3)
    Path("own/talk.py").write_text(JUDGED + "\n# another text\n")
    code, said = command("judge", "runs/talk", "--judge-model", "j", "--judge-url", "http://127.0.0.1:9", "--allow-task-code")
    assert code == 2
    require_one_line(said, "talk.py", "has changed since")


def test_data_status_and_verify_take_files(command: Run) -> None:
    code, said = command("data", "status", "own/words.csv", "own/words.py", "--data", "sample")
    assert code == 0
    assert "4 documents" in said
    assert command("data", "verify", "own/words.csv", "own/words.py", "--data", "sample")[0] == 0


def test_verify_and_fidelity_take_files(command: Run, tiny_model: Path, one_thread: None) -> None:
    code, said = command("verify", "--tasks", "own/words.csv", "--model", str(tiny_model), "--data", "sample")
    assert code == 0, said
    tasks = ("--tasks", "own/words.csv,own/words.py", "--data", "sample")
    code, said = command("fidelity", str(tiny_model), f"{tiny_model},dtype=bfloat16", *tasks, "--json")
    assert code == 0, said
    assert json.loads(said)["tasks"].keys() == {"words.csv", "words.py:words"}


def test_answers_made_elsewhere_are_scored(command: Run) -> None:
    Path("answers.jsonl").write_text("".join(json.dumps({"id": str(i), "answer": "A"}) + "\n" for i in range(4)))
    code, said = command("score", "own/words.csv", "answers.jsonl", "--data", "sample", "--out", "runs", "--name", "scored")
    assert code == 0, said
    assert read_run(Path("runs/scored")).tasks["words.csv"].metrics["acc"].value == 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = (", ["words.py line 1: the import failed (SyntaxError"]),
        ("\nimport nothing_of_the_kind", ["words.py line 2: the import failed", "nothing_of_the_kind"]),
        ("raise SystemExit(0)", ["words.py line 1: the import failed (SystemExit"]),
        ("x = 1", ["defines no task"]),
        ("TASKS = []", ["TASKS is []"]),
        ("TASKS = (int,)", ["which is no class below evalkit.tasks.Task"]),
        (PYTHON.replace("def score", "def scores") + "\nTASKS = (Words,)", ["class Words lacks score"]),
        (PYTHON.replace('name, default_protocol = "words", "short"', 'name = "words"'), ["lacks default_protocol"]),
        (PYTHON.replace('"short"\n', '"long"\n', 1), ["default_protocol is 'long'"]),
        (PYTHON.replace('"words", "short"\n', '"a/b", "short"\n'), ["'a/b' can't name a task"]),
        (PYTHON.replace('"micro"', '"mean"'), ["averaging 'mean'"]),
        (PYTHON.replace("return [Doc(", "return [str("), ["load"]),
        (PYTHON.replace('("Mars", "Heat", "Ice")', "()"), ["load gives no documents"]),
        (PYTHON.replace('("Mars", "Heat", "Ice")', '("Mars", "Mars")'), ["two documents have the id 'Mars'"]),
        (PYTHON.replace('{"word": word}', '{"word": {word}}'), ["fields are no JSON"]),
        (PYTHON.replace("return [Generate(", "return [print("), ["requests gives [None]"]),
        (PYTHON.replace("Say {doc.id}:", "Say {doc.name}:"), ["words.py line 12: requests failed", "AttributeError"]),
        (PYTHON.replace('f"Say {doc.id}:", (), 8)]', 'f"Say {doc.id}:", (), 8)][:0]'), ["requests gives []"]),
        (PYTHON.replace("doc.id in responses[0].text", "1 / 0"), ["words.py line 15: score failed", "ZeroDivisionError"]),
        (PYTHON.replace("float(doc.id in responses[0].text)", 'float("nan")'), ["score gives acc = nan"]),
        (PYTHON.replace('{"acc":', '{"f1":'), ["the metrics f1", "headline is acc"]),
        (PYTHON + PYTHON.replace("Words", "Others"), ["two tasks named 'words'"]),
        (
            PYTHON + PYTHON.replace("Words", "Others").replace('"words"', '"others"'),
            ["several tasks; name one: own/words.py:words, own/words.py:others"],
        ),
    ],
)
def test_a_python_file_that_is_no_task_is_refused(text: str, words: Sequence[str], command: Run) -> None:
    Path("own/words.py").write_text(text)
    code, said = command("run", "--tasks", "own/words.py", "--model", "m", "--out", "runs", "--data", "sample", "--quiet")
    assert code == 2, said
    require_one_line(said, *words)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("own/none.csv", ["own/none.csv: no such file"]),
        ("own", ["unknown task 'own'"]),
        ("own/words.tsv", ["ends in .py, .csv, .jsonl, .json or .toml"]),
        ("own/words.py:word", ["unknown task of own/words.py 'word'", "did you mean 'words'?"]),
        ("own/words.csv:one", ["a data file is one task"]),
        ("own/words.py:words:part", ["has no parts"]),
        ("own/words.csv@qwen", ["unknown protocol of words.csv 'qwen'"]),
        ("own/words.py@short+file-00000000", ["own/words.py has changed since"]),
    ],
)
def test_a_name_that_is_no_task_is_refused(tasks: str, words: Sequence[str], command: Run) -> None:
    code, said = command("run", "--tasks", tasks, "--model", "m", "--data", "sample")
    assert code == 2
    require_one_line(said, *words)
