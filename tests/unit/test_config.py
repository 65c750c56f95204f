"""RunConfig, run.toml and the registry: names are checked, nothing is defaulted in silence."""

from pathlib import Path

import pytest

from evalkit.config import RunConfig, read_toml
from evalkit.errors import EvalkitError
from evalkit.tasks.registry import resolve, resolve_all


def test_the_same_command_has_the_same_folder() -> None:
    config = RunConfig(("mmlu", "gsm8k"), model="Qwen/Qwen1.5-MoE-A2.7B", limit=50)
    assert config.folder == Path("results/runs/qwen1.5-moe-a2.7b--mmlu+gsm8k--hub--limit50")
    assert RunConfig(("mmlu",)).run_name == "demo--mmlu--sample"
    assert RunConfig(("mmlu@cloze",), model="a/b.gguf", engine="lm_eval:hf", seed=3).run_name == "b--mmlu@cloze--hub--lm_eval-hf--seed3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": "mmlu"}, "give a list"),
        ({"limit": 0}, "at least 1"),
        ({"device": "cud"}, "did you mean 'cuda'"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'"),
        ({"name": "a/b"}, "becomes a folder"),
    ],
)
def test_bad_settings_name_the_value_and_the_fix(changes: dict, message: str) -> None:
    with pytest.raises(EvalkitError, match=message):
        RunConfig(**{"tasks": ("mmlu",)} | changes)


def test_toml(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('tasks = ["mmlu", "gsm8k"]\nlimit = 20\nfresh = true\n')
    assert read_toml(str(file)) == {"tasks": ("mmlu", "gsm8k"), "limit": 20, "fresh": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("taks = ['mmlu']", "did you mean 'tasks'"),
        ("limit = '20'", "limit = '20' must be a int"),
        ("limit = true", "must be a int"),
        ("tasks = 'mmlu'", "must be a list"),
        ("tasks = [", "cannot read"),
    ],
)
def test_toml_is_checked(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(EvalkitError, match=message):
        read_toml(str(file))


def test_tasks_resolve_by_name_and_protocol() -> None:
    assert str(resolve("mmlu").protocol) == "mmlu@qwen"
    assert str(resolve("gsm8k@lm-eval").protocol) == "gsm8k@lm-eval"
    assert list(resolve_all(("mmlu@cloze", "gsm8k"))) == ["mmlu", "gsm8k"]
    assert list(resolve_all(("mmlu", "mmlu@cloze"))) == ["mmlu@qwen", "mmlu@cloze"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [("mmul", "did you mean 'mmlu'"), ("gsm8k@qwen-fix", "did you mean 'qwen-fixed'"), ("zzz", "known: belebele, flores, gsm8k")],
)
def test_unknown_names_get_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(EvalkitError, match=message):
        resolve(spec)


def test_a_task_twice_is_refused() -> None:
    with pytest.raises(EvalkitError, match="given twice"):
        resolve_all(("mmlu", "mmlu@qwen"))
