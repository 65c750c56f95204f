"""RunConfig, run.toml and the registry: names are checked, nothing is defaulted in silence."""

from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from evalkit.config import RunConfig, read_toml
from evalkit.errors import EvalkitError
from evalkit.tasks.registry import resolve, resolve_all


def test_the_same_command_has_the_same_folder() -> None:
    config = RunConfig(("mmlu", "gsm8k"), model="Qwen/Qwen1.5-MoE-A2.7B", limit=50)
    assert config.folder == Path("results/runs/qwen1.5-moe-a2.7b--mmlu+gsm8k--hub--limit50")
    assert RunConfig(("mmlu",)).run_name == "demo--mmlu--sample"
    assert RunConfig(("mmlu@cloze",), model="a/b.gguf", engine="lm_eval:hf", seed=3).run_name == "b--mmlu@cloze--hub--lm_eval-hf--seed3"
    assert RunConfig(("mmlu",), chat_template_args={"enable_thinking": False}).run_name == "demo--mmlu--sample--enable_thinking-false"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": "mmlu"}, "give a list"),
        ({"limit": 0}, "at least 1"),
        ({"device": "cud"}, "did you mean 'cuda'"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'"),
        ({"name": "a/b"}, "becomes a folder"),
        ({"engine": "openai:http://x/v1", "chat_template_args": {"a": 1}}, "only native and llama_cpp render the chat template"),
    ],
)
def test_bad_settings_name_the_value_and_the_fix(changes: dict, message: str) -> None:
    with pytest.raises(EvalkitError, match=message):
        RunConfig(**{"tasks": ("mmlu",)} | changes)


def in_toml(tmp_path: Path, text: str) -> dict[str, Any]:
    file = tmp_path / "run.toml"
    file.write_text(text)
    return read_toml(str(file))


# a value of each type as TOML writes it, what is read, and a value of another type that reads much like it
TOML = {
    str: ('"cpu"', "cpu", "1"),
    int: ("20", 20, "true"),
    float: ("0.8", 0.8, '"0.8"'),
    bool: ("true", True, "1"),
    Mapping[str, Any]: ("{ enable_thinking = false }", {"enable_thinking": False}, '"enable_thinking"'),
    tuple[str, ...]: ('["mmlu", "gsm8k"]', ("mmlu", "gsm8k"), '"mmlu"'),
}


TYPES = get_type_hints(RunConfig)


@pytest.mark.parametrize("field", fields(RunConfig), ids=lambda field: field.name)
def test_every_setting_can_stand_in_toml(tmp_path: Path, field: Field[Any]) -> None:
    written, value, wrong = next(row for kind, row in TOML.items() if TYPES[field.name] in (kind, kind | None))
    assert in_toml(tmp_path, f"{field.name} = {written}") == {field.name: value}
    with pytest.raises(EvalkitError, match=rf"run\.toml:1: {field.name} is .*, expected "):
        in_toml(tmp_path, f"{field.name} = {wrong}")


def test_toml_makes_a_configuration(tmp_path: Path) -> None:
    text = 'tasks = ["gsm8k"]\ntemperature = 0.8\nrepeats = 3\nallow_unsafe_code = true\nkernel = "cpu"\n'
    config = RunConfig(**in_toml(tmp_path, text))
    assert config == RunConfig(("gsm8k",), temperature=0.8, repeats=3, allow_unsafe_code=True, kernel="cpu")


def test_an_integer_is_a_number_too(tmp_path: Path) -> None:
    """And the same number: a request's key is made of it."""
    config = RunConfig(**{"tasks": ("gsm8k",)} | in_toml(tmp_path, "temperature = 1"))
    assert (config.temperature, type(config.temperature)) == (1.0, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("taks = ['mmlu']", "taks is no key .*did you mean tasks"),
        ("limit = '20'", 'limit is "20", expected a whole number'),
        ("limit = 20.0", r"limit is 20\.0, expected a whole number"),
        ("limit = 2026-01-01", 'limit is "2026-01-01", expected a whole number'),
        ("temperature = true", "temperature is true, expected a number"),
        ("tasks = ['mmlu', 5]", r"tasks\.1 is 5, expected a text"),
        ("tasks = [", "run.toml: not valid TOML"),
    ],
)
def test_toml_is_checked(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(EvalkitError, match=message):
        in_toml(tmp_path, text)


def test_a_file_that_is_missing_or_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(EvalkitError, match=r"cannot read .*gone\.toml: No such file"):
        read_toml(str(tmp_path / "gone.toml"))
    for encoding in ("utf-8-sig", "utf-16"):  # as Windows' editors save it
        (tmp_path / "run.toml").write_text('name = "\u20ac"', encoding)
        assert read_toml(str(tmp_path / "run.toml")) == {"name": "\u20ac"}
    (tmp_path / "run.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(EvalkitError, match=r"cannot read .*run\.toml: not valid TOML"):
        read_toml(str(tmp_path / "run.toml"))


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


def test_an_empty_system_message_is_refused() -> None:
    with pytest.raises(EvalkitError, match="system_instruction is ''; give a text, or leave it out"):
        RunConfig(("mmlu",), system_instruction="")
