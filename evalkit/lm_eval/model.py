"""An lm-eval model over any engine of ours: a whole call of lm-eval's is one batch, whose shared prefixes are computed once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM
from tqdm import tqdm

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError, unknown
from evalkit.hashing import sha256_json
from evalkit.lm import open_lm
from evalkit.lm.base import require_finite
from evalkit.tasks.lm_eval.instances import generations
from evalkit.tasks.requests import Generate, Loglikelihood, Loglikelihoods, Request, Response, is_refused

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

SETTINGS = ("pretrained", "engine", "dtype", "device", "kernel", "seed")  # what --model_args may hold
WITHOUT_EFFECT = ("batch_size", "max_batch_size")  # which lm-eval passes to every model: batches are made here, and change no answer
LM_EVALS_DEVICE = "cuda:0"  # what its command passes where --device is not given, and its own class takes for "a GPU if there is one"
logger = logging.getLogger(__name__)


class EvalkitLM(LM):
    """`--model evalkit --model_args pretrained=SPEC,engine=native,dtype=auto,kernel=auto,seed=0`, with lm-eval's `--device`.

    SPEC and ENGINE are those of `evalkit run`. Raises EvalkitError for arguments that have no meaning here, and for what
    the engine cannot load or answer.
    """

    def __init__(
        self, pretrained: str | int | None = None, *, engine: str = "native", device: str | None = None, seed: int = 0, **settings: Any
    ):
        super().__init__()
        if isinstance(pretrained, int):  # lm-eval's reading of a name of digits
            pretrained = str(pretrained)
        if trusted := settings.pop("trust_remote_code", False):
            raise EvalkitError(f"--model_args trust_remote_code={trusted}: evalkit runs no code of a checkpoint; leave it out")
        if other := sorted(settings.keys() - {"dtype", "kernel", *WITHOUT_EFFECT}):
            raise unknown("model argument", other[0], SETTINGS)
        known = {name: settings[name] for name in ("dtype", "kernel") if settings.get(name) is not None}
        for name, value in {"pretrained": pretrained, "engine": engine, "device": device, **known}.items():
            if not isinstance(value, str | None):
                raise EvalkitError(f"--model_args {name}={value!r:.60}: give one word")
        if not isinstance(seed, int):
            raise EvalkitError(f"--model_args seed={seed!r:.60}: give a whole number")
        if not pretrained and engine in ("native", "llama_cpp"):
            raise EvalkitError("--model_args names no model; give pretrained=SPEC: a hub id, a folder or a .gguf file")
        if engine.startswith("lm_eval:"):
            raise EvalkitError(f"engine {engine} is lm-eval's own; give --model {engine.removeprefix('lm_eval:')} instead")
        if device is None or device == LM_EVALS_DEVICE:
            device = "auto"
        self.lm = open_lm(ModelSpec(pretrained, engine, device, **known))
        self.seed = seed
        self.asked: Counter[str] = Counter()  # how often each sampled request was, whose answers have seeds of their own
        self.counts = {"truncated_prompts": 0, "merged_boundaries": 0, "refused_by_the_server": 0}
        for notice in self.lm.notices:
            logger.warning(notice)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability, greedy?) of each pair of context and continuation.

        A document's pairs of one context are one request. Those of other documents are not in it, since a context that is too long for
        the model is cut by the longest of a request's continuations.
        """
        together: dict[tuple[Any, Any, str], list[int]] = {}
        for i, request in enumerate(requests):
            together.setdefault((request.task_name, request.doc_id, request.args[0]), []).append(i)
        asked = [Loglikelihood(context, tuple(requests[i].args[1] for i in pairs)) for (*_, context), pairs in together.items()]
        owners = list(together.values())
        found: list[Any] = [None] * len(requests)
        for r, answer in self._answers("loglikelihood", asked, self.lm.loglikelihood(asked), len(requests), disable_tqdm):
            for i, *pair in zip(owners[r], answer.logprobs, answer.is_greedy, strict=True):
                self._keep("loglikelihood", requests[i], found, i, tuple(pair))
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text, in windows as lm-eval's."""
        texts = [request.args[0] for request in requests]
        asked = [Loglikelihood("", (text,), rolling=True) for text in texts]
        answers = ((i, Loglikelihoods((value,), (False,))) for i, value in self.lm.loglikelihood_rolling(texts))
        found: list[Any] = [None] * len(requests)
        for i, answer in self._answers("loglikelihood_rolling", asked, answers, len(requests), disable_tqdm):
            self._keep("loglikelihood_rolling", requests[i], found, i, answer.logprobs[0])
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answer to each prompt; greedy ones that are asked for again are computed once."""
        together: dict[Generate, list[int]] = {}
        for i, request in enumerate(requests):
            together.setdefault(self._generate(request), []).append(i)
        asked, owners = list(together), list(together.values())
        found: list[Any] = [None] * len(requests)
        for r, answer in self._answers("generate_until", asked, self.lm.generate(asked), len(requests), disable_tqdm):
            for i in owners[r]:
                self._keep("generate_until", requests[i], found, i, answer.text)
        return found

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation in the model's template; without a generation prompt, the last message is the answer's beginning."""
        if add_generation_prompt:
            return self._templates.chat_prompt(chat_history)
        *before, last = chat_history
        return self._templates.chat_prompt(before) + last["content"]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that prompts are written in, which lm-eval records. Raises EvalkitError for one that is named."""
        if not chat_template:
            return None
        if isinstance(chat_template, str):
            raise EvalkitError(f"--apply_chat_template {chat_template}: a checkpoint has one template here; leave the name out")
        return self._templates.tokenizer.chat_template or self._templates.stand_in or ""

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's cache of requests tells models by: another tokenizer or template writes other prompts."""
        return f"evalkit-{self.lm.fingerprint.removeprefix('sha256:')[:16]}"

    def get_model_info(self) -> dict[str, Any]:
        """For lm-eval's results file: the engine, the fingerprint of weights, tokenizer and numerics, and what was cut or merged."""
        known = self.lm.describe()
        parameters = known.get("parameters") or {}
        return {
            "model_num_parameters": parameters.get("total", -1),
            "model_dtype": known.get("dtype") or "",
            "evalkit": {"fingerprint": self.lm.fingerprint, **known, **self.counts},
        }

    @property
    def _templates(self) -> Any:
        if not hasattr(self.lm, "chat_prompt"):
            raise EvalkitError("this engine renders no chat template; leave --apply_chat_template out, or use engine=native")
        return self.lm

    def _generate(self, request: Instance) -> Generate:
        """The request of an instance: a sampled one that comes again has another seed."""
        context, settings = request.args[:2]
        name = request.task_name or "task"
        key = sha256_json([self.seed, name, context, dict(settings)])
        self.asked[key] += 1
        (made,) = generations(context, (), settings, 1, name, f"{key} {self.asked[key]}")
        return made

    def _answers(
        self, kind: str, asked: Sequence[Request], answers: Iterator[tuple[int, Response]], total: int, silent: bool
    ) -> Iterator[tuple[int, Any]]:
        """The answers as they come, with a bar. Raises EvalkitError for one that is not finite."""
        missing = len(asked)
        with tqdm(total=missing, disable=silent, desc=f"evalkit: {kind}, {total:,} requests as {missing:,}") as bar:
            for r, answer in answers:
                require_finite(asked[r], answer)
                self.counts["truncated_prompts"] += answer.truncated > 0
                self.counts["merged_boundaries"] += answer.merged if isinstance(answer, Loglikelihoods) else 0
                self.counts["refused_by_the_server"] += is_refused(answer)
                yield r, answer
                missing -= 1
                bar.update()
        if missing:
            raise EvalkitError(f"the engine left {missing} of {len(asked)} requests without an answer")
        if said := ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.counts.items() if count):
            logger.warning(f"so far {said}")

    def _keep(self, kind: str, request: Instance, found: list[Any], i: int, answer: Any) -> None:
        found[i] = answer
        self.cache_hook.add_partial(kind, request.args, answer)
