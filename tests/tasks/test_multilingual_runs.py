"""The suite end to end on a tiny model and the sample: run, resume, record; and `evalkit score` on published translations."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.config import RunConfig
from evalkit.data.sources import SampleSource
from evalkit.progress import Reporter
from evalkit.record.read import read_run
from evalkit.report.verdict import why_not_comparable
from evalkit.runner.plan import plan
from evalkit.runner.run import run
from evalkit.tasks.registry import resolve

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
QUIET = Reporter(quiet=True)
PUBLISHED = [(d, s) for d in ("en-ru", "ru-en", "en-th") for s in ("google", "microsoft")]


@pytest.fixture
def shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model never stops by itself: a few tokens show as much as 512."""
    monkeypatch.setattr("evalkit_tasks.multilingual.mgsm.Mgsm.max_new_tokens", 6)
    monkeypatch.setattr("evalkit_tasks.multilingual.flores.MAX_NEW_TOKENS", 6)


@pytest.mark.usefixtures("one_thread", "shorter")
def test_a_run_of_the_whole_suite(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = RunConfig(("multilingual", "flores:en-de"), model=str(tiny_model), data="sample", limit=2, out=str(tmp_path), name="r")
    record = run(config, QUIET)
    entry = record.tasks["multilingual"]
    assert entry.headline == "partial_mean"
    assert entry.n == 12  # two of each cell that has data
    assert entry.coverage
    assert (entry.coverage.cells, entry.coverage.measured) == (96, 6)
    assert len(entry.cells) == 96
    assert set(entry.groups) == {"exams", "understanding", "math", "translation"}
    mean = sum(group["partial_mean"].value for group in entry.groups.values()) / 4
    assert entry.metrics["partial_mean"].value == pytest.approx(mean)
    low, high = entry.metrics["partial_mean"].ci95
    assert 0 <= low <= mean <= high <= 1
    assert set(entry.subjects["flores:en-de"]) == {"partial_mean", "bleu", "chrf"}
    assert set(entry.subjects["mgsm:es"]) == {"partial_mean", "exact_match_strict", "exact_match_flexible"}
    assert "tok:13a" in entry.signatures["13a"]
    assert why_not_comparable("multilingual", entry) == "bundled sample, not the benchmark"
    assert record.tasks["flores:en-de"].headline == "bleu"
    assert read_run(tmp_path / "r") == record
    rows = [json.loads(line) for line in (tmp_path / "r/samples/multilingual.jsonl").read_text("utf-8").splitlines()]
    assert {row["cluster"] for row in rows if row["group"] == "flores:en-de"} == {
        row["cluster"] for row in rows if row["group"] == "flores:de-en"
    }
    translation = next(row for row in rows if row["group"] == "flores:en-de")
    assert translation["metrics"]["bleu"] == [[translation["target"]], translation["extracted"]]
    again = run(config, QUIET)
    assert replace(again.tasks["multilingual"], seconds=entry.seconds) == entry
    assert cli.main(["compare", str(tmp_path / "r"), str(tmp_path / "r")]) == 0
    printed = capsys.readouterr().out
    for name in ("m3exam", "belebele", "pawsx", "mgsm", "flores"):
        assert f"multilingual/{name}@qwen" in printed
    assert "flores:en-de@qwen" in printed
    assert cli.main(["report", str(tmp_path / "r"), "--published", "qwen1.5-multilingual", "--out", str(tmp_path / "report")]) == 0
    assert "partial: 6 of 96 cells have data" in (tmp_path / "report/report.md").read_text("utf-8")
    assert {"multilingual.csv", "multilingual-categories.svg", "multilingual-r.png"} <= {p.name for p in (tmp_path / "report").iterdir()}


def test_a_limit_is_per_cell_and_spread_over_it() -> None:
    task = resolve("multilingual")
    chosen = plan(task, SampleSource(), 3).docs
    assert [doc.id for doc in chosen if doc.group == "flores:de-en"] == ["flores:de-en/0", "flores:de-en/2", "flores:de-en/4"]
    assert [doc.id for doc in chosen if doc.group == "mgsm:es"] == ["mgsm:es/0", "mgsm:es/2", "mgsm:es/4"]
    assert len(plan(task, SampleSource(), 100).docs) == 32


@pytest.mark.parametrize(("direction", "system"), PUBLISHED)
def test_published_bleu_to_the_digit(direction: str, system: str, data_dir: Path, tmp_path: Path) -> None:
    """Of sacrebleu's default tokenizer; for Thai that is 13a, and ours, by characters, stands beside it with its signature."""
    folder = data_dir / "published" / "flores101" / direction
    target = direction.partition("-")[2]
    file, printed = folder / f"flores-test.{system}.{target}.gz", (folder / f"flores-test.{system}.{target}.bleu").read_text().strip()
    arguments = ["score", f"flores:{direction}", str(file), "--data", str(data_dir), "--out", str(tmp_path), "--name", "s", "--quiet"]
    assert cli.main(arguments) == 0
    entry = json.loads((tmp_path / "s" / "run.json").read_text("utf-8"))["tasks"][f"flores:{direction}"]
    assert (entry["protocol"], entry["n"], entry["n_total"]) == ("given", 1012, 1012)
    default = "bleu_13a" if target == "th" else "bleu"
    assert f"{100 * entry['metrics'][default]['value']:.1f}" == printed
    assert entry["headline"] == "bleu"
    assert "tok:13a" in entry["signatures"]["13a"]
    if target == "th":
        assert "tok:char" in entry["signatures"]["char"]
        assert entry["metrics"]["bleu"]["value"] > 2 * entry["metrics"]["bleu_13a"]["value"]


def test_japanese_needs_its_own_tokenizer(data_dir: Path, tmp_path: Path) -> None:
    """The reference, one character off a line: near-identical by words, half as good by blanks."""
    pytest.importorskip("MeCab", reason="sacrebleu[ja] is not installed")
    from sacrebleu.metrics import BLEU

    text = (data_dir / "flores101/flores101_dataset/devtest/jpn.devtest").read_text("utf-8").splitlines()
    file = tmp_path / "t.ja"
    file.write_text("\n".join(line[:-4] + line[-3:] for line in text) + "\n", "utf-8")
    assert cli.main(["score", "flores:en-ja", str(file), "--data", str(data_dir), "--out", str(tmp_path), "--name", "s", "--quiet"]) == 0
    entry = json.loads((tmp_path / "s" / "run.json").read_text("utf-8"))["tasks"]["flores:en-ja"]
    stripped = [line[:-4] + line[-3:] for line in text]
    expected = BLEU(tokenize="ja-mecab").corpus_score([line.strip() for line in stripped], [[line.strip() for line in text]]).score
    assert 100 * entry["metrics"]["bleu"]["value"] == pytest.approx(expected, abs=1e-9)
    assert expected > 90 > 2 * BLEU(tokenize="13a").corpus_score(stripped, [text]).score
    assert "ja-mecab" in entry["signatures"]["ja-mecab"]


def test_files_of_translations_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def score(task: str, text: str) -> str:
        (tmp_path / "t.de").write_text(text, "utf-8")
        assert cli.main(["score", task, str(tmp_path / "t.de"), "--data", "sample", "--out", str(tmp_path), "--quiet"]) == 2
        return capsys.readouterr().err

    assert "holds one direction's translations; name it, as in flores:en-th" in score("flores", "a\n" * 6)
    assert "holds 7 lines, and there are 6 sentences" in score("flores:en-de", "a\n" * 7)
    assert "unknown part of flores 'de-fr'" in score("flores:de-fr", "a\n")
    assert "t.de line 1: not valid JSON" in score("belebele:es", "a\n")
    with gzip.open(tmp_path / "t.de.gz", "wt") as f:
        f.write("Rot\n" * 6)
    assert cli.main(["score", "flores:en-de", str(tmp_path / "t.de.gz"), "--data", "sample", "--out", str(tmp_path), "--quiet"]) == 0
