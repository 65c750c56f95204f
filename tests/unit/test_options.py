"""The command line: one definition of each shared option, defaults and types from the dataclasses, EVALKIT_DATA read in one place."""

import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from evalkit.bench.config import MODELS, BenchConfig
from evalkit.cli import _parser
from evalkit.cli.options import SHARED, given, model_of, with_data
from evalkit.config import ModelSpec, RunConfig
from evalkit.judge.config import JudgeConfig
from evalkit.lm.generate import GenerateConfig
from evalkit.lm.upcycle import Recipe
from evalkit.serve import ServeConfig

ROOT = Path(__file__).parents[2]


def test_every_setting_of_a_run_is_an_option() -> None:
    assert list(SHARED) == [field.name for field in fields(RunConfig)]


@pytest.mark.parametrize(
    ("command", "config", "expected"),
    [
        ("run", RunConfig, {}),
        ("generate --prompt Hi", GenerateConfig, {"prompt": "Hi"}),
        ("serve", ServeConfig, {}),
        ("upcycle a b", Recipe, {}),
        ("bench", BenchConfig, {"models": []}),
        ("judge r --judge-model gpt-4", JudgeConfig, {"run": Path("r"), "model": "gpt-4"}),
    ],
)
def test_what_is_not_given_is_left_to_the_dataclass(command: str, config: type, expected: dict[str, object]) -> None:
    assert given(_parser().parse_args(shlex.split(command)), config) == expected


def test_options_have_their_fields_types() -> None:
    text = "run --tasks mmlu,,gsm8k --limit 5 --temperature 1 --repeats 2 --seed 3 --fresh --quiet --allow-unsafe-code --data d"
    config = RunConfig(**given(_parser().parse_args(shlex.split(text)), RunConfig))
    assert config == RunConfig(
        ("mmlu", "gsm8k"),
        limit=5,
        temperature=1.0,
        repeats=2,
        seed=3,
        fresh=True,
        quiet=True,
        allow_unsafe_code=True,
        data="d",
    )
    assert isinstance(config.temperature, float)
    arguments = _parser().parse_args(shlex.split("judge r --judge-model j --against other --max-cost 2 --rating strict"))
    assert JudgeConfig(**given(arguments, JudgeConfig) | {"price_in": 1.0, "price_out": 1.0}).against == Path("other")
    assert arguments.max_cost == 2.0


def test_variables_of_the_chat_template() -> None:
    text = "generate --prompt Hi --chat-template-arg enable_thinking=False --chat-template-arg budget=3 --chat-template-arg 'tone=a = b'"
    assert model_of(_parser().parse_args(shlex.split(text))).chat_template_args == {"enable_thinking": False, "budget": 3, "tone": "a = b"}


def test_a_model_without_tasks() -> None:
    arguments = _parser().parse_args(shlex.split("serve --model tiny --dtype bfloat16"))
    assert model_of(arguments) == ModelSpec("tiny", dtype="bfloat16")
    assert model_of(_parser().parse_args(["generate", "--prompt", "Hi"])).name == "demo"
    assert BenchConfig().models == MODELS


@pytest.mark.parametrize("text", ["run --device tpu", "run --limit five", "generate", "verify", "bench --out", "run --chat-template-arg x"])
def test_wrong_use_ends_with_2(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _parser().parse_args(shlex.split(text))
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_evalkit_data_stands_in_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_data({"seed": 1}) == {"seed": 1}
    monkeypatch.setenv("EVALKIT_DATA", "folder")
    assert with_data({}) == {"data": "folder"}
    assert with_data({"data": "hub"}) == {"data": "hub"}


def test_evalkit_data_is_read_in_one_place() -> None:
    reads = [path.name for path in (ROOT / "evalkit").rglob("*.py") if 'environ.get("EVALKIT_DATA")' in path.read_text()]
    named = [path.name for path in (ROOT / "evalkit").rglob("*.py") if 'EVALKIT_DATA"' in path.read_text()]
    assert reads == named == ["options.py"]
