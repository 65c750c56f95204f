"""`evalkit gate` on real models and the bundled sample: a twin passes, another model fails, few documents cannot tell.

SmolLM2-135M upcycled to a mixture (demo), the dense model that it came from, and Qwen2.5-Coder-0.5B: about five minutes on two cores.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.config import RunConfig
from evalkit.lm.models import MODELS, local_path
from evalkit.progress import Reporter
from evalkit.runner.run import run

NAMES = ("demo", "smollm2-135m", "qwen2.5-coder-0.5b")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        any(local_path(MODELS[name]) is None for name in NAMES), reason=f"not all of {', '.join(NAMES)} are on this machine"
    ),
]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The folder of a model's run of a task, run once."""
    out = tmp_path_factory.mktemp("runs")

    def folder(model: str, task: str = "mmlu", limit: int | None = None) -> str:
        config = RunConfig((task,), model=model, data="sample", limit=limit, out=str(out), name=f"{model}-{task}")
        if not config.folder.exists():
            run(config, Reporter(quiet=True))
        return str(config.folder)

    return folder


def test_the_dense_twin_passes_with_no_flip(folder_of: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, cand = folder_of("smollm2-135m"), folder_of("demo")
    assert cli.main(["gate", base, cand, "--json", str(tmp_path / "gate.json")]) == 0
    assert "pass: all 140 answers are the same" in capsys.readouterr().out
    found = json.loads((tmp_path / "gate.json").read_text("utf-8"))["tasks"]["mmlu@qwen"]
    assert (found["word"], found["n"], found["gained"], found["lost"]) == ("pass", 140, 0, 0)
    fingerprints = {json.loads((Path(folder) / "run.json").read_text("utf-8"))["model"]["fingerprint"] for folder in (base, cand)}
    assert len(fingerprints) == 2


def test_a_weaker_model_fails(folder_of: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["gate", folder_of("qwen2.5-coder-0.5b"), folder_of("demo"), "--margin", "0.15"]
    assert cli.main([*arguments, "--junit", str(tmp_path / "junit.xml")]) == 1
    assert "fail: a real drop, at least the margin" in capsys.readouterr().out
    assert "<failure" in (tmp_path / "junit.xml").read_text("utf-8")


def test_fifty_documents_cannot_tell_and_say_how_many_would(folder_of: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    """Scored by their texts instead of their letters, the answers of the two models are close."""
    base, cand = (folder_of(model, "mmlu@cloze", 50) for model in ("qwen2.5-coder-0.5b", "smollm2-135m"))
    assert cli.main(["gate", base, cand, "--margin", "0.02", "--allow-small-margin"]) == 3
    out = capsys.readouterr().out
    needed = re.search(r"inconclusive: .*; about ([\d,]+) documents would decide\. .* n 50,", out)
    assert needed, out
    assert int(needed[1].replace(",", "")) > 1000
    # without --allow-small-margin it is not even tried
    assert cli.main(["gate", base, cand, "--margin", "0.02"]) == 2
    assert re.search(r"margin 0\.02 is below what mmlu@cloze's 50 documents can detect", capsys.readouterr().err)
