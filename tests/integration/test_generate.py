"""evalkit generate: a prompt from the command line or a pipe, plain or through a chat template, and every refusal in one line."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.lm.generate import GenerateConfig, generate
from evalkit.lm.models import MODELS, local_path
from evalkit.lm.native import NativeLM
from evalkit.progress import Reporter

pytestmark = pytest.mark.usefixtures("one_thread")
Captured = pytest.CaptureFixture[str]


def answer(capsys: Captured, prompt: str, model: str | None = None, device: str = "auto", **changes: Any) -> tuple[str, str]:
    """(standard output, standard error) of one `generate`."""
    generate(GenerateConfig(prompt, ModelSpec(model, device=device), **{"max_new_tokens": 5} | changes), Reporter())
    return tuple(capsys.readouterr())


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))


@pytest.fixture
def chatty(tiny_model: Path, tmp_path: Path) -> str:
    """The tiny model with a chat template that knows a system prompt of its own."""
    folder = tmp_path / "chatty"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0].role != 'system' %}S: my own{% endif %}"
        "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('never no') }}{% endif %}"
        "{{ m.role[0] | upper }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    return str(folder)


def test_prompt(tiny_model: Path, capsys: Captured) -> None:
    out, err = answer(capsys, "Hello there", model=str(tiny_model))
    assert out.endswith("\n")
    assert len(out) > 1
    assert "5 tokens in " in err
    assert "tokens/s, cut at --max-new-tokens" in err
    assert answer(capsys, "Hello there", model=str(tiny_model))[0] == out
    sampled = {answer(capsys, "Hello there", model=str(tiny_model), temperature=1.0, seed=seed)[0] for seed in (1, 1, 2)}
    assert len(sampled) == 2


def test_prompt_from_a_pipe(tiny_model: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = answer(capsys, "Größe\n", model=str(tiny_model))
    piped(monkeypatch, "Größe\n\n".encode())
    assert answer(capsys, "-", model=str(tiny_model))[0] == expected


def test_chat(chatty: str, capsys: Captured) -> None:
    for system, text in ((None, "S: my ownU: Hi\nA:"), ("brief", "S: brief\nU: Hi\nA:")):
        expected, _ = answer(capsys, text, model=chatty)
        assert answer(capsys, "Hi", model=chatty, chat=True, system=system)[0] == expected


THINKING = (
    "{% for m in messages %}U: {{ m.content }}\n{% endfor %}A:{% if enable_thinking is defined and not enable_thinking %} {% endif %}"
)


def test_variables_of_the_chat_template(chatty: str, capsys: Captured) -> None:
    """As Qwen3's template has them. Another value is another model to the journal."""
    (Path(chatty) / "chat_template.jinja").write_text(THINKING)
    prints = set()
    for args, text in (({}, "U: Hi\nA:"), ({"enable_thinking": True}, "U: Hi\nA:"), ({"enable_thinking": False}, "U: Hi\nA: ")):
        expected, _ = answer(capsys, text, model=chatty)
        spec = ModelSpec(chatty, chat_template_args=args)
        generate(GenerateConfig("Hi", spec, chat=True, max_new_tokens=5), Reporter())
        assert capsys.readouterr().out == expected
        lm = NativeLM.open(spec)
        assert lm.describe().get("chat_template_args", {}) == args
        prints.add(lm.fingerprint)
    assert len(prints) == 3


def test_a_variable_that_the_chat_template_does_not_read(chatty: str, tiny_model: Path) -> None:
    with pytest.raises(EvalkitError, match=r"--chat-template-arg: .*'enable_thinkin'"):
        NativeLM.open(ModelSpec(chatty, chat_template_args={"enable_thinkin": False}))
    with pytest.raises(EvalkitError, match=r"--chat-template-arg x: .* has no chat template"):
        NativeLM.open(ModelSpec(str(tiny_model), chat_template_args={"x": 1}))
    with pytest.raises(EvalkitError, match="--chat-template-arg needs --chat"):
        GenerateConfig("Hi", ModelSpec(chatty, chat_template_args={"x": 1}))


def test_a_prompt_that_does_not_fit_is_cut_and_said_so(tiny_model: Path, capsys: Captured) -> None:
    _, err = answer(capsys, "x" * (8192 + 5), model=str(tiny_model))
    assert "the prompt's first 10 tokens did not fit" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": "\udcff"}, "not valid UTF-8"),
        ({"chat": True}, "the model has no chat template; leave out --chat"),
        ({"system": "brief"}, "--system needs --chat"),
        ({"max_new_tokens": 0}, "--max-new-tokens is 0"),
        ({"max_new_tokens": 9000}, "leaves no room for a prompt"),
        ({"temperature": -1.0}, "--temperature is -1.0"),
        ({"temperature": float("nan")}, "--temperature is nan"),
        ({"model": "smollm2-13m"}, "did you mean 'smollm2-135m'"),
        ({"model": "./nowhere.gguf"}, "no such file"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_refusals(tiny_model: Path, capsys: Captured, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EvalkitError, match=message) as caught:
        answer(capsys, **{"prompt": "Hi", "model": str(tiny_model)} | changes)
    assert "\n" not in str(caught.value)
    assert not capsys.readouterr().out


def test_a_template_that_refuses(chatty: str, capsys: Captured) -> None:
    with pytest.raises(EvalkitError, match="the model's chat template failed: never no"):
        answer(capsys, "no", model=chatty, chat=True)


def test_a_pipe_of_other_bytes(tiny_model: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"Gr\xf6\xdfe")
    with pytest.raises(EvalkitError, match="not valid UTF-8"):
        answer(capsys, "-", model=str(tiny_model))


@pytest.mark.slow
def test_the_blogs_example_on_the_demo_model(capsys: Captured) -> None:
    """https://qwenlm.github.io/blog/qwen-moe/ asks this; a model of 135M parameters has an answer, in English, and ends it."""
    if local_path(MODELS["demo"]) is None:
        pytest.skip("the demo model is not installed")
    out, err = answer(capsys, "Give me a short introduction to large language model.", chat=True, max_new_tokens=256)
    assert "language model" in out
    assert "<|im_" not in out
    assert "ended by the model" in err
