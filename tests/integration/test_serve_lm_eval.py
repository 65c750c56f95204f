"""lm-eval's own clients, given the model's name and the address alone, get from evalkit serve what the engine answers without it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from served import listening

pytest.importorskip("fastapi", reason="pip install 'evalkit-lm[serve]'")
pytest.importorskip("lm_eval", reason="pip install 'evalkit-lm[lm-eval]'")
pytest.importorskip("tenacity", reason="lm-eval's clients need it: pip install 'lm_eval[api]'")

from evalkit.config import ModelSpec
from evalkit.lm.lm_eval import LmEvalLM
from evalkit.lm.native import NativeLM
from evalkit.serve.app import make_app
from evalkit.tasks import Generate, Loglikelihood

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"


@pytest.fixture(scope="module")
def lm(tiny_model: Path) -> NativeLM:
    torch.set_num_threads(1)
    found = NativeLM.load(ModelSpec(str(tiny_model)))
    found.tokenizer.chat_template, found.stand_in = TEMPLATE, None
    found.tokenizer.eos_token = "<|endoftext|>"
    return found


@pytest.fixture(scope="module")
def address(lm: NativeLM) -> Iterator[str]:
    with listening(make_app(lm, "tiny")) as found:
        yield f"{found}/v1"


def client(name: str, url: str) -> LmEvalLM:
    from lm_eval.api.registry import get_model

    model: Any = get_model(name)(base_url=url, model="tiny")
    return LmEvalLM(model, f"lm_eval:{name}", "", {})


def test_local_completions(lm: NativeLM, address: str) -> None:
    found = client("local-completions", f"{address}/completions")
    assert found.lm.tokenizer_backend == "remote"
    scored = [Loglikelihood("The capital of France is", (" Paris", " London")), Loglikelihood("Größe: 漢字\n", ("A", " B"))]
    for (_, mine), (_, own) in zip(found.loglikelihood(scored), lm.loglikelihood(scored), strict=True):
        assert mine.logprobs == pytest.approx(own.logprobs, abs=1e-4)
        assert mine.is_greedy == own.is_greedy
    written = [Generate("Hello there", (), 12), Generate("Hello there", ("e",), 40)]
    assert [each.text for _, each in sorted(found.generate(written))] == [each.text for _, each in sorted(lm.generate(written))]


def test_local_chat_completions(lm: NativeLM, address: str) -> None:
    from lm_eval.api.instance import Instance

    found = client("local-chat-completions", f"{address}/chat/completions").lm
    asked = [Generate("", (), 12, messages=(("user", f"Question {i}?"),)) for i in range(2)]
    chats = [found.apply_chat_template([{"role": "user", "content": each.messages[0][1]}]) for each in asked]
    settings = {"until": [], "max_gen_toks": 12, "do_sample": False}
    instances = [Instance(request_type="generate_until", doc={}, arguments=(chat, settings), idx=i) for i, chat in enumerate(chats)]
    assert found.generate_until(instances, disable_tqdm=True) == [each.text for _, each in sorted(lm.generate(asked))]
