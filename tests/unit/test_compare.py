"""`evalkit compare`: figures against the statistics, and what it refuses."""

import json
from pathlib import Path

import pytest
from fake_runs import edit_run, fake_run, flips, sample, write_samples

from evalkit.comparison import compare
from evalkit.errors import EvalkitError
from evalkit.record.read import read_run
from evalkit.stats.paired import paired


def refusal(base: Path, cand: Path, **options: object) -> str:
    with pytest.raises(EvalkitError) as caught:
        compare.compare_runs(str(base), str(cand), **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_flips_by_subject_and_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, cand = flips(300, 4, 9)
    fake_run(tmp_path / "a", "old", mmlu=base, gsm8k=base)
    fake_run(tmp_path / "b", "new", mmlu=cand, gsm8k=base)
    found = compare.compare(str(tmp_path / "a"), str(tmp_path / "b"))
    mmlu, gsm8k = found.tasks
    assert mmlu.difference == paired(base, cand)
    assert {subject: (f.gained, f.lost) for subject, f in mmlu.flips.items()} == {
        "subject1": (1, 3),
        "subject2": (1, 3),
        "subject0": (2, 3),
    }
    assert [mmlu.pairs.ids[i] for i in mmlu.examples] == ["d4", "d5", "d6", "d7", "d8"]
    assert (mmlu.holm_p, gsm8k.holm_p) == (2 * mmlu.difference.p, 1.0)
    assert found.overall is not None
    assert found.overall.value == pytest.approx(-5 / 300 / 2)
    assert compare.compare_runs(str(tmp_path / "a"), str(tmp_path / "b")) == 0
    printed = capsys.readouterr().out
    assert "mmlu@qwen: 9 right to wrong, 4 wrong to right: subject1 -3 +1" in printed
    assert "document d4 (right: A)" in printed
    assert "prompt: question 4 Answer:" in printed
    assert "overall (mean of tasks)" in printed


def test_the_detectable_effect_of_a_full_benchmark(tmp_path: Path) -> None:
    base = [1.0] * 791 + [0.0] * 528
    fake_run(tmp_path / "a", "a", gsm8k=base)
    fake_run(tmp_path / "b", "b", gsm8k=base[::-1])
    assert compare.compare_runs(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path)) == 0
    found = json.loads((tmp_path / "compare.json").read_text())["tasks"]["gsm8k"]
    assert 100 * found["mde"] == pytest.approx(1.56, abs=0.006)
    assert found["method"] == "McNemar"


def test_documents_that_share_a_source(tmp_path: Path) -> None:
    base, cand = [1.0, 0.0] * 40, [1.0] * 40 + [0.0] * 40
    fake_run(tmp_path / "a", "a", t=base)
    fake_run(tmp_path / "b", "b", t=cand)
    found = compare.compare(str(tmp_path / "a"), str(tmp_path / "b"), cluster="passage").tasks[0].difference
    assert found == paired(base, cand, [f"passage{i // 4}" for i in range(80)])
    assert found.clusters == 20
    # the same where the samples say so themselves
    for name, scores in (("a", base), ("b", cand)):
        write_samples(tmp_path / name, "t", [sample(i, s, name, cluster=f"passage{i // 4}") for i, s in enumerate(scores)])
    assert compare.compare(str(tmp_path / "a"), str(tmp_path / "b")).tasks[0].difference == found
    assert "no such field; they have group, question, passage" in refusal(tmp_path / "a", tmp_path / "b", cluster="source")


def test_samples_that_are_not_all_there(tmp_path: Path) -> None:
    """A run is compared if its samples give its own figures: the same number of documents, none twice, the same mean."""
    scores = [1.0] * 9 + [0.0] * 5
    rows = [sample(i, score, f"a {i}") for i, score in enumerate(scores)]
    base, cand = (fake_run(tmp_path / name, name, mmlu=scores) for name in "ab")
    for changed, complaint in (
        (rows[:5], "holds 5 samples of mmlu, and its figure is of 14"),
        ([], "holds 0 samples of mmlu, and its figure is of 14"),
        ([*rows, sample(14, 1.0, "a 14")], "holds 15 samples of mmlu, and its figure is of 14"),
        ([*rows[:13], rows[0]], "holds document d0 twice"),
        (
            [sample(0, 0.0, "a 0"), *rows[1:]],
            "acc of mmlu is 0.5714285714 over the 14 samples, and the figure stated is 0.642857142857142",
        ),
        ([rows[0] | {"metrics": {"acc_fr": 1.0}}, *rows[1:]], "document d0 of mmlu has no acc"),
        ([rows[0] | {"metrics": {"acc": None}}, *rows[1:]], "metrics.acc"),
        ([rows[0] | {"metrics": {"acc": 1e300}}, *rows[1:]], "acc of a document is 1e+300, not a number"),
    ):
        write_samples(cand, "mmlu", changed)
        assert complaint in refusal(base, cand)
        assert complaint in refusal(cand, cand)  # whatever its peer is
    (cand / "samples" / "mmlu.jsonl").write_text('{"doc_id": "d0", "doc_id": "d1"}\n')
    assert 'the key "doc_id" is there twice' in refusal(base, cand)


