"""The lm_eval back-end: what it hands to an lm-eval model class."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit.errors import EvalkitError
from evalkit.lm.lm_eval import LmEvalLM
from evalkit.tasks import Generate

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
CHAT = Generate("", ("\n",), 8, messages=(("user", "What is two and two?"),))


class Peer:
    """An lm-eval model class that answers with the prompt it was given."""

    def generate_until(self, instances: list[Any], disable_tqdm: bool) -> list[str]:
        return [instance.args[0] for instance in instances]

    def apply_chat_template(self, history: list[dict[str, str]]) -> str:
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in history) + "<assistant>"


def test_a_conversation_reaches_the_peer_in_its_own_template():
    lm = LmEvalLM(Peer(), "lm_eval:peer", "0", {})
    answers = dict(lm.generate([CHAT, Generate("plain", (), 8)]))
    assert answers[0].text == "<user>What is two and two?<assistant>"
    assert answers[1].text == "plain"


class CountingPeer(Peer):
    """One that has tokens, a character each, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def tok_encode(self, text: str) -> list[str]:
        return list(text)

    def generate_until(self, instances: list[Any], disable_tqdm: bool) -> list[str]:
        self.asked += [(instance.args[0], instance.args[1]["max_gen_toks"]) for instance in instances]
        return super().generate_until(instances, disable_tqdm)


def test_a_begun_answer_follows_the_template_and_limits_are_counted():
    peer, limited = CountingPeer(), Generate("plain", (), 8, max_total_tokens=9)
    list(LmEvalLM(peer, "lm_eval:peer", "0", {}).generate([replace(CHAT, context="Four"), limited]))
    assert peer.asked == [("<user>What is two and two?<assistant>Four", 8), ("plain", 4)]
    with pytest.raises(EvalkitError, match="counts no tokens, and 9 are the limit"):
        list(LmEvalLM(Peer(), "lm_eval:peer", "0", {}).generate([limited]))


def test_a_peer_without_templates_is_refused_in_one_line():
    peer = SimpleNamespace(generate_until=lambda instances, disable_tqdm: ["" for _ in instances])
    with pytest.raises(EvalkitError, match=r"cannot write a conversation .* use the native engine"):
        list(LmEvalLM(peer, "lm_eval:peer", "0", {}).generate([CHAT]))
