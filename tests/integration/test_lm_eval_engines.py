"""lm-eval's tasks on a real, if random, model: evalkit's native engine against lm-eval's own run of the same folder by its HF class."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lm_eval_reference import load_from, pairs, their_pairs
from lm_eval_rows import write

from evalkit.config import ModelSpec, RunConfig
from evalkit.errors import EvalkitError
from evalkit.lm.lm_eval import LmEvalLM
from evalkit.lm.native import NativeLM
from evalkit.progress import Reporter
from evalkit.record.read import read_run, read_samples
from evalkit.runner.run import run
from evalkit.tasks import Generated, Loglikelihood
from evalkit.tasks.lm_eval.index import index

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytest.importorskip("transformers", reason="lm-eval's HF class needs transformers")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(900)]

TASKS = ("arc_easy", "winogrande", "lambada_openai", "pile_arxiv", "anagrams1")  # each output type, and contexts that differ

CHATML = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


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


def test_our_engine_under_lm_evals_own_command(
    theirs: Any, model_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results of lm-eval with `--model evalkit` are those of lm-eval with its HF class."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    import evalkit.lm_eval  # noqa: F401 - it registers the model

    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    monkeypatch.setattr("datasets.load_dataset", load_from(rows, tmp_path))
    manager = TaskManager(include_defaults=False, include_path=[str(index(None)[name].path.parent) for name in TASKS])
    settings = {"tasks": [*TASKS], "task_manager": manager, "num_fewshot": 1, "limit": 4, "bootstrap_iters": 1000}
    ours = evaluator.simple_evaluate("evalkit", f"pretrained={model_folder}", device="cpu", batch_size=4, **settings)
    for name in TASKS:
        for mine, other in zip(ours["samples"][name], theirs["samples"][name], strict=True):
            assert mine["arguments"] == other["arguments"]
            for metric in mine["metrics"]:
                assert mine[metric] == pytest.approx(other[metric], abs=1e-3)
        require_equal(ours["results"][name], theirs["results"][name])
    assert ours["config"]["model_num_parameters"] == theirs["config"]["model_num_parameters"]
    assert ours["config"]["evalkit"]["fingerprint"].startswith("sha256:")


def test_the_hf_class_is_given_what_the_protocol_keeps(model_folder: Path) -> None:
    """The cut of `mmlu@qwen` is the protocol's own: made for lm-eval's class too, and counted apart from what does not fit."""
    asked = [
        Loglikelihood("0123456789" * 30, ("ab", "c"), truncate_above=200, truncate_to=150),
        Loglikelihood("abc", ("d", "e"), truncate_above=200, truncate_to=150),
        Loglikelihood("0123456789" * 50, ("ab", "c"), truncate_above=450, truncate_to=440),  # of 440 tokens 399 fit
        Loglikelihood("", ("ab",)),
    ]
    spec = ModelSpec(str(model_folder))
    found, expected = (dict(lm.loglikelihood(asked)) for lm in (LmEvalLM.load(spec, "hf"), NativeLM.load(spec)))
    for i in range(len(asked)):
        assert (found[i].truncated, found[i].cut_by_protocol) == (expected[i].truncated, expected[i].cut_by_protocol)
        assert found[i].logprobs == pytest.approx(expected[i].logprobs, abs=2e-3)
    assert [expected[i].cut_by_protocol for i in range(4)] == [150, 0, 60, 0]
    assert expected[2].truncated == 41


def require_equal(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert mine.keys() == other.keys()
    for key, value in other.items():
        assert mine[key] == (pytest.approx(value, rel=1e-4, abs=1e-9) if isinstance(value, float) else value), key


@pytest.fixture(scope="module")
def chat_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "chat"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


@pytest.fixture(scope="module")
def our_model(chat_folder: Path) -> Any:
    from evalkit.lm_eval import EvalkitLM

    return EvalkitLM(str(chat_folder))


def test_conversations_are_written_as_transformers_writes_them(our_model: Any, chat_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_folder)
    turns = [{"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "Three?"}]
    assert our_model.apply_chat_template(turns) == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    begun = [*turns, {"role": "assistant", "content": "The answer is"}]
    written = tokenizer.apply_chat_template(begun, tokenize=False, continue_final_message=True)
    assert our_model.apply_chat_template(begun, add_generation_prompt=False) == written
    assert our_model.chat_template(True) == tokenizer.chat_template


def test_lm_evals_command_says_cuda_where_nobody_did(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own class then takes the CPU where there is no GPU."""
    import torch
    from lm_eval.config.evaluate_config import EvaluatorConfig

    from evalkit.lm_eval import EvalkitLM

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert EvalkitLM(str(tiny_model), device=EvaluatorConfig().device).lm.device == "cpu"
    with pytest.raises(EvalkitError, match="no CUDA device is visible"):
        EvalkitLM(str(tiny_model), device="cuda")


