"""lm-eval's tasks on a real, if random, model: evalkit's native engine against lm-eval's own run of the same folder by its HF class."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lm_eval_reference import load_from, pairs, their_pairs
from lm_eval_rows import write

from evalkit.config import RunConfig
from evalkit.progress import Reporter
from evalkit.record.read import read_run, read_samples
from evalkit.runner.run import run
from evalkit.tasks import Generated
from evalkit.tasks.lm_eval.index import index

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytest.importorskip("transformers", reason="lm-eval's HF class needs transformers")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(900)]

TASKS = ("arc_easy", "winogrande", "lambada_openai", "pile_arxiv", "anagrams1")  # each output type, and contexts that differ


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def model_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a context that the longest texts exceed, so that they are scored in windows."""
    folder = tmp_path_factory.mktemp("short") / "short"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 400}))
    return folder


@pytest.fixture(scope="module")
def theirs(model_folder: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """lm-eval's results, by its own HF class."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folders = [str(index(None)[name].path.parent) for name in TASKS]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DISABLE_MULTIPROC", "1")
        patched.setattr("datasets.load_dataset", load_from(rows, tmp_path_factory.mktemp("cache")))
        model = HFLM(pretrained=str(model_folder), device="cpu", dtype="float32", batch_size=4)
        manager = TaskManager(include_defaults=False, include_path=folders)
        return evaluator.simple_evaluate(model, tasks=list(TASKS), task_manager=manager, num_fewshot=1, limit=4, bootstrap_iters=1000)


@pytest.mark.parametrize("engine", ["native", "lm_eval:hf"])
def test_the_same_answers_and_figures(engine: str, theirs: Any, model_folder: Path, rows: Path, tmp_path: Path) -> None:
    tasks = tuple(f"lm_eval:{name}" for name in TASKS)
    config = RunConfig(tasks, str(model_folder), engine, str(rows), 4, num_fewshot=1, allow_task_code=True, out=str(tmp_path))
    run(config, Reporter(quiet=True))
    largest = 0.0
    for name in TASKS:
        entry = read_run(config.folder).tasks[f"lm_eval:{name}"]
        samples = list(read_samples(config.folder, f"lm_eval:{name}"))
        assert [pairs(row.requests) for row in samples] == [their_pairs(each["arguments"]) for each in theirs["samples"][name]]
        for row, each in zip(samples, theirs["samples"][name], strict=True):
            said = [one for response in each["resps"] for one in response]
            if isinstance(row.responses[0], Generated):
                assert [response.text for response in row.responses if isinstance(response, Generated)] == said
                continue
            ours = [p for response in row.responses if not isinstance(response, Generated) for p in response.logprobs]
            known = [one[0] if isinstance(one, tuple) else one for one in said]
            largest = max(largest, *(abs(a - b) for a, b in zip(ours, known, strict=True)))
        for key, value in theirs["results"][name].items():
            metric, _, chosen = key.partition(",")
            if chosen and not metric.endswith("_stderr"):
                found = entry.metrics[metric if chosen == "none" else key]
                assert found.value == pytest.approx(value, rel=1e-4, abs=1e-9), (name, key)
    assert largest < 1e-3
