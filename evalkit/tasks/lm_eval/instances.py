"""lm-eval's instances <-> requests of ours. Its pairs of one context are one request here, whose context is computed once."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.hashing import sha256_json
from evalkit.tasks.requests import Generate, Generated, Loglikelihood, Loglikelihoods, Request, Response

MAX_NEW_TOKENS = 256  # of an answer whose task does not say: lm-eval's default
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names of one setting, the first that is given counts
_NO_EFFECT = {"top_p": (1, None), "top_k": (0, -1, None), "num_beams": (1,), "num_return_sequences": (1,), "repetition_penalty": (1,)}
_SAMPLING_ALONE = ("top_p", "top_k", "min_p", "typical_p")  # they say nothing of a greedy answer


class Conversation(str):
    """A prompt that the model's chat template will write: what lm-eval hands to it. As a text it is the messages' JSON."""

    messages: tuple[tuple[str, str], ...]
    begun: str  # what the answer begins with

    def __new__(cls, turns: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> "Conversation":
        found = super().__new__(cls, json.dumps(turns, ensure_ascii=False))
        messages = tuple((turn["role"], turn["content"]) for turn in turns)
        found.begun = "" if add_generation_prompt else messages[-1][1]
        found.messages = messages if add_generation_prompt else messages[:-1]
        return found


@dataclass(frozen=True, slots=True)
class Asked:
    """The requests of a document, and which of them and which continuation answer each of its instances, `repeats` times."""

    instances: Sequence[Any]
    requests: tuple[Request, ...]
    places: Sequence[Sequence[tuple[int, int]]]

    def answer(self, responses: Sequence[Response]) -> None:
        """Give the instances their responses, as an lm-eval model would."""
        for instance, places in zip(self.instances, self.places, strict=True):
            instance.resps = [_said(instance, responses[request], option) for request, option in places]
            instance.filtered_resps = {}


def asked(instances: Sequence[Any], name: str, doc_id: str, seed: int, chat: bool) -> Asked:
    """The requests of one document's instances. Raises EvalkitError for what no engine of ours does."""
    requests: list[Request] = []
    places: list[list[tuple[int, int]]] = []
    open_context: tuple[str, tuple[tuple[str, str], ...]] | None = None  # of the last request, if more continuations may join it
    for instance in instances:
        repeats = 1 if instance.repeats is None else instance.repeats
        if repeats < 1:
            raise EvalkitError(f"lm_eval:{name} has repeats: {repeats} in its file; write 1 or more there")
        if instance.request_type == "loglikelihood_rolling":
            open_context = None
            requests.append(Loglikelihood("", (instance.args[0],), rolling=True))
            places.append([(len(requests) - 1, 0)] * repeats)
            continue
        prompt, argument = instance.args[:2]
        context, messages = _prompt(prompt, name, chat)
        if instance.request_type == "loglikelihood":
            last = requests[-1] if requests else None
            if isinstance(last, Loglikelihood) and open_context == (context, messages):
                requests[-1] = Loglikelihood(context, (*last.continuations, argument), messages=messages)
            else:
                requests.append(Loglikelihood(context, (argument,), messages=messages))
                open_context = (context, messages)
            made = requests[-1]
            assert isinstance(made, Loglikelihood)
            places.append([(len(requests) - 1, len(made.continuations) - 1)] * repeats)
        else:
            open_context = None
            first = len(requests)
            requests += generations(context, messages, argument, repeats, name, sha256_json([name, seed, doc_id, first]))
            places.append([(first + i, 0) for i in range(repeats)])
    return Asked(instances, tuple(requests), places)


def _prompt(prompt: str, name: str, chat: bool) -> tuple[str, tuple[tuple[str, str], ...]]:
    if isinstance(prompt, Conversation):
        return prompt.begun, prompt.messages
    if chat and prompt:  # "" is lm-eval's context of an unconditional log-likelihood
        raise EvalkitError(
            f"lm_eval:{name} writes its prompts by code of its own, which passes the chat template by; leave --apply-chat-template out"
        )
    return prompt, ()


def generations(
    context: str, messages: tuple[tuple[str, str], ...], settings: Mapping[str, Any], repeats: int, name: str, key: str
) -> Iterator[Generate]:
    """One request an answer; a greedy one is the same request again, and is computed once.

    Raises EvalkitError for settings that our engines do not have.
    """
    given = dict(settings)
    lengths = [given.pop(each, None) for each in _LENGTHS]
    said = next((each for each in lengths if each is not None), MAX_NEW_TOKENS)
    length = _whole(said)
    if length is None or length < 1:
        raise EvalkitError(f"lm_eval:{name} generates at most {said!r:.40} tokens; its generation settings need a whole number, 1 or more")
    until = given.pop("until", None) or []
    if not isinstance(until, str | list | tuple):
        raise EvalkitError(f"lm_eval:{name} stops at {until!r:.40}, which is no list of texts; its generation settings need one")
    temperature = _temperature(given.pop("temperature", None), name)
    sampled = given.pop("do_sample", None)
    if sampled is None:
        sampled = temperature > 0
    for setting, value in given.items():
        if value not in _NO_EFFECT.get(setting, ()) and (sampled or setting not in _SAMPLING_ALONE):
            raise EvalkitError(f"lm_eval:{name} generates with {setting}: {value!r}, which evalkit's engines do not do")
    if sampled and not temperature:
        raise EvalkitError(f"lm_eval:{name} samples without a temperature; set one above 0, or do_sample: false")
    stops = tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop != "")
    if odd := [stop for stop in stops if not isinstance(stop, str)]:
        raise EvalkitError(f"lm_eval:{name} stops at {odd[0]!r:.40}, which is no text; put it in quotes")
    for i in range(repeats):
        seed = int(sha256_json([key, i])[:8], 16) if sampled else 0
        yield Generate(context, stops, length, temperature if sampled else 0.0, seed, messages)


def _temperature(value: Any, name: str) -> float:
    try:
        return float(value or 0.0)
    except (TypeError, ValueError):
        raise EvalkitError(f"lm_eval:{name} has the temperature {value!r:.40}; its generation settings need a number, 0 or more") from None


def _whole(value: Any) -> int | None:
    """A whole number, or the digits of one; None for anything else."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        return None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _said(instance: Any, response: Response, option: int) -> Any:
    """A response as lm-eval's models give it."""
    if isinstance(response, Generated):
        return response.text
    assert isinstance(response, Loglikelihoods)
    if instance.request_type == "loglikelihood_rolling":
        return response.logprobs[option]
    return response.logprobs[option], response.is_greedy[option]
