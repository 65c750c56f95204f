"""`evalkit gate --comment`: what a reviewer reads, as it stands; what hostile names and many tasks do to it."""

import sys
from contextlib import suppress
from pathlib import Path

import pytest
from fake_runs import fake_run, flips

from evalkit.comparison import gate
from evalkit.comparison.gate_comment import LARGEST, MARKER
from evalkit.comparison.gate_config import GateConfig, Margins
from evalkit.errors import EvalkitError

POLICY = """
[default]
margin = 0.015

[[rule]]
task = "mmlu"
min_documents = 2000
allowed.truncated = 0

[[rule]]
task = "gsm8k"
tier = "warning"
drop = 0.02

[[rule]]
task = "ifeval"
"""


EXPECTED = """\
<!-- evalkit gate -->
## evalkit gate: fail, with 1 warning

A real drop, or a limit that is not kept. org/base (runs/base) → org/cand (runs/cand)

| task | tier | base | candidate | difference | 95% interval | margin | outcome |
| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |
| mmlu@qwen | blocking | 99.00 | 99.00 | +0.00 | -0.65 to +0.65 | 1.5 | pass |
| gsm8k@qwen | warning | 99.75 | 97.00 | -2.75 | -3.61 to -2.03 | 1.995 | **fail** |

- **fail** (blocking) ifeval: ifeval is not in the base nor in the candidate, which has mmlu, gsm8k, arc

Answers that flipped:

- mmlu@qwen: 20 right to wrong, 20 wrong to right, of 2,000
- gsm8k@qwen: 60 right to wrong, 5 wrong to right, of 2,000

<details><summary>Why, task by task</summary>

- mmlu@qwen: pass: a drop of the margin is excluded. Difference +0.00 (95% interval -0.65 to +0.65, n 2,000, McNemar), margin 1.5, \
detectable 0.34
- gsm8k@qwen: fail, a warning: a real drop, at least the margin. Difference -2.75 (95% interval -3.61 to -2.03, n 2,000, McNemar), \
margin 1.995, detectable 0.34
- mmlu@qwen truncated: pass: 0 documents, 0 in the base: +0, where 0 more are allowed
- in the base, and in no rule of the policy, so not gated: arc
- --policy gate.toml (sha256 e1ab945d9fe0); differences are candidate - base, shares in percent

</details>


<details><summary>How to reproduce</summary>

```sh
evalkit run
evalkit run
evalkit gate runs/base runs/cand --policy gate.toml --comment comment.md
evalkit compare runs/base runs/cand --out report
```

</details>
"""


@pytest.fixture(autouse=True)
def no_github(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may themselves run on GitHub."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def test_the_comment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same, worse = flips(2_000, 20, 20), flips(2_000, 5, 60)
    for i, name in enumerate(("base", "cand")):
        fake_run(tmp_path / "runs" / name, f"org/{name}", mmlu=same[i], gsm8k=worse[i], arc=same[i])
    (tmp_path / "gate.toml").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evalkit", "gate", "runs/base", "runs/cand", "--policy", "gate.toml", "--comment", "comment.md"])
    assert gate.gate_runs(GateConfig(("runs/base", "runs/cand"), policy="gate.toml", comment="comment.md")) == 1
    assert (tmp_path / "comment.md").read_text() == EXPECTED


def test_the_first_line_is_the_same_for_every_outcome(tmp_path: Path) -> None:
    runs = [str(fake_run(tmp_path / name, name, mmlu=[1.0, 0.0] * 50)) for name in "ab"]
    file = str(tmp_path / "comment.md")
    first = []
    for asked in ((runs, 0.2), (runs, 0.001), ([runs[0], str(tmp_path / "none")], 0.01)):
        with suppress(EvalkitError):
            gate.gate_runs(GateConfig(tuple(asked[0]), Margins(asked[1]), comment=file))
        first.append(Path(file).read_text().splitlines()[:2])
    assert first == [
        [MARKER, "## evalkit gate: pass"],
        [MARKER, "## evalkit gate: cannot detect"],
        [MARKER, "## evalkit gate: not comparable"],
    ]
    with pytest.raises(EvalkitError, match="--comment is empty"):
        GateConfig(tuple(runs), comment="")


def test_hostile_names_do_nothing_in_it(tmp_path: Path) -> None:
    base, cand = flips(2_000, 5, 60)
    name = "x|y <img src=x> @team ##[error]z [a](b) `c`"
    runs = [str(fake_run(tmp_path / each, name, **{name: scores})) for each, scores in (("a", base), ("b", cand))]
    for run in runs:
        edit = Path(run) / "run.json"
        edit.write_text(edit.read_text().replace('"command": "evalkit run"', '"command": "evalkit run ``` </details>\\n<img> --name x"'))
    assert gate.gate_runs(GateConfig(tuple(runs), comment=str(tmp_path / "c.md"))) == 1
    text, code = (tmp_path / "c.md").read_text().split("```sh\n")
    code, after = code.split("\n```\n")
    for markup in ("<img", "@team", "[a]", "`c`"):
        assert markup not in text.replace("\\" + markup, "").replace("\\[a\\]", "").replace("\\`c\\`", "")
    assert "`" not in code
    assert after == "\n</details>\n"
    row = next(line for line in text.splitlines() if line.startswith("| x"))
    assert row.replace("\\|", "").count("|") == 9  # of eight cells


def test_a_comment_is_never_too_long(tmp_path: Path) -> None:
    """GitHub refuses more than 65,536 characters: what fails stays, what passes is left out first."""
    same, worse = [1.0, 0.0] * 15, [0.0, 0.0] * 15
    tasks = {f"a_task_with_quite_a_long_name_{i:03}": (worse if i == 249 else same) for i in range(250)}
    runs = [str(fake_run(tmp_path / "a", "m", **dict.fromkeys(tasks, same))), str(fake_run(tmp_path / "b", "m", **tasks))]
    assert gate.gate_runs(GateConfig(tuple(runs), Margins(0.4), comment=str(tmp_path / "c.md"))) == 1
    text = (tmp_path / "c.md").read_text()
    assert len(text) <= LARGEST
    assert "a\\_task\\_with\\_quite\\_a\\_long\\_name\\_249@qwen | blocking" in text
    assert "more are in the job's files" in text
