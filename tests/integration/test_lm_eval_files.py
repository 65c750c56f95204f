"""A run exported in lm-eval's layout is read by lm-eval's own tools, with its names and types."""

import json
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.exchange.formats import export

pytestmark = pytest.mark.usefixtures("one_thread")


def test_layout(tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["run", "--tasks", "mmlu,gsm8k@lm-eval", "--model", str(tiny_model), "--data", "sample", "--limit", "5", "--name", "r"]
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 0
    (folder,) = (tmp_path / "r" / "lm_eval").iterdir()
    (results_file,) = folder.glob("results_*.json")
    results = json.loads(results_file.read_text())
    assert {"results", "groups", "configs", "versions", "higher_is_better", "n-samples", "config", "date", "model_name"} <= set(results)
    for name in ("exact_match,strict-match", "exact_match,flexible-extract", "exact_match_stderr,strict-match"):
        assert isinstance(results["results"]["gsm8k"][name], float)
    assert isinstance(results["groups"]["mmlu"]["acc,none"], float)
    assert results["n-samples"]["gsm8k"] == {"original": 60, "effective": 5}
    files = sorted(p.name.split("_20")[0] for p in folder.glob("samples_*.jsonl"))
    assert len(files) == 6
    assert "samples_gsm8k" in files
    assert "samples_mmlu_astronomy" in files
    (gsm8k,) = folder.glob("samples_gsm8k_*.jsonl")
    rows = [json.loads(line) for line in gsm8k.read_text().splitlines()]
    assert [row["filter"] for row in rows[:2]] == ["strict-match", "flexible-extract"]
    keys = {
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
        "doc_hash",
        "prompt_hash",
        "target_hash",
    }
    assert all(keys <= set(row) for row in rows)
    mmlu = json.loads(next(folder.glob("samples_mmlu_*.jsonl")).read_text().splitlines()[0])
    assert list(mmlu["arguments"]) == [f"gen_args_{i}" for i in range(4)]
    assert mmlu["arguments"]["gen_args_2"]["arg_1"] == " C"
    assert len(mmlu["resps"]) == 4
    again = export(str(tmp_path / "r"), "lm-eval", str(tmp_path / "again"), {}).files
    assert {file.name: file.read_bytes() for file in again} == {file.name: file.read_bytes() for file in folder.iterdir()}
