"""The `lm_eval:CLASS` back-end: any model class of the installed lm-eval, as a reference or to reach another engine.

A GGUF or named model is exported once as a Hugging Face folder to the model cache, so that lm-eval runs the same weights
with the right tokenizer (transformers' own GGUF path loses SmolLM2's digit splitting).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from evalkit.config import ModelSpec
from evalkit.data.sources import CACHE
from evalkit.errors import EvalkitError, first_line, pip_install, unknown
from evalkit.hashing import sha256_json
from evalkit.lm.base import LM
from evalkit.lm.models import Found, find
from evalkit.lm.prompt_cut import Cut, answer_length, context_cut
from evalkit.lm.tokenized import one_line
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods, Request

CHUNK = 64  # requests per call: lm-eval returns a whole call at once, and the journal stores answers as they arrive


class LmEvalLM(LM):
    """Wraps an lm-eval LM. lm-eval's own caches stay off: they key on arguments alone."""

    def __init__(self, lm: Any, engine: str, weights_sha256: str, settings: dict[str, Any]):
        self.lm, self.settings = lm, settings
        self.fingerprint = "sha256:" + sha256_json([engine, weights_sha256, settings, version("lm_eval"), version("torch")])

    @classmethod
    def load(cls, model: ModelSpec, class_name: str) -> LmEvalLM:
        """Build lm-eval's model class for `model.name`. Raises EvalkitError if lm-eval is missing or refuses."""
        try:
            from lm_eval.api.registry import MODEL_REGISTRY, get_model
        except ImportError:
            raise EvalkitError(f"--engine lm_eval:.. needs lm-eval; run {pip_install('lm-eval')}") from None
        from moe_lm.checkpoint.read import sha256_of

        try:
            model_class = get_model(class_name)
        except (KeyError, ValueError):
            raise unknown("lm_eval model class", class_name, MODEL_REGISTRY) from None
        folder = exported_folder(find(model.name, for_transformers=True))
        settings: dict[str, Any] = {"batch_size": 8, "dtype": model.dtype if model.dtype != "auto" else "float32"}
        if model.device != "auto":
            settings["device"] = model.device
        elif class_name == "hf":
            settings["device"] = _torch_device()
        try:
            lm = model_class(pretrained=str(folder), **settings)
        except Exception as error:  # the classes raise whatever their engine raises
            raise EvalkitError(f"lm_eval:{class_name} cannot load {model.name}: {first_line(error)}") from error
        return cls(lm, f"lm_eval:{class_name}", sha256_of(sorted(p for p in folder.iterdir() if p.is_file())), settings)

    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        for start in range(0, len(requests), CHUNK):
            chunk = requests[start : start + CHUNK]
            pairs = [[(prompt, c) for c in r.continuations] for prompt, r in zip(map(self._prompt, chunk), chunk, strict=True)]
            encoded = [self._encode(*each) for each in zip(chunk, pairs, strict=True)]
            uncut = [pair for some, (_, cut) in zip(pairs, encoded, strict=True) if not cut.by_protocol for pair in some]
            answers = iter(self.lm.loglikelihood(_instances("loglikelihood", uncut), disable_tqdm=True) if uncut else ())
            for i, (some, (ids, cut)) in enumerate(zip(pairs, encoded, strict=True), start):
                if cut.by_protocol:
                    got = self.lm._loglikelihood_tokens([(pair, *each) for pair, each in zip(some, ids, strict=True)], disable_tqdm=True)
                else:
                    got = [next(answers) for _ in some]
                scores = tuple(float(a[0]) for a in got), tuple(bool(a[1]) for a in got)
                yield i, Loglikelihoods(*scores, truncated=cut.truncated, cut_by_protocol=cut.by_protocol)

    def _encode(self, request: Loglikelihood, pairs: Sequence[tuple[str, str]]) -> tuple[list[tuple[list[int], list[int]]], Cut]:
        """Context and continuation ids of each pair, without what the protocol leaves out; what does not fit then, the class drops itself.

        No ids for a class that shows none. Raises EvalkitError where such a one may be given more than the protocol allows.
        """
        counts = hasattr(self.lm, "_encode_pair")
        ids = [self.lm._encode_pair(*p) if p[0] else ([self.lm.prefix_token_id], self.lm.tok_encode(p[1])) for p in pairs] if counts else []
        if not all(isinstance(part, list) for pair in ids for part in pair) or not ids:
            if request.truncate_above is not None and max(len((context + c).encode()) for context, c in pairs) > request.truncate_above:
                limit = f"the prompt may be above the {request.truncate_above} tokens that its protocol keeps"
                raise EvalkitError(f"lm-eval's model class counts no tokens, and {limit}; use the native engine")
            return [], Cut(0, 0)
        longest = getattr(self.lm, "max_length", None)
        capacity = longest + 1 if isinstance(longest, int) else None  # the last token is scored, not run
        cut = context_cut(request, len(ids[0][0]), [len(continuation) for _, continuation in ids], capacity)
        return [(context[cut.by_protocol :], continuation) for context, continuation in ids], cut

    def loglikelihood_rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
        for i, text in enumerate(texts):
            (value,) = self.lm.loglikelihood_rolling(_instances("loglikelihood_rolling", [(text,)]), disable_tqdm=True)
            yield i, float(value)

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        requests = [self._limited(request) for request in requests]

        def settings(i: int) -> tuple[tuple[str, ...], int, float]:
            return requests[i].until, requests[i].max_new_tokens, requests[i].temperature

        for (until, max_new_tokens, temperature), same in groupby(range(len(requests)), key=settings):
            if temperature:
                # lm-eval has no seed per request: a sampled answer would depend on what ran before it
                raise EvalkitError(f"temperature {temperature}: sampled tasks run on the native engine only")
            arguments = {"until": list(until), "max_gen_toks": max_new_tokens, "do_sample": False}
            indices = list(same)
            for start in range(0, len(indices), CHUNK):
                chunk = indices[start : start + CHUNK]
                pairs = [(self._prompt(requests[i]), dict(arguments)) for i in chunk]
                texts = self.lm.generate_until(_instances("generate_until", pairs), disable_tqdm=True)
                for i, text in zip(chunk, texts, strict=True):
                    count = len(self.lm.tok_encode(text)) if hasattr(self.lm, "tok_encode") else 0
                    yield i, Generated(text, "length" if count >= max_new_tokens else "stop", count)

    def _prompt(self, request: Request) -> str:
        """The context, after the conversation in the model's chat template if there is one."""
        if not request.messages:
            return request.context
        try:
            messages = [{"role": role, "content": content} for role, content in request.messages]
            return str(self.lm.apply_chat_template(messages)) + request.context
        except Exception as error:  # a class without templates, or a template that refuses, raise different errors
            raise EvalkitError(f"lm-eval's model class cannot write a conversation ({first_line(error)}); use the native engine") from None

    def _limited(self, request: Generate) -> Generate:
        """The request without a limit on prompt and answer together: the answer's own limit is what that leaves. Raises EvalkitError."""
        if request.max_total_tokens is None:
            return request
        if not hasattr(self.lm, "tok_encode"):
            raise EvalkitError(
                f"lm-eval's model class counts no tokens, and {request.max_total_tokens} are the limit; use the native engine"
            )
        length = answer_length(request, len(self.lm.tok_encode(self._prompt(request))))
        return replace(request, max_new_tokens=length, max_total_tokens=None)

    def describe(self) -> dict[str, Any]:
        return {"family": None, "parameters": None, "dtype": self.settings["dtype"], "device": self.settings.get("device", "auto")}


def exported_folder(found: Found) -> Path:
    """A checkpoint as a Hugging Face folder: itself if it is one, else a copy in the model cache, made once."""
    if found.path.is_dir():
        return found.path
    from moe_lm.checkpoint.read import load, sha256_of
    from moe_lm.checkpoint.write import save
    from moe_lm.upcycle.preserve import Upcycle, preserve

    suffix = "-moe" if found.upcycle else ""
    folder = CACHE / "exported" / f"{found.path.stem}-{sha256_of([found.path])[:12]}{suffix}"
    if not folder.exists():
        with one_line():
            checkpoint = load(found.path)
        model = preserve(checkpoint.model, Upcycle()) if found.upcycle else checkpoint.model
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        save(model, checkpoint.tokenizer, partial)
        try:
            partial.rename(folder)
        except OSError:  # another process has made it
            shutil.rmtree(partial)
    return folder


def _instances(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


def _torch_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
