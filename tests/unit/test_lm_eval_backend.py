"""The lm_eval back-end: what it hands to an lm-eval model class."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit.errors import EvalkitError
from evalkit.lm.lm_eval import LmEvalLM
from evalkit.tasks import Generate, Loglikelihood

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


class ScoringPeer(Peer):
    """One with tokens, a character each, of which it takes 101 with the last scored one."""

    max_length = 100

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def tok_encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return self.tok_encode(context), self.tok_encode(continuation)

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool) -> list[tuple[float, bool]]:
        self.asked += [(len(context), len(continuation)) for _, context, continuation in requests]
        return [(-1.0, True) for _ in requests]

    def loglikelihood(self, instances: list[Any], disable_tqdm: bool) -> list[tuple[float, bool]]:
        self.asked += [instance.args for instance in instances]
        return [(-1.0, True) for _ in instances]


def test_the_protocols_cut_is_made_and_what_does_not_fit_is_counted():
    peer, limits = ScoringPeer(), {"truncate_above": 60, "truncate_to": 50}
    lm = LmEvalLM(peer, "lm_eval:peer", "0", {})
    found = dict(lm.loglikelihood([Loglikelihood("x" * 70, ("ab", "c"), **limits), Loglikelihood("x" * 60, ("a",), **limits)]))
    assert [(found[i].truncated, found[i].cut_by_protocol, len(found[i].logprobs)) for i in (0, 1)] == [(0, 20, 2), (0, 0, 1)]
    assert peer.asked == [("x" * 60, "a"), (50, 2), (50, 1)]
    peer.asked = []
    ((_, long),) = lm.loglikelihood([Loglikelihood("x" * 120, ("ab",))])
    assert (long.truncated, long.cut_by_protocol) == (21, 0)
    assert peer.asked == [("x" * 120, "ab")]  # which the class cuts itself


def test_a_class_without_tokens_is_given_nothing_above_the_protocols_limit():
    peer = SimpleNamespace(loglikelihood=lambda instances, disable_tqdm: [(-1.0, True) for _ in instances])
    lm = LmEvalLM(peer, "lm_eval:peer", "0", {})
    assert len(list(lm.loglikelihood([Loglikelihood("x" * 9, ("a",), truncate_above=10, truncate_to=5)]))) == 1
    with pytest.raises(EvalkitError, match="counts no tokens, and the prompt may be above the 10 tokens that its protocol keeps"):
        list(lm.loglikelihood([Loglikelihood("x" * 10, ("a",), truncate_above=10, truncate_to=5)]))
