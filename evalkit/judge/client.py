"""The judge behind its server: one chat completion per judgment, within a budget.

It uses evalkit.lm.http and not the openai package, because it has to decide itself what is tried again, what counts as an answer and
what is paid for: the package's own retries would have to be switched off and written again around it.
"""

import os
import re
import threading
import time
from typing import Any

from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.hashing import sha256_json
from evalkit.judge.asks import Ask
from evalkit.judge.config import KEY_VARIABLES, JudgeConfig
from evalkit.judge.judgments import Judgment, JudgmentStore, Spent
from evalkit.lm.http import JsonClient, RequestFailed, RetryPolicy, token_count

REFUSED = frozenset({401, 402, 403, 404, 405})  # no request will ever succeed: the whole run stops
BYTES_A_TOKEN = 3  # bounds a request's cost before it is sent: tokenizers average more bytes per token


class BudgetSpent(RunIncomplete):
    """The next request might exceed --max-requests or --max-cost."""


class ServerDown(RunIncomplete):
    """Many judgments in a row failed: the fault is the server's, not the questions'."""


class Judge:
    """Safe to use from many threads. Raises EvalkitError at once for an address or key that can't be used."""

    def __init__(self, config: JudgeConfig, store: JudgmentStore):
        self.config, self._store = config, store
        self._name = sha256_json(config.identity)
        self._mutex, self._reserved = threading.Lock(), 0.0
        secret = next((value for name in KEY_VARIABLES if (value := os.environ.get(name))), None)
        self._secret = secret
        policy = RetryPolicy(attempts=config.attempts, base=config.backoff, timeout=config.timeout)
        self._client = JsonClient(config.url, secret, policy, on_try=self._count)

    @property
    def retries(self) -> int:
        """Tries after the first, in this session."""
        return self._client.retries

    def close(self) -> None:
        """Close the connections to the server."""
        self._client.close()

    def spent(self) -> Spent:
        """What this judge has cost on this run, over all sessions."""
        return self._store.spent(self._name)

    def ask(self, ask: Ask) -> Judgment:
        """One judgment, which may have failed. Raises BudgetSpent, or RequestFailed where the server refuses every request of ours."""
        config = self.config
        body: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": role, "content": content} for role, content in ask.messages],
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "n": 1,
        }
        prompt_tokens = sum(len(content.encode("utf-8", "replace")) for _, content in ask.messages) // BYTES_A_TOKEN + 1
        most = Spent(0, prompt_tokens, config.max_tokens)
        at_most = self._reserve(most)
        try:
            answer = self._client.post("/chat/completions", body, check=lambda found: self._check(found, most))
        except RequestFailed as error:
            if error.status in REFUSED or "quota" in str(error):
                raise
            return Judgment(None, error=str(error), time=time.time())
        finally:
            with self._mutex:
                self._reserved -= at_most
        choice = answer["choices"][0]
        return Judgment(
            text=self._masked(choice["message"]["content"]),
            model=self._masked(str(answer["model"])),
            system_fingerprint=self._masked(str(answer.get("system_fingerprint") or "")),
            finish_reason=str(choice.get("finish_reason") or ""),
            time=time.time(),
        )

    def _count(self) -> None:
        """Count a request, tries included, before it is sent: one that a kill interrupts is counted too."""
        with self._mutex:
            limit = self.config.max_requests
            if limit is not None and self.spent().requests >= limit:
                raise BudgetSpent(f"--max-requests {limit} is reached")
            self._store.charge(self._name, Spent(requests=1))

    def _reserve(self, most: Spent) -> float:
        """Reserve the most that a request can cost, and return it; 0 where there is no limit."""
        limit = self.config.max_cost
        at_most = self.config.cost(most.prompt_tokens, most.completion_tokens)
        if limit is None or at_most is None:
            return 0.0
        with self._mutex:
            spent = self.spent()
            so_far = self.config.cost(spent.prompt_tokens, spent.completion_tokens) or 0.0
            if so_far + self._reserved + at_most > limit:
                raise BudgetSpent(f"--max-cost {limit:g}: {so_far:.4f} is spent, and the next judgment may cost {at_most:.4f}")
            self._reserved += at_most
        return at_most

    def _check(self, answer: Any, most: Spent) -> None:
        """Raise ValueError where this is no judgment by the judge that was asked. The tokens it used are counted either way: as `most`
        where the numbers that the server gives are impossible.
        """
        usage = answer.get("usage")
        try:
            used = Spent(0, token_count(usage, "prompt_tokens"), token_count(usage, "completion_tokens"))
        except ValueError:
            used = most
        if used != Spent():
            self._store.charge(self._name, used)
        if not is_judge(answer["model"], self.config):
            raise ValueError(f"model {answer['model']!r} answered, {self.config.snapshot or self.config.model!r} was asked")
        text = answer["choices"][0]["message"]["content"]
        if not isinstance(text, str) or not text.strip():
            raise ValueError("the text is empty")

    def _masked(self, text: str) -> str:
        return text.replace(self._secret, "***") if self._secret else text


def is_judge(name: str, config: JudgeConfig) -> bool:
    """Is `name`, as the server reports it, the judge's: its own name or a dated one (gpt-4-0613, gpt-4o-2024-08-06)?"""
    if config.snapshot:
        return name == config.snapshot
    return re.fullmatch(rf"{re.escape(config.model)}(-\d{{4}}(-\d{{2}}-\d{{2}})?|-\d{{8}})?", name) is not None


def stopped(error: EvalkitError, done: int, due: int) -> EvalkitError:
    """The error, with what is kept and how to go on."""
    fix = "raise it and " if isinstance(error, BudgetSpent) else "mend that and " if isinstance(error, RequestFailed | ServerDown) else ""
    how = " with --retry-failed" if isinstance(error, ServerDown) else ""
    return RunIncomplete(f"{error}; {done} of {due} judgments are kept, {fix}run the same command again{how} to go on")
