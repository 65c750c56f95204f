"""The native back-end's own arithmetic, on a tiny model: rolling log-likelihood, and refusals in one line."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.lm import models, open_lm
from evalkit.lm.native import NativeLM
from evalkit.tasks import Loglikelihood
from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.engine.batch import forward
from moe_lm.engine.pages import pool_for

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lm(tiny_model: Path) -> NativeLM:
    lm = open_lm(ModelSpec(str(tiny_model)))
    assert isinstance(lm, NativeLM)
    return lm


def test_rolling_scores_every_token_once(lm: NativeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """By definition: windows of max_seq_len new tokens, each after as many of those before it as still fit."""
    size = 16
    monkeypatch.setattr(lm, "config", replace(lm.config, max_seq_len=size))
    monkeypatch.setattr(lm.backend, "config", lm.config)
    texts = ["A text of more than two windows of tokens.", "", "short", "sixteen letters!"]
    found = dict(lm.loglikelihood_rolling(texts))
    assert found.keys() == {0, 1, 2, 3}
    assert found[1] == 0.0
    for i, text in enumerate(texts):
        ids = [256, *lm.tokenizer.encode(text)]  # 256: end of text
        expected = 0.0
        for start in range(1, len(ids), size):
            end = min(start + size, len(ids))
            begin = max(0, end - size - 1)
            with torch.inference_mode():
                hidden = forward(lm.backend, [(ids[begin : end - 1], pool_for(lm.backend).fork(None, end - begin))], range(end - 1 - begin))
                logits = lm.backend.logits(hidden)
            logprobs = logits.log_softmax(-1)
            expected += sum(float(logprobs[position - begin - 1, ids[position]]) for position in range(start, end))
        assert found[i] == pytest.approx(expected, abs=1e-4)


def test_what_the_engine_refuses_is_bad_input(lm: NativeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm, "_encode", lambda _: ([], [[1]], 0, 0))
    with pytest.raises(EvalkitError, match="at least one token"):
        list(lm.loglikelihood([Loglikelihood("", ("a",))]))


def test_a_named_model_whose_file_is_another(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is hashed once, while it is opened: a run refuses it, and so does whoever asks for its path alone."""
    monkeypatch.setattr(models, "local_path", lambda model: tiny_model)
    row = models.NamedModel("tiny", "tiny", open_checkpoint(tiny_model).sha256)
    monkeypatch.setitem(models.MODELS, "tiny-model", row)
    NativeLM.open(ModelSpec("tiny-model"))
    monkeypatch.setitem(models.MODELS, "tiny-model", replace(row, sha256="0" * 64))
    with pytest.raises(EvalkitError, match=rf"tiny has sha256 {row.sha256[:16]}, expected 0{{16}}; delete it and fetch it again"):
        NativeLM.open(ModelSpec("tiny-model"))
    file = tmp_path / "m.gguf"
    file.write_bytes(b"another")
    monkeypatch.setattr(models, "local_path", lambda model: file)
    with pytest.raises(EvalkitError, match=r"m\.gguf has sha256 .*, expected 0{16}"):
        models.find("tiny-model")
