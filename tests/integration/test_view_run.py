"""`evalkit view` on a run of a model: the page holds every sample, and lm-eval's results show the same."""

import json
from pathlib import Path

import pytest
from view_pages import packed, parts

from evalkit import cli
from evalkit.errors import EvalkitError
from evalkit.view import page
from evalkit.view.read import read


@pytest.fixture(scope="module")
def tiny_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs")
    arguments = ["run", "--tasks", "mmlu,gsm8k@lm-eval", "--model", str(tiny_model), "--data", "sample", "--limit", "5"]
    assert cli.main([*arguments, "--out", str(out), "--name", "tiny", "--quiet"]) == 0
    return out / "tiny"


def test_the_page_of_a_real_run_holds_every_sample(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = page.write_view([str(tiny_run)])
    assert file == tiny_run / "view.html"
    assert f"wrote {file}: 10 samples, 0.1 MB" in capsys.readouterr().out
    _, about, found = parts(file)
    record = json.loads((tiny_run / "run.json").read_text())
    (run,) = about["runs"]
    assert run["model"]["fingerprint"] == record["model"]["fingerprint"]
    for name, task in record["tasks"].items():
        figure = task["metrics"][task["headline"]]
        shown = run["tasks"][name]
        assert (shown["protocol"], shown["n"], shown["n_total"]) == (task["protocol"], task["n"], task["n_total"])
        assert (shown["value"], shown["ci95"], shown["data"]) == (figure["value"], figure["ci95"], task["data"])
    rows = [json.loads(line) for name in record["tasks"] for line in (tiny_run / "samples" / f"{name}.jsonl").read_text().splitlines()]
    assert [each["id"] for each in found["samples"]] == [row["doc_id"] for row in rows]
    for each, row in zip(found["samples"], rows, strict=True):
        ((request,),), (outcome,) = each["requests"], each["runs"]
        start = found["prefixes"][request["prefix"]] if "prefix" in request else ""
        assert start + request["context"] == row["requests"][0]["context"]
        assert (outcome["extracted"], outcome["failed"], each["target"]) == (row["extracted"], row["extraction_failed"], row["target"])
        assert outcome["verdict"] == ("right" if outcome["score"] else "wrong")
        if "text" in row["responses"][0]:
            assert outcome["responses"] == row["responses"]
        else:
            assert outcome["responses"][0]["logprobs"] == pytest.approx(row["responses"][0]["logprobs"], abs=5.1e-5)


def test_lm_eval_results_show_the_same(tiny_run: Path) -> None:
    ours, theirs = packed(tiny_run)["samples"], packed(tiny_run / "lm_eval")["samples"]
    assert len(theirs) == len(ours) == 10
    for task in ("mmlu", "gsm8k"):
        scores, prompts = [], []
        for each in (ours, theirs):
            chosen = [s for s in each if s["task"] == task]
            scores.append(sorted((s["runs"][0]["verdict"], s["runs"][0]["responses"][0].get("text", "")) for s in chosen))
            prompts.append(sorted(s["requests"][0][0]["context"] for s in chosen))
        assert scores[0] == scores[1]
        assert prompts[0] == prompts[1]
    gsm8k = next(s for s in theirs if s["task"] == "gsm8k")
    assert set(gsm8k["runs"][0]["metrics"]) == {"exact_match,strict-match", "exact_match,flexible-extract"}
    about = read(str(tiny_run / "lm_eval")).about
    assert about["tasks"]["gsm8k"]["ci95"] == read(str(tiny_run)).about["tasks"]["gsm8k"]["ci95"]
    with pytest.raises(EvalkitError, match="lm_eval instead"):
        page.write_view([str(tiny_run), str(tiny_run / "lm_eval")])
