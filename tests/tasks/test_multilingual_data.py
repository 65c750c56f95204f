"""The suite's data: every hub and address in its own layout, offline; what a folder lacks is named; what is damaged is refused."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hub_server import serving

from evalkit import cli
from evalkit.data.sources import FolderSource, HubSource, SampleSource, fetch
from evalkit.errors import DataError, MissingData
from evalkit.tasks import HubTable, TextFile
from evalkit.tasks.registry import resolve, task_classes
from evalkit_tasks.multilingual import mgsm, mmmlu
from evalkit_tasks.multilingual.cells import BY_NAME, CATEGORIES, CELLS, LANGUAGES, SETS
from evalkit_tasks.multilingual.suite import ADAPTERS, MultilingualTask

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
SAMPLE = SampleSource().folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and an empty cache of files; the network is never asked."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("evalkit.data.sources.CACHE", tmp_path / "cache")
    (tmp_path / "cache" / "files").mkdir(parents=True)
    return tmp_path


def on_the_hub(hub: Path, table: HubTable, content: list[dict[str, Any]] | bytes, revision: str = "") -> None:
    """The file in the hub cache's layout. `revision` where the table names a branch."""
    repo = hub / f"datasets--{table.repo.replace('/', '--')}"
    if revision:
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / table.revision).write_text(revision)
    file = repo / "snapshots" / (revision or table.revision) / table.file
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), file)


def hub_table(name: str, split: int) -> HubTable:
    table = ADAPTERS[BY_NAME[name].set].tables(BY_NAME[name], HubSource())[split].hub
    assert isinstance(table, HubTable)
    return table


def test_the_table_is_the_published_one() -> None:
    """Sets, languages, shots and categories as Qwen's table of them; 48 cells and 48 directions."""
    assert len(CELLS) == 96
    counts = {s: sum(cell.set == s for cell in CELLS) for s in SETS}
    assert counts == {
        **{"mmmlu": 10, "m3exam": 4, "belebele": 12, "xwinograd": 4, "xcopa": 3, "pawsx": 5},
        **{"xstorycloze": 4, "mgsm": 6, "flores": 48},
    }
    assert {cell.set: cell.shots for cell in CELLS} == {s: {"xstorycloze": 0, "mgsm": 8}.get(s, 5) for s in SETS}
    assert {cell.category for cell in CELLS} == set(CATEGORIES)
    spoken = {part for cell in CELLS for part in cell.language.split("-")}
    assert spoken == {*LANGUAGES, "en", "zh"}
    assert {cell.tokenize for cell in CELLS if cell.language.endswith("-th")} == {"char"}
    assert {cell.tokenize for cell in CELLS if cell.language.endswith("-ja")} == {"ja-mecab"}


@pytest.mark.parametrize("name", ["multilingual", *SETS])
def test_every_pin_is_one(name: str) -> None:
    """Commits and checksums, but for M3Exam's Italian and Portuguese, of which no commit is known: the record says what came."""
    for table in task_classes()[name].tables(HubSource()):
        if isinstance(table.hub, TextFile):
            assert len(table.hub.sha256) == 64
            assert "https://raw.githubusercontent.com/" in table.hub.url
        elif isinstance(table.hub, HubTable) and table.hub.repo != "chiayewken/m3exam":
            assert len(table.hub.revision) == 40


def test_from_the_hub_as_parquet(hub: Path) -> None:
    rows = [
        {"premise": f"p{i}.", "choice1": "A", "choice2": "B", "question": "cause", "label": 0, "idx": i, "changed": False} for i in range(7)
    ]
    for split in (0, 1):
        on_the_hub(hub, hub_table("xcopa:vi", split), rows)
    docs = resolve("xcopa:vi").load(HubSource())
    assert [doc.id for doc in docs] == [f"xcopa:vi/{i}" for i in range(7)]
    assert docs[0].prefix.startswith("p0 bởi vì a\n\np1")
    pairs = [{"id": i, "sentence1": f"Eins {i}.", "sentence2": "Zwei.", "label": i % 2} for i in range(6)]
    pairs.append({"id": 99, "sentence1": "NS", "sentence2": "Zwei.", "label": 0})
    for split in (0, 1):
        on_the_hub(hub, hub_table("pawsx:de", split), pairs)
    assert [doc.id for doc in resolve("pawsx:de").load(HubSource())] == [f"pawsx:de/{i}" for i in range(6)]


def test_global_mmlu_from_the_hub(hub: Path) -> None:
    def rows(count: int) -> list[dict[str, Any]]:
        options = {f"option_{letter}": letter * 2 for letter in "abcd"}
        return [
            {"sample_id": f"{s}/{i}", "subject": s, "question": f"{s} {i}?", "answer": "C", **options, "subject_category": "x"}
            for i in range(count)
            for s in ("anatomy", "world_religions")
        ]

    for split, count in ((0, 5), (1, 3)):
        on_the_hub(hub, hub_table("mmmlu:ko", split), rows(count))
    source = HubSource()
    docs = resolve("mmmlu:ko").load(source)
    assert len(docs) == 6
    assert source.revision == mmmlu.HUB[1]
    assert docs[-1].id == "mmmlu:ko/world_religions/2"
    assert docs[-1].prefix.startswith(
        "The following are multiple choice questions (with answers) about world religions.\n\nQuestion: world_religions 0?\n"
    )
    assert docs[-1].fields["prompt"].endswith("C. cc\nD. dd\nAnswer:")