def test_what_is_not_comparable(tmp_path: Path) -> None:
    base = fake_run(tmp_path / "a", "a", mmlu=[1.0] * 8)
    cand = fake_run(tmp_path / "b", "b", mmlu=[1.0] * 7)
    assert "1 documents are only in BASE, 0 only in CAND; run both with the same --data and --limit" in refusal(base, cand)
    rows = [sample(i, 1.0, "x") for i in range(8)]
    write_samples(cand, "mmlu", [*rows[:7], rows[7] | {"doc_hash": "other"}])
    edit_run(cand, "mmlu", n=8, n_total=8)
    assert "mmlu: the data of 1 of 8 documents differ (first: d7)" in refusal(base, cand)
    write_samples(cand, "mmlu", [*rows[:7], rows[7] | {"prompt_hash": "other"}])
    assert "mmlu: the prompts of 1 of 8 documents differ (first: d7)" in refusal(base, cand)
    write_samples(cand, "mmlu", rows)
    edit_run(cand, "mmlu", protocol="lm-eval")
    assert "protocol differs (BASE mmlu@qwen, CAND mmlu@lm-eval)" in refusal(base, cand)
    edit_run(cand, "mmlu", protocol="qwen", protocol_sha256="1" * 64)
    assert "mmlu: settings differs" in refusal(base, cand)
    edit_run(cand, "mmlu", protocol_sha256=read_run(base).tasks["mmlu"].protocol_sha256)
    assert compare.compare_runs(str(base), str(cand)) == 0
    two = fake_run(tmp_path / "two", "c", mmlu=[1.0] * 8, gsm8k=[1.0])
    assert "gsm8k is in" in refusal(two, base)
    assert "pass --tasks mmlu" in refusal(base, two)
    assert compare.compare_runs(str(base), str(two), tasks=["mmlu"]) == 0
    assert "unknown metric of mmlu 'acc_norm'" in refusal(base, cand, metric="acc_norm")
    assert "unknown task" in refusal(base, cand, tasks=["mmul"])


def test_what_is_no_run(tmp_path: Path) -> None:
    base = fake_run(tmp_path / "a", "a", mmlu=[1.0] * 8)
    assert "no such run" in refusal(base, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "holds neither run.json nor lm-eval's" in refusal(base, tmp_path / "empty")
    (base / "samples" / "mmlu.jsonl").write_text('{"doc_id": "d0"}\n')
    assert "mmlu.jsonl line 1: group is missing; run it again" in refusal(base, base)
    (base / "samples" / "mmlu.jsonl").write_text("{\n")
    assert "line 1 is damaged" in refusal(base, base)
    (base / "samples" / "mmlu.jsonl").unlink()
    assert "samples must be in its folder" in refusal(base, base)
    record = json.loads((base / "run.json").read_text()) | {"status": "incomplete"}
    (base / "run.json").write_text(json.dumps(record))
    assert "is incomplete; run `evalkit run` again" in refusal(base, base)


def test_hostile_texts_stay_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, cand = flips(300, 0, 30)
    hostile = "[red]x[/red] \x1b[31m\u202e</td><script>alert(1)</script>|a\n::error::owned\n##[error]owned\x00"
    fake_run(tmp_path / "a", hostile, mmlu=base)
    fake_run(tmp_path / "b", hostile, mmlu=cand)
    write_samples(tmp_path / "b", "mmlu", [sample(i, s, hostile + "z" * 10**6 if i == 0 else hostile) for i, s in enumerate(cand)])
    assert compare.compare_runs(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    markdown = (tmp_path / "out" / "compare.md").read_text()
    for bad in ("\x1b", "\u202e", "\x00", "##[error]"):
        assert bad not in printed + markdown
    assert not [line for line in printed.splitlines() if line.lstrip().startswith("::")]
    assert "[red]x[/red]" in printed  # shown, not obeyed
    assert "<script>" not in markdown.replace("\\<", "")
    assert max(map(len, printed.splitlines())) < 400
