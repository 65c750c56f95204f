"""Conversations for chat models without a chat template: FastChat's templates, from fschat's `fastchat.conversation`.

FastChat matches a model's name and falls back to `one_shot`, an example conversation, without a warning if nothing matches:
deepseek-moe-16b-chat is such a name, which may have depressed its published MT-Bench score. Here that model has the template of
its sibling deepseek-llm (which its tokenizer_config.json has too), and a name that matches nothing is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import EvalkitError

REQUIREMENT = "fschat==0.2.36"
# (all of these are in the model's name) -> FastChat's template; the first match counts, as in fastchat.model.model_adapter
TEMPLATES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("vicuna",), "vicuna_v1.1"),
    (("tulu",), "tulu"),
    (("zephyr",), "zephyr"),
    (("tinyllama", "chat"), "TinyLlama"),
    (("mistral", "instruct"), "mistral"),
    (("mixtral", "instruct"), "mistral"),
    (("llama-2", "chat"), "llama-2"),
    (("qwen", "chat"), "qwen-7b-chat"),
    (("deepseek-llm", "chat"), "deepseek-chat"),
    (("deepseek-moe", "chat"), "deepseek-chat"),  # one_shot in FastChat
    (("yi-", "chat"), "Yi-34b-chat"),
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation as text up to the answer, and the stop strings that end the answer in addition to the model's tokens."""

    text: str
    until: tuple[str, ...]


def template_for(spec: str) -> str | None:
    """FastChat's template for the model that SPEC names; None if no rule matches."""
    name = Path(spec.split("@")[0]).name.lower()
    return next((template for parts, template in TEMPLATES if all(part in name for part in parts)), None)


def write(template: str, messages: Sequence[Mapping[str, str]]) -> Prompt:
    """The messages ({"role", "content"}), an optional system message first, then user and assistant in turn.

    Raises EvalkitError if fschat is missing or of another version, which may write another prompt.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("fschat")
    except PackageNotFoundError:
        found = "none"
    if f"fschat=={found}" != REQUIREMENT:
        raise EvalkitError(
            f"the model has no chat template; FastChat's {template!r} would serve, but fschat is {found}:"
            f" run `pip install --no-deps {REQUIREMENT}`"
        )
    from fastchat.conversation import get_conv_template

    conversation = get_conv_template(template)
    roles = {"user": conversation.roles[0], "assistant": conversation.roles[1]}
    for message in messages:
        if message["role"] == "system":
            conversation.set_system_message(message["content"])
        else:
            conversation.append_message(roles[message["role"]], message["content"])
    conversation.append_message(roles["assistant"], None)
    stop = conversation.stop_str
    return Prompt(conversation.get_prompt(), tuple([stop] if isinstance(stop, str) else stop or ()))