def test_an_answer_does_not_depend_on_other_tasks(our_model: Any) -> None:
    """A context that is too long is cut by the longest continuation of its own document."""
    from lm_eval.api.instance import Instance

    context = "one two three four " * our_model.lm.max_seq_len
    short = Instance("loglikelihood", {}, (context, " five"), 0, ("a", 0, 1))
    other = Instance("loglikelihood", {}, (context, " five" * 40), 0, ("b", 0, 1))
    assert our_model.loglikelihood([short, other], disable_tqdm=True)[0] == our_model.loglikelihood([short], disable_tqdm=True)[0]


def test_a_prompt_without_a_token_is_refused(our_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api.instance import Instance

    monkeypatch.setattr(our_model.lm, "encode", lambda text: [])
    with pytest.raises(EvalkitError, match="a prompt to be answered is empty"):
        our_model.generate_until([Instance("generate_until", {}, ("", {"until": ["."]}), 0, ("t", 0, 1))], disable_tqdm=True)


@pytest.mark.parametrize("value", ["hot", [1]])
def test_a_temperature_that_is_no_number_is_refused(value: Any, our_model: Any) -> None:
    """As `--gen_kwargs temperature=hot` passes it."""
    from lm_eval.api.instance import Instance

    with pytest.raises(EvalkitError, match="number"):
        our_model.generate_until([Instance("generate_until", {}, ("one", {"temperature": value}), 0, ("t", 0, 1))], disable_tqdm=True)


def test_sampled_answers_differ_and_come_again(our_model: Any) -> None:
    from lm_eval.api.instance import Instance

    def answers(count: int) -> list[str]:
        sampled = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
        our_model.asked.clear()
        asked = [Instance("generate_until", {}, ("one two", sampled), i, (name, 0, 1)) for i, name in enumerate(["t"] * count)]
        return our_model.generate_until(asked, disable_tqdm=True)

    first = answers(3)
    assert len({*first}) == 3
    assert answers(2) == first[:2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "names no model"),
        ({"pretrained": "demo", "trust_remote_code": True}, "runs no code of a checkpoint"),
        ({"pretrained": "demo", "load_in_4bit": True}, "unknown model argument 'load_in_4bit'"),
        ({"pretrained": "demo", "engine": "lm_eval:hf"}, "give --model hf"),
        ({"pretrained": "demo", "dtype": "float8"}, "unknown dtype 'float8'"),
        ({"pretrained": "demo", "dtype": 16}, "dtype=16: give one word"),
        ({"pretrained": "demo", "engine": ["native"]}, r"engine=\['native'\]: give one word"),
        ({"pretrained": "demo", "seed": "abc"}, "seed='abc': give a whole number"),
        ({"pretrained": 5}, "'5'"),
        ({"pretrained": "demo", "device": "mps"}, "unknown device 'mps'"),
        ({"pretrained": "demo", "device": "cuda:1"}, "choose the GPU by CUDA_VISIBLE_DEVICES=1, and give the device cuda"),
    ],
)
def test_arguments_without_a_meaning_are_refused(arguments: dict[str, Any], words: str) -> None:
    from evalkit.lm_eval import EvalkitLM

    with pytest.raises(EvalkitError, match=words):
        EvalkitLM(**arguments, batch_size=8, max_batch_size=None)


def test_lm_evals_own_models_stay() -> None:
    """In a process of its own: this one has asked for lm-eval's models before."""
    code = "import evalkit.lm_eval; from lm_eval.api.registry import get_model; print(get_model('evalkit'), get_model('dummy'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "EvalkitLM" in done.stdout
    assert "DummyLM" in done.stdout


def test_a_refusal_under_lm_evals_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from lm_eval.api.registry import get_model

    from evalkit.lm_eval.__main__ import main

    def run_it() -> None:
        get_model("evalkit")(pretrained="demo", dtype="float8")

    monkeypatch.setattr("evalkit.lm_eval.__main__.cli_evaluate", run_it)
    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith("evalkit: unknown dtype 'float8'")
    assert said.count("\n") == 1
