"""The `openai:URL` back-end: any OpenAI-compatible server (vLLM, SGLang, llama.cpp, `evalkit serve`, hosted ones).

Generation goes to /completions, and a conversation to /chat/completions, where the server's chat template applies.
Log-likelihoods need a server that returns those of a prompt (`echo` with `logprobs`; vLLM and `evalkit serve` do). Prompts are cut
only where a protocol or the native engine cuts them, through /tokenize, which the same servers have.
The key is read from OPENAI_API_KEY and kept nowhere.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError, RunIncomplete, first_line
from evalkit.hashing import sha256_json
from evalkit.lm.base import LM, Tokens
from evalkit.lm.http import JsonClient, RequestFailed, RetryPolicy, concurrently, token_count
from evalkit.lm.prompt_cut import Cut, answer_length, context_cut, prompt_cut
from evalkit.lm.server_limits import ServerLimits, refused_content
from evalkit.tasks import REFUSED, Generate, Generated, Loglikelihood, Loglikelihoods

CONCURRENCY = 16  # requests in flight
BUSY = frozenset({None, 408, 409, 425, 429, 502, 503, 504})  # no answer: nothing is known of what the server can do
BROKEN_OFF = ("error", "abort")  # reasons to finish of vLLM, SGLang and routers: what there is of the text is no answer
VOLATILE = frozenset({"created", "permission", "object"})  # of a model's entry: they differ from one request to the next


class OpenAILM(LM):
    """One model of one server. Its fingerprint is over the server's description of itself, which is weaker than over weights."""

    def __init__(self, url: str, model: str, policy: RetryPolicy | None = None, concurrency: int = CONCURRENCY, known_as: str = ""):
        """`url`: up to /v1, which is added if the address has no path. Raises EvalkitError, or RunIncomplete without an answer.

        `known_as`: the address in the fingerprint, where several servers run the same model.
        """
        base = _base(url)
        self.model, self.concurrency = model, concurrency
        self.client = JsonClient(base, os.environ.get("OPENAI_API_KEY") or None, policy)
        self._trying_once = JsonClient(base, os.environ.get("OPENAI_API_KEY") or None, RetryPolicy(attempts=1, timeout=30))
        self._root = JsonClient(base.removesuffix("/v1"), os.environ.get("OPENAI_API_KEY") or None, RetryPolicy(attempts=2, timeout=30))
        self.entry = self._entry()
        self.max_seq_len = self.entry.get("max_model_len")
        self.server_version = self._optional("/version").get("version")
        # evalkit serve reports its weights' fingerprint, which is the same at any address
        where = None if "fingerprint" in self.entry else _base(known_as or url)
        self.fingerprint = "sha256:" + sha256_json(["openai", where, model, self.entry, self.server_version])
        self._limits = ServerLimits()
        self._computed = 0
        self._probed = False

    @classmethod
    def load(cls, model: ModelSpec, urls: str, worker: int | None = None) -> "OpenAILM":
        """The server's model that `--model` names, as the server names it; of URL,URL a worker's own. Raises EvalkitError."""
        first, *others = urls.split(",")
        if others and worker is None:
            raise EvalkitError(f"--engine openai:{urls}: only evalkit run asks several servers; name one")
        url = [first, *others][(worker or 0) % (1 + len(others))]
        if model.spec is None:
            raise EvalkitError(f"--engine openai:{url} needs --model, the name that the server gives its model (see {url}/models)")
        return cls(url, model.spec, known_as=first)

    def _entry(self) -> dict[str, Any]:
        """The model's entry in /models; {} for a server without that route."""
        try:
            listed = self.client.get("/models", check=lambda answer: [entry["id"] for entry in answer["data"]])["data"]
        except RequestFailed as error:
            if error.status in (404, 405):
                return {}
            raise _passed_on(error) from None
        for entry in listed:
            if entry["id"] == self.model:
                return {key: value for key, value in entry.items() if key not in VOLATILE}
        names = ", ".join(str(entry["id"]) for entry in listed[:10])
        raise EvalkitError(f"{self.client.base_url} has no model {self.model!r}; it has: {names or 'none'}")

    def _optional(self, path: str) -> dict[str, Any]:
        """A route beside /v1 that not every server has."""
        try:
            return self._root.get(path)
        except RequestFailed:
            return {}

    def _post(self, path: str, body: dict[str, Any], wanted: int = 1, client: JsonClient | None = None) -> dict[str, Any]:
        def check(answer: dict[str, Any]) -> None:
            if len([_said(choice) for choice in answer["choices"]]) != wanted:
                raise ValueError(f"{len(answer['choices'])} choices, {wanted} asked for")
            if broken := [reason for choice in answer["choices"] if (reason := choice.get("finish_reason")) in BROKEN_OFF]:
                raise ValueError(f"the answer was broken off, finish_reason {broken[0]}")

        answer = (client or self.client).post(path, {"model": self.model, **body}, check)
        self._computed += _counted(answer, "total_tokens")
        return answer

    def _tokenize(self, text: str, why: str) -> list[int]:
        """The server's token ids of a text. Raises EvalkitError if it has no /tokenize."""
        try:
            answer = self._root.post("/tokenize", {"model": self.model, "prompt": text}, check=lambda answer: list(answer["tokens"]))
        except RequestFailed as error:
            raise EvalkitError(f"{why}, and the server can't tokenize for it to be cut ({error})") from None
        return list(answer["tokens"])

    # --- log-likelihoods -----------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        if any(request.messages for request in requests):
            raise EvalkitError("a server shows no prompt that its chat template writes, so none can be scored after it; run it natively")
        if not all(request.context.strip() for request in requests):
            raise EvalkitError("an empty context can't be scored through a server: it gives no log-probability for a first token")
        self._probe()
        yield from _answered(concurrently(self._score, requests, self.concurrency))

    def _score(self, request: Loglikelihood) -> Loglikelihoods:
        """As the native engine: the whole text is tokenized, and cut where the tokens of the context alone end."""
        context = request.context.rstrip()
        moved = request.context[len(context) :]  # trailing blanks go to the continuation
        texts = [context, *(context + moved + continuation for continuation in request.continuations)]
        ids, cut = self._cut(request, texts)
        rows = self._echo(ids or texts)
        merged, logprobs, greedy = 0, [], []
        start = len(rows[0]["tokens"])
        for continuation, row in zip(request.continuations, rows[1:], strict=True):
            merged += row["tokens"][:start] != rows[0]["tokens"]
            if len(row["tokens"]) <= start:
                raise EvalkitError(f"continuation {continuation!r} adds no token to its context")
            own = row["token_logprobs"][start:]
            logprobs.append(float(sum(own)))
            # a token that ties with the best one counts as greedy: the server does not tell which it would choose
            greedy.append(all(lp >= max(top.values()) for lp, top in zip(own, row["top_logprobs"][start:], strict=True)))
        return Loglikelihoods(tuple(logprobs), tuple(greedy), cut.truncated, merged, cut.by_protocol)

    def _cut(self, request: Loglikelihood, texts: Sequence[str]) -> tuple[list[list[int]] | None, Cut]:
        """Token ids without the context's first tokens, None if no text is too long, and how many those are."""
        # a server runs the last token too, and leaves room for one more
        capacity = self.max_seq_len - 1 if isinstance(self.max_seq_len, int) else None
        room = min([size for size in (request.truncate_above, capacity) if size is not None], default=None)
        if room is None or max(len(text.encode()) for text in texts) <= room:  # a token has at least one byte
            return None, Cut(0, 0)
        ids = [self._tokenize(text, f"a prompt may exceed {room} tokens") for text in texts]
        context = len(ids[0])
        cut = context_cut(request, context, [len(whole) - context for whole in ids[1:]], capacity)
        return [whole[cut.dropped :] for whole in ids] if cut.dropped else None, cut

    def _probe(self) -> None:
        """Ask for the log-probabilities of a few words, once and without retries, to refuse a server that has none at once."""
        if self._probed:
            return
        try:
            self._echo(["The sky is blue."], self._trying_once)
        except RequestFailed as error:
            if error.status not in BUSY:
                raise EvalkitError(f"{self._lacking()} ({error})") from None
        self._probed = True

    def _lacking(self) -> str:
        return (
            f"{self.client.base_url} gives no log-probabilities of prompts (echo with logprobs), which this task needs; "
            "vLLM and evalkit serve do, and tasks that generate run on any server"
        )

    def _echo(self, prompts: Sequence[str | list[int]], client: JsonClient | None = None) -> list[dict[str, Any]]:
        """Each prompt's own tokens with their log-probabilities. Raises EvalkitError, in one line, if the server returns none."""
        body = {"prompt": prompts, "echo": True, "logprobs": 1, "max_tokens": 0, "temperature": 0}
        try:
            answer = self._post("/completions", body, len(prompts), client)
        except RequestFailed as error:
            if error.refused and error.status not in (401, 403, 429):
                raise EvalkitError(f"{self._lacking()} ({error})") from None
            raise
        try:
            rows = [_echoed(choice) for choice in sorted(answer["choices"], key=lambda choice: choice.get("index") or 0)]
            expected = token_count(answer.get("usage"), "prompt_tokens")
            if expected and expected != (counted := sum(len(row["tokens"]) for row in rows)):
                raise ValueError(f"{counted} tokens of {expected}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EvalkitError(f"{self._lacking()} ({first_line(error)})") from None
        return rows

    def loglikelihood_rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
        def score(text: str) -> float:
            (row,) = self._echo([text])
            if row["tokens"][0] and text.startswith(row["tokens"][0]):
                raise EvalkitError("the server puts no BOS in front, so that a text's first token has no log-likelihood; run it natively")
            return float(sum(row["token_logprobs"][1:]))

        yield from _answered(concurrently(score, texts, self.concurrency))

    # --- generation ----------------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        yield from _answered(concurrently(self._generate, requests, self.concurrency))

    def _generate(self, request: Generate) -> Generated:
        request = self._limited(request)
        given: dict[str, Any] = {"messages": [{"role": role, "content": content} for role, content in request.messages]}
        path, truncated = "/chat/completions", 0
        if not request.messages:
            prompt, truncated = self._fitted(request)
            path, given = "/completions", {"prompt": prompt}
        try:
            answer = self._limits.ask(lambda settings: self._post(path, given | settings), request)
        except RequestFailed as error:
            if not refused_content(error):
                raise
            return Generated("", REFUSED, 0, truncated)
        return _generated(answer, request, truncated)

    def _limited(self, request: Generate) -> Generate:
        """The request without a limit on prompt and answer together: the answer's own limit is what that leaves. Raises EvalkitError."""
        if request.messages and (request.context or request.max_total_tokens is not None):
            raise EvalkitError("a server takes no conversation whose answer is begun or limited together with its prompt; run it natively")
        if request.max_total_tokens is None:
            return request
        prompt = self._tokenize(request.context, f"the prompt and its answer are limited to {request.max_total_tokens} tokens")
        return replace(request, max_new_tokens=answer_length(request, len(prompt)), max_total_tokens=None)

    def complete_ids(self, prompt: Sequence[int], tokens: int) -> tuple[int, int]:
        """Generate exactly so many tokens after token ids, for measuring speed; returns (prompt, new) tokens as the server counts them."""
        body = {"prompt": list(prompt), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        used = self._post("/completions", body)["usage"]
        return int(used["prompt_tokens"]), int(used["completion_tokens"])

    def _fitted(self, request: Generate) -> tuple[str | list[int], int]:
        """The prompt, without its first tokens if it and the answer exceed the server's limit: as in the native engine, and counted."""
        limit = self.max_seq_len
        if not isinstance(limit, int) or len(request.context.encode()) + request.max_new_tokens <= limit:
            return request.context, 0
        prompt_cut(0, request.max_new_tokens, limit)  # refuses an answer that leaves no room, without a request
        ids = self._tokenize(request.context, f"a prompt may exceed the server's {limit} tokens")
        cut = prompt_cut(len(ids), request.max_new_tokens, limit)
        return (ids[cut:], cut) if cut else (request.context, 0)

    def describe(self) -> dict[str, Any]:
        about = self.entry.get("about")
        known = about if isinstance(about, dict) else {}  # evalkit serve reports all of them
        return {
            **{key: known.get(key) for key in ("family", "parameters", "weights", "dtype", "device")},
            "max_seq_len": self.max_seq_len,
            "server": self.client.base_url,
            "server_version": self.server_version,
            "served": {key: value for key, value in self.entry.items() if key != "about"},
            "identity": "what the server says of itself; the weights were not seen",
            **({"notices": notices} if (notices := self._limits.notices()) else {}),
        }

    def tokens(self) -> Tokens:
        """As the server counts them, shared prefixes included."""
        return Tokens(self._computed, 0)


def _base(url: str) -> str:
    return url.rstrip("/") + ("" if urlsplit(url).path.strip("/") else "/v1")


def _generated(answer: dict[str, Any], request: Generate, truncated: int) -> Generated:
    choice = answer["choices"][0]
    text = _said(choice)
    cuts = [at for stop in request.until if (at := text.find(stop)) >= 0]  # some servers keep the stop string
    reason = choice.get("finish_reason") or "stop"
    if reason == "content_filter":
        reason = REFUSED
    elif cuts:
        reason, text = "stop", text[: min(cuts)]
    elif reason == "stop" and (not request.until or ("stop_reason" in choice and not isinstance(choice["stop_reason"], str))):
        reason = "eos"
    return Generated(text, str(reason), _counted(answer, "completion_tokens"), truncated)


def _echoed(choice: dict[str, Any]) -> dict[str, Any]:
    """The `logprobs` of a choice. Raises ValueError unless every token but the first has its own log-probability and the likeliest's."""
    row = choice.get("logprobs") or {}
    tokens, own, top = (row.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not (isinstance(tokens, list) and isinstance(own, list) and isinstance(top, list) and len(tokens) == len(own) == len(top) > 0):
        raise ValueError("its tokens, token_logprobs and top_logprobs are no lists of one length")
    for logprob, likeliest in zip(own[1:], top[1:], strict=True):
        if not likeliest or not all(isinstance(each, float | int) for each in (logprob, *likeliest.values())):
            raise ValueError("a token has no log-probability")
    return dict(row)


def _said(choice: dict[str, Any]) -> str:
    """A choice's text, "" for null (a model that only thought). Raises ValueError for what is no text."""
    value = choice["message"].get("content") if "message" in choice else choice["text"]
    if isinstance(value, list):  # parts of a message
        value = "".join(part["text"] for part in value if part.get("type") == "text")
    if not isinstance(value, str | None):
        raise ValueError(f"the text is {value!r:.40}")
    return value or ""


def _counted(answer: dict[str, Any], name: str) -> int:
    """A count of tokens as the server gives it; 0 where it gives none, or what cannot be."""
    try:
        return token_count(answer.get("usage"), name)
    except ValueError:
        return 0


def _answered(answers: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    try:
        yield from answers
    except RequestFailed as error:
        raise _passed_on(error) from None


def _passed_on(error: RequestFailed) -> EvalkitError:
    """A refusal by the server is bad input; a server that does not answer leaves the run incomplete, to be resumed."""
    return error if error.refused else RunIncomplete(f"{error} What is answered is kept; run the same command again to go on")