def test_xstorycloze_and_belebele_from_the_hub_as_text(hub: Path) -> None:
    header = ["story_id", *(f"input_sentence_{i}" for i in range(1, 5)), "sentence_quiz1", "sentence_quiz2", "answer_right_ending"]
    row = ["s1", 'Dijo "hola".'.replace('"', '""'), "b", "c", "d", "uno", "dos", "2"]
    text = "\t".join(header) + "\n" + "\t".join(f'"{cell}"' for cell in row) + "\n"
    on_the_hub(hub, hub_table("xstorycloze:es", 0), text.encode())
    (doc,) = resolve("xstorycloze:es").load(HubSource())
    assert doc.fields["input_sentence_1"] == 'Dijo "hola".'
    assert doc.prefix == ""
    on_the_hub(hub, hub_table("belebele:es", 0), (SAMPLE / "belebele/spa_Latn.jsonl").read_bytes())
    from_hub, from_folder = HubSource(), SampleSource()
    assert resolve("belebele:es").load(from_hub) == resolve("belebele:es").load(from_folder)
    assert from_hub.sha256() == from_folder.sha256()


def test_a_branch_is_recorded_by_its_commit(hub: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    for split in (0, 1):
        table = hub_table("m3exam:it", split)
        file = SAMPLE / f"m3exam/text-question/italian-questions-{('dev', 'test')[split]}.json"
        on_the_hub(hub, table, json.loads(file.read_text("utf-8")), commit)
    source = HubSource()
    assert resolve("m3exam:it").load(source) == resolve("m3exam:it").load(SampleSource())
    assert source.revision == commit


def test_pinned_addresses_give_the_folders_rows(hub: Path, data_dir: Path) -> None:
    """What is not on the hub comes from its repository's own address; a file in the cache stands for the download."""
    cells = ["xwinograd:fr", "mgsm:th", "m3exam:vi", "flores:zh-th"]
    for name in cells:
        for table in ADAPTERS[BY_NAME[name].set].tables(BY_NAME[name], HubSource()):
            assert isinstance(table.hub, TextFile)
            shutil.copy(data_dir / table.path, hub / "cache" / "files" / table.hub.sha256)
            from_hub, from_folder = HubSource(), FolderSource(data_dir)
            assert from_hub.rows(table) == from_folder.rows(table)
            assert from_hub.sha256() == from_folder.sha256()
    source = HubSource()
    resolve("flores:zh-th").load(source)
    assert source.revision is not None
    repositories = [place.partition("@")[0] for place in source.revision.split(", ")]
    assert repositories == ["mozilla/firefox-translations-models", "Helsinki-NLP/OPUS-MT-testsets"]


def test_worked_examples_are_read_out_of_upstreams_code(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's file is Python with three literals, in more languages; the checksum is of the text that is made of it."""
    monkeypatch.setattr("evalkit.data.sources.CACHE", tmp_path / "cache")
    literals = json.loads((data_dir / "mgsm/exemplars.json").read_text("utf-8"))
    literals["MGSM_EXEMPLARS"] = {"bn": {"1": {"q": "x", "a": "y"}}, **literals["MGSM_EXEMPLARS"], "te": {}}
    code = "# a comment\nimport os\n" + "".join(f"{name} = {value!r}\n" for name, value in literals.items()) + "os.abort()\n"
    with serving() as server:
        server.pages["/exemplars.py"] = code.encode()
        file = TextFile(mgsm.EXEMPLARS.path, f"{server.url}/exemplars.py", mgsm.EXEMPLARS.sha256, mgsm.EXEMPLARS.render, of_text=True)
        assert file.render(fetch(file)) == (data_dir / "mgsm/exemplars.json").read_text("utf-8")
        server.pages["/exemplars.py"] = code.replace("'q': 'Pregunta: Roger", "'q': 'Pregunta: Rodger").encode()
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(DataError, match="changed upstream"):
            fetch(file)
        server.pages["/exemplars.py"] = b"print('hello')\n"
        with pytest.raises(DataError, match="can't be read"):
            fetch(file)


def test_xwinograds_spans(data_dir: Path) -> None:
    docs = {doc.id: doc.fields for doc in resolve("xwinograd:fr").load(FolderSource(data_dir))}
    first = docs["xwinograd:fr/0"]
    assert first["sentence"] == "La coupe n'entre pas dans la valise marron, car _ est trop grande."
    assert (first["option1"], first["option2"], first["answer"]) == ("La coupe", "la valise", "1")
    for name in ("xwinograd:ru", "xwinograd:ja", "xwinograd:pt"):
        loaded = resolve(name).load(FolderSource(data_dir))
        assert all(doc.fields["sentence"].count("_") == 1 for doc in loaded)
        assert {doc.fields["answer"] for doc in loaded} == {"1", "2"}


def test_m3exams_options_by_place(data_dir: Path) -> None:
    """Thai digits or Arabic ones as the options have them; a wrong label upstream does not move the answer."""
    docs = resolve("m3exam:th").load(FolderSource(data_dir))
    assert len(docs) == 2_163
    scripts = {tuple(doc.fields["letters"][:2]) for doc in docs}
    assert scripts == {("1", "2"), ("๑", "๒")}
    assert {len(doc.fields["letters"]) for doc in docs} == {2, 4, 5}
    assert all(doc.fields["answer"] in doc.fields["letters"] for doc in docs)
    (sixth,) = resolve("m3exam:th").requests(docs[6])  # options in Thai digits, answer "4"
    assert sixth.continuations == (" ๑", " ๒", " ๓", " ๔", " ๕")  # type: ignore[union-attr]
    assert docs[6].fields["answer"] == "๔"


@pytest.mark.parametrize(
    ("file", "old", "new", "spec", "message"),
    [
        ("belebele/spa_Latn.jsonl", '"link"', '"lnk"', "belebele:es", "line 1: no link"),
        ("pawsx/x-final/de/test_2k.tsv", "\t0\n", "\t2\n", "pawsx:de", "line 2: label is '2', expected one of '0', '1'"),
        ("pawsx/x-final/de/dev_2k.tsv", "sentence1", "satz", "pawsx:de", "no column 'sentence1' in the header"),
        ("pawsx/x-final/de/test_2k.tsv", "\t1\n", "\t1\t1\n", "pawsx:de", r"line 3: 5 columns, expected 4"),
        ("mgsm/mgsm_es.tsv", "\t17", "\tdiecisiete", "mgsm:es", "line 1: answer_number is 'diecisiete', expected a whole number"),
        ("mgsm/exemplars.json", '"es"', '"xx"', "mgsm:es", "no worked examples in es can be read"),
        (
            "m3exam/text-question/italian-questions-test.json",
            "C",
            "9",
            "m3exam:it",
            "item 1: answer_text is '9', expected",
        ),
        ("m3exam/text-question/italian-questions-dev.json", "[", "{", "m3exam:it", "not valid JSON"),
        ("flores101/flores101_dataset/devtest/deu.devtest", "Rain is", "", "flores:en-de", "6 sentences and 5 translations"),
    ],
)
def test_a_broken_file_is_named(file: str, old: str, new: str, spec: str, message: str, tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "data")
    path = tmp_path / "data" / file
    text = path.read_text("utf-8")
    path.write_text("".join(text.splitlines(True)[1:]) if not new else text.replace(old, new, 1), "utf-8")
    with pytest.raises(DataError, match=message) as caught:
        resolve(spec).load(FolderSource(tmp_path / "data"))
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, MissingData)


def test_what_a_folder_lacks_is_missing_not_skipped() -> None:
    task = resolve("multilingual")
    docs = task.load(SampleSource())
    assert {doc.group for doc in docs} == {"m3exam:it", "belebele:es", "pawsx:de", "mgsm:es", "flores:en-de", "flores:de-en"}
    assert len(task.incomplete) == 95  # all but m3exam:it, whose real size is not known: the others are short of theirs
    assert task.incomplete["belebele:th"] == "no data"
    assert task.incomplete["mgsm:es"] == "6 of 250 documents"
    assert task.incomplete["belebele:es"] == "12 of 900 documents"  # those drawn as shots are there
    with pytest.raises(DataError, match=r"xwinograd: no cell of understanding has data \(.*dataset.tsv is missing"):
        resolve("xwinograd").load(SampleSource())


def test_verify_knows_the_real_rows(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("belebele", "xcopa"):
        assert cli.main(["data", "verify", name, "--data", str(data_dir)]) == 0
    assert "cells, no data for the rest" in " ".join(capsys.readouterr().out.split())
    shutil.copytree(data_dir / "xcopa", tmp_path / "xcopa")
    file = tmp_path / "xcopa/data/th/test.th.jsonl"
    file.write_text(file.read_text("utf-8").replace('"label": 1', '"label": 0', 1), "utf-8")
    task = task_classes()["xcopa"]
    assert issubclass(task, MultilingualTask)
    found = task.check_data(FolderSource(tmp_path))
    assert (found.state, found.detail) == ("differs from the rows we know", "1 of 3 of 3 cells: xcopa:th")


def test_without_lm_eval_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit_tasks.multilingual.lm_eval_definition._LOADED", {})
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(DataError, match=r"mgsm_native_cot_es.yaml are lm-eval's; run `pip install 'evalkit-lm\[multilingual\]'`"):
        resolve("mgsm:es").load(SampleSource())
    assert len(resolve("m3exam:it").load(SampleSource())) == 6  # its prompts are ours


def test_the_protocols_digest_covers_what_cells_ask() -> None:
    task = task_classes()["belebele"]
    assert issubclass(task, MultilingualTask)
    assert task.protocols["qwen"].settings["cells"]["belebele:th"] == [5, "drawn", "test", "acc", "", "belebele/belebele_tha_Thai.yaml"]
