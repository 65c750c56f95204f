"""Settings that a server refuses: it is asked again without them, they are left out from then on, and run.json names them.

Answers are cut at stop strings that the server was not given, in evalkit/lm/openai.py.
"""

import re
from collections.abc import Callable
from typing import Any

from evalkit.lm.http import RequestFailed
from evalkit.tasks import Generate

MOST_STOPS = 4  # what OpenAI's own API takes
_CONTENT = re.compile(r"content[_ -]?(?:filter|management)|content policy|responsible ?ai|safety (?:system|filter)|data_inspection_failed")
_NOTICES = {  # none for max_tokens, which max_completion_tokens replaces
    "stops": f"the server takes {MOST_STOPS} stop strings: answers were cut at the others here",
    "stop": "the server takes no stop strings: answers were cut at them here",
    "seed": "the server takes no seed: answers that are sampled cannot be repeated",
    "temperature": "the server takes no temperature of 0: answers are by its own default and cannot be repeated",
}


def refused_content(error: RequestFailed) -> bool:
    """Did a content filter refuse this prompt? Others may be answered."""
    return error.refused and error.status in (400, 403, 422, 451) and _CONTENT.search(error.about) is not None


class ServerLimits:
    """Safe to use from many threads: what one finds refused, the others leave out from then on."""

    def __init__(self) -> None:
        self._refused: set[str] = set()

    def ask(self, post: Callable[[dict[str, Any]], dict[str, Any]], request: Generate) -> dict[str, Any]:
        """`post` of the request's settings, without what the server refuses. Raises RequestFailed where it refuses more than that."""
        left_out = set(self._refused)
        while True:
            try:
                answer = post(self._settings(request, left_out))
            except RequestFailed as error:
                if not error.refused or (more := _refused_setting(error.about, request, left_out)) is None:
                    raise
                left_out.add(more)
                continue
            self._refused |= left_out
            return answer

    def notices(self) -> list[str]:
        """What a reader of the answers should know, a line each."""
        return [text for name, text in _NOTICES.items() if name in self._refused]

    def _settings(self, request: Generate, left_out: set[str]) -> dict[str, Any]:
        settings: dict[str, Any] = {"temperature": request.temperature, "seed": request.seed, "stop": list(request.until)}
        settings["max_completion_tokens" if "max_tokens" in left_out else "max_tokens"] = request.max_new_tokens
        if "stops" in left_out:
            settings["stop"] = settings["stop"][:MOST_STOPS]
        if "stop" in left_out or not settings["stop"]:
            del settings["stop"]
        if "seed" in left_out:
            del settings["seed"]
        if "temperature" in left_out and not request.temperature:
            del settings["temperature"]
        return settings


def _refused_setting(about: str, request: Generate, left_out: set[str]) -> str | None:
    """The next setting to leave out, by what the server says it refuses; None where it says something else."""
    if "max_completion_tokens" in about and "max_tokens" not in left_out:
        return "max_tokens"
    if re.search(r"\bseed\b", about) and "seed" not in left_out:
        return "seed"
    if re.search(r"\btemperature\b", about) and not request.temperature and "temperature" not in left_out:
        return "temperature"
    if re.search(r"\bstop\b|\bstop[_ ](?:strings?|sequences?)\b", about) and request.until:
        if "stops" not in left_out and len(request.until) > MOST_STOPS:
            return "stops"
        if "stop" not in left_out:
            return "stop"
    return None
