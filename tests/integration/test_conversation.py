"""FastChat's conversation templates for models without one: which model gets which, and what is written."""

import importlib.metadata
from pathlib import Path

import pytest

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.lm.conversation import REQUIREMENT, TEMPLATES, template_for, write
from evalkit.lm.native import NativeLM
from evalkit.tasks import Generate

pytestmark = pytest.mark.usefixtures("one_thread")

TURNS = [{"role": role, "content": content} for role, content in (("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?"))]


@pytest.fixture
def fschat() -> None:
    try:
        installed = f"fschat=={importlib.metadata.version('fschat')}"
    except importlib.metadata.PackageNotFoundError:
        installed = ""
    if installed != REQUIREMENT:
        pytest.skip(f"{REQUIREMENT} is not installed")


@pytest.mark.parametrize(
    ("spec", "template"),
    [
        ("deepseek-ai/deepseek-moe-16b-chat", "deepseek-chat"),  # one_shot in FastChat
        ("deepseek-ai/deepseek-llm-7b-chat@main", "deepseek-chat"),
        ("deepseek-ai/deepseek-moe-16b-base", None),
        ("/models/Llama-2-7b-chat-hf", "llama-2"),
        ("meta-llama/Llama-2-7b-hf", None),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistral"),
        ("Qwen/Qwen1.5-MoE-A2.7B-Chat", "qwen-7b-chat"),
        ("Qwen/Qwen1.5-MoE-A2.7B", None),
        ("./vicuna-7b-v1.5.Q4_0.gguf", "vicuna_v1.1"),
        ("demo", None),
    ],
)
def test_which_model_has_which_template(spec: str, template: str | None) -> None:
    assert template_for(spec) == template


def test_every_template_is_fastchats(fschat: None) -> None:
    for _, template in TEMPLATES:
        prompt = write(template, TURNS)
        assert prompt.text.index("Hi") < prompt.text.index("Yes?") < prompt.text.index("Why?")


def test_what_is_written(fschat: None) -> None:
    bos, eos = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    deepseek = write("deepseek-chat", TURNS)
    assert deepseek.text == f"{bos}User: Hi\n\nAssistant: Yes?{eos}User: Why?\n\nAssistant:"
    assert deepseek.until == (eos,)
    assert write("llama-2", TURNS).text == "[INST] Hi [/INST] Yes? </s><s>[INST] Why? [/INST]"
    system = write("qwen-7b-chat", [{"role": "system", "content": "Be brief."}, *TURNS[:1]])
    assert system.text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def load(tiny_model: Path, tmp_path: Path, name: str) -> NativeLM:
    (tmp_path / name).symlink_to(tiny_model)
    return NativeLM.load(ModelSpec(str(tmp_path / name)))


def test_a_model_without_a_template_answers_in_fastchats(fschat: None, tiny_model: Path, tmp_path: Path) -> None:
    chat, base = load(tiny_model, tmp_path, "deepseek-moe-16b-chat"), load(tiny_model, tmp_path, "some-base")
    prompt = write("deepseek-chat", TURNS[:1])
    ((_, told),) = chat.generate([Generate("", (), 8, messages=(("user", "Hi"),))])
    ((_, plain),) = base.generate([Generate(prompt.text, prompt.until, 8)])
    assert told == plain
    assert chat.fingerprint != base.fingerprint  # the template is part of who answers
    assert chat.describe()["chat_template"] == "fschat==0.2.36 deepseek-chat"
    assert "chat_template" not in base.describe()
    with pytest.raises(EvalkitError, match="no chat template"):
        base.chat_prompt(TURNS[:1])


def test_without_fschat_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(EvalkitError, match=r"pip install --no-deps fschat==0\.2\.36"):
        write("deepseek-chat", TURNS)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.2.35")
    with pytest.raises(EvalkitError, match=r"fschat is 0\.2\.35"):
        write("deepseek-chat", TURNS)
