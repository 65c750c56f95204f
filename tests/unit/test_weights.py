"""Whose weights a run measured, and what its verdict says of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_runs import as_installed, entry, figure, run
from rich.console import Console

from evalkit.lm.models import MODELS
from evalkit.record.schema import ModelInfo, StoredWeights
from evalkit.report.checkpoint import Checkpoint, StandIn
from evalkit.report.matches import published_for
from evalkit.report.published import Column, Print, PublishedFigure, read_table
from evalkit.report.screen import show
from evalkit.report.verdict import verdict
from evalkit.report.weights import Weights, weights_of

CODER = "qwen2.5-coder-0.5b"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PUBLISHED = Checkpoint("Qwen/Qwen2.5-Coder-0.5B-Instruct", "bfloat16", COMMIT, (StandIn(CODER, "Q4_K_M"),))
SAME = replace(PUBLISHED, stand_ins=(StandIn(CODER, "Q4_K_M", "it is Qwen's own file"),))
BFLOAT16 = StoredWeights(precision="bfloat16", bits=16.0, sha256="ab" * 32)
Q4 = StoredWeights(precision="Q4_K_M", bits=6.16, sha256=MODELS[CODER].sha256)
COLUMN = Column("humaneval", "HumanEval", 1)


def model(spec: str = PUBLISHED.hub, weights: StoredWeights | None = BFLOAT16, **known: Any) -> ModelInfo:
    return ModelInfo(**{"spec": spec, "fingerprint": "sha256:0", "engine": "native", "dtype": "bfloat16", "weights": weights} | known)


@pytest.mark.parametrize(
    "same",
    [
        model(),
        model(f"{PUBLISHED.hub}@{COMMIT}"),
        model(f"{PUBLISHED.hub}@main"),  # a branch tells no commit
        model(f"{PUBLISHED.hub}@{COMMIT[:9]}", None),
        model("/models/qwen2.5-coder-0.5b-instruct/"),
        model(f"/cache/models--Qwen--Qwen2.5-Coder-0.5B-Instruct/snapshots/{COMMIT}"),
        model(weights=replace(BFLOAT16, revision=COMMIT)),
        model(weights=None),  # a run of an older evalkit, or of another engine
    ],
)
def test_the_published_weights(same: ModelInfo) -> None:
    assert weights_of(same, PUBLISHED) == Weights()


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (model(f"{PUBLISHED.hub}@{'f' * 40}"), "revision ffffffffffff, published for 0123456789ab"),
        (model(f"{PUBLISHED.hub}@main", replace(BFLOAT16, revision="e" * 40)), "revision eeeeeeeeeeee, published for 0123456789ab"),
        (model("Qwen/Qwen2.5-Coder-0.5B"), "Qwen/Qwen2.5-Coder-0.5B, published for Qwen/Qwen2.5-Coder-0.5B-Instruct"),
        (model("random:Qwen/Qwen2.5-Coder-0.5B-Instruct"), "random:Qwen"),
        (model("/models/Qwen2.5-Coder-0.5B-Instruct", Q4), r"Q4_K_M (6.2 bits a weight), published in bfloat16"),
        (model(weights=replace(BFLOAT16, precision="float16")), "float16, published in bfloat16"),
        (model(CODER, Q4), "Q4_K_M (6.2 bits a weight) for bfloat16"),
        (model(CODER, None), "Q4_K_M for bfloat16"),
        (model(f"/anywhere/{MODELS[CODER].file}", Q4), "Q4_K_M (6.2 bits a weight) for bfloat16"),
    ],
)
def test_other_weights(other: ModelInfo, why: str) -> None:
    assert why in weights_of(other, PUBLISHED).other


def test_a_file_under_the_stand_ins_name_must_be_the_stand_in() -> None:
    assert not weights_of(model(CODER, Q4), SAME).other
    assert "not the Q4_K_M file" in weights_of(model(CODER, replace(Q4, precision="Q2_K", bits=3.4)), SAME).other
    assert "not the Q4_K_M file" in weights_of(model(CODER, replace(Q4, sha256="cd" * 32)), SAME).other


def test_a_named_model_is_no_other_checkpoint_of_that_name() -> None:
    """qwen2.5-coder-1.5b is the Instruct model, and Qwen/Qwen2.5-Coder-1.5B the base model, whose folder has that name."""
    rows = {row.model: row for row in read_table("qwen2.5-coder").rows}
    assert rows["Qwen2.5-Coder-1.5B-Instruct"].is_model("qwen2.5-coder-1.5b")
    assert not rows["Qwen2.5-Coder-1.5B"].is_model("qwen2.5-coder-1.5b")
    assert rows["Qwen2.5-Coder-1.5B"].is_model("/models/Qwen2.5-Coder-1.5B")
    (match,) = published_for("qwen2.5-coder-1.5b", "humaneval", "lm-eval")
    assert match.printed == "53.66"


def test_the_same_weights_in_another_arithmetic_say_so() -> None:
    assert weights_of(model(dtype="float32"), PUBLISHED) == Weights(remark="bfloat16 weights computed in float32")
    assert weights_of(model(weights=None, server="http://a/v1"), PUBLISHED).remark == "the weights are known by their name at the server"
    assert weights_of(model(weights=None, engine="python:mine.py:Own"), PUBLISHED).remark.startswith("answers of a Python class")


def judged(value: float, of: ModelInfo, **cell: Any) -> str:
    checkpoint = cell.pop("checkpoint", SAME)
    published = PublishedFigure(**{"printed": "61.6", "protocol": "qwen-coder", "url": "https://a.b", "checkpoint": checkpoint} | cell)
    measured = entry(value, 0.074, protocol="qwen-coder", headline="pass@1", metrics={"pass@1": figure(value, 0.074)}, n=164, n_total=164)
    return str(verdict(published, COLUMN, "humaneval@qwen-coder", as_installed("humaneval", measured), of))


def test_what_a_verdict_says_of_the_weights() -> None:
    stand_in = model(CODER, Q4, dtype="float32")
    assert judged(0.6, model()) == "reproduced"
    assert judged(0.6, model(dtype="float32")) == "reproduced (bfloat16 weights computed in float32)"
    assert judged(0.6, stand_in) == "reproduced (Q4_K_M (6.2 bits a weight) for bfloat16: it is Qwen's own file)"
    assert judged(0.4, model()) == "differs"
    assert judged(0.6, replace(stand_in, dtype="int8")) == (
        "reproduced (Q4_K_M (6.2 bits a weight), computed in int8, for bfloat16: it is Qwen's own file)"
    )
    assert judged(0.4, stand_in) == "differs (Q4_K_M (6.2 bits a weight) for bfloat16, a cause that is not tested)"
    assert judged(0.4, stand_in, tested="with its stops left out: 61.0") == (
        "differs (with its stops left out: 61.0; Q4_K_M (6.2 bits a weight) for bfloat16)"
    )
    assert judged(0.6, stand_in, checkpoint=PUBLISHED) == "cannot tell (other weights: Q4_K_M (6.2 bits a weight) for bfloat16)"
    assert judged(0.6, model(), checkpoint=None).startswith("cannot tell (other weights: ")
    assert judged(0.6, stand_in, protocol="chat") == "cannot tell (published under humaneval@chat, measured under humaneval@qwen-coder)"


def test_which_print_of_an_inconsistent_figure_the_measured_one_holds() -> None:
    also = (Print("42.1", place="Table 6"),)
    twice = {"printed": "61.6", "place": "Table 5", "inconsistent": "printed as 61.6 in Table 5 and as 42.1 in Table 6", "also": also}
    told = "published figure inconsistent (printed as 61.6 in Table 5 and as 42.1 in Table 6"
    assert judged(0.6, model(), **twice) == f"{told}; measured 60.0 (52.6 to 67.4), an interval that contains 61.6 alone)"
    assert judged(0.52, model(), **twice) == f"{told}; measured 52.0 (44.6 to 59.4), an interval without any of them)"
    assert judged(0.6, model(), **twice, checkpoint=PUBLISHED).startswith(f"{told}; measured 60.0")
    on = "measured 60.0 (52.6 to 67.4) on Q4_K_M (6.2 bits a weight) for bfloat16, an interval that contains 61.6 alone"
    assert judged(0.6, model(CODER, Q4), **twice) == f"{told}; {on})"
    assert judged(0.6, model(CODER, Q4), **twice, checkpoint=PUBLISHED) == f"{told})"  # nothing can be told of other weights


def test_the_screen_tells_what_stands_behind_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = run(CODER, humaneval=entry(0.6, 0.074, protocol="qwen-coder", n=164, n_total=164))
    show(replace(base, model=replace(base.model, weights=Q4)), tmp_path, Console(width=160))
    text = capsys.readouterr().out
    assert "humaneval: reproduced (Q4_K_M (6.2 bits a weight) for bfloat16: Qwen's own file" in text


# --- the tables ------------------------------------------------------------------------------------------------------------


def test_the_coder_models_figures_under_six_protocols() -> None:
    table = read_table("qwen2.5-coder")
    (row,) = [row for row in table.rows if row.model == "Qwen2.5-Coder-1.5B-Instruct"]
    assert {key: cell.printed for key, cell in row.cells.items()} == {
        "humaneval@qwen-coder": "70.7",
        "humaneval@qwen-coder-plus": "66.5",
        "humaneval@multipl-e": "71.2",
        "humaneval@lm-eval": "53.66",
        "humaneval@lm-eval-instruct-v2": "17.07",
        "humaneval@evalscope": "46.95",
    }
    assert all(cell.protocol == key.partition("@")[2] for key, cell in row.cells.items())
    odd = {(row.model, column.key): cell.inconsistent for row, column, cell in table.cells() if cell.inconsistent}
    assert odd == {
        ("Qwen2.5-Coder-1.5B-Instruct", "humaneval@multipl-e"): "no number of 164 documents gives 71.2: 116 give 70.732, 117 give 71.341",
        ("Qwen2.5-Coder-1.5B", "humaneval@evalplus-base"): "printed as 43.9 in Table 5 and as 42.1 in Table 6",
        ("Qwen2.5-Coder-7B", "livecodebench"): "printed as 18.2 in a table and as 37.6 in the text",
    }


def test_a_run_stands_in_the_column_of_its_protocol() -> None:
    table = read_table("qwen2.5-coder")
    assert [column.key for column in table.columns_of("humaneval", "lm-eval")] == ["humaneval@lm-eval"]
    assert [column.key for column in table.columns_of("humaneval", "chat")] == ["humaneval@qwen-coder"]  # which then cannot be told
    assert table.columns_of("mmlu", "qwen") == []


def test_the_two_prints_of_smollm2s_mt_bench() -> None:
    cells = {(row.model, column.key): cell for row, column, cell in read_table("smollm2").cells()}
    assert {key: cell.printed for key, cell in cells.items()} == {
        ("SmolLM2-135M", "mmlu"): "31.5",
        ("SmolLM2-135M", "gsm8k"): "1.4",
        ("SmolLM2-135M-Instruct", "mmlu"): "29.3",
        ("SmolLM2-135M-Instruct", "gsm8k"): "1.4",
        ("SmolLM2-135M-Instruct", "mt_bench"): "19.8",
    }
    instruct = cells["SmolLM2-135M-Instruct", "mt_bench"]
    assert "19.8" in instruct.inconsistent
    assert "1.98" in instruct.inconsistent
    assert instruct.checkpoint
    assert [each.name for each in instruct.checkpoint.stand_ins] == ["smollm2-135m", "demo"]
