"""The suite's prompts and scores are lm-eval's own, byte for byte, for every set and language that it has: real rows, the same shots."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from evalkit.data.sources import FolderSource
from evalkit.errors import DataError
from evalkit.record.sample import Sample
from evalkit.record.shots import in_shots
from evalkit.tasks import UNSCORED, Generate, Generated, Loglikelihood, Loglikelihoods, Request
from evalkit.tasks.registry import resolve
from evalkit_tasks.multilingual.adapter import LmEvalAdapter
from evalkit_tasks.multilingual.cells import BY_NAME, CELLS, MultilingualCell
from evalkit_tasks.multilingual.suite import ADAPTERS

lm_eval_tasks = pytest.importorskip("lm_eval.tasks", reason="lm-eval is not installed")
ROOT = Path(lm_eval_tasks.__file__).parent
FIRST = 20
PROMPTED = [cell.name for cell in CELLS if cell.lm_eval]


class Chosen:
    """A sampler that lm-eval is given: these shots, in this order."""

    def __init__(self, rows: list[dict[str, Any]]):
        self.rows = rows

    def sample(self, n: int, eval_doc: object = None) -> list[dict[str, Any]]:
        assert n == len(self.rows)
        return self.rows


def theirs(cell: MultilingualCell, tested: list[dict[str, Any]], shots: list[dict[str, Any]]) -> Any:
    """lm-eval's task as its own YAML has it, splits included, run by its own build_all_requests."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    config = dict(load_yaml(ROOT / cell.lm_eval, resolve_func=True))
    data = datasets.DatasetDict({"test": datasets.Dataset.from_list(tested)})
    for split in ("train", "validation", "eval"):
        data[split] = datasets.Dataset.from_list(shots or tested)
    if not config.get("test_split"):
        data[config["validation_split"]] = data["test"]
    config |= {"custom_dataset": lambda **_: data, "dataset_kwargs": None, "num_fewshot": cell.shots}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = ConfigurableTask(config=config)
        processed = task.config.process_docs(datasets.Dataset.from_list(shots)) if shots and task.config.process_docs else shots
        task.sampler = Chosen([dict(row) for row in processed])
        task.build_all_requests(limit=None, rank=0, world_size=1, cache_requests=False, rewrite_requests_cache=False)
    return task


def asked_by_lm_eval(task: Any) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for instance in sorted(task.instances, key=lambda i: (i.doc_id, i.idx)):
        found.setdefault(instance.doc_id, []).append(instance)
    return found


def flat(requests: list[Request]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for request in requests:
        if isinstance(request, Loglikelihood):
            pairs += [(request.context, continuation) for continuation in request.continuations]
        else:
            pairs.append((request.context, list(request.until)))
    return pairs


def story(i: int) -> dict[str, str]:
    """XStoryCloze's file holds such rows; no copy of it was at hand."""
    sentences = {f"input_sentence_{n}": f"Frase {n} de la historia {i}." for n in range(1, 5)}
    return {
        "story_id": f"s{i}",
        **sentences,
        "sentence_quiz1": f"Final uno {i}.",
        "sentence_quiz2": f"Final dos {i}.",
        "answer_right_ending": "1",
    }


def source_for(cell: MultilingualCell, data_dir: Path, tmp_path: Path) -> FolderSource:
    if cell.set != "xstorycloze":
        return FolderSource(data_dir)
    (table,) = ADAPTERS["xstorycloze"].tables(cell, FolderSource(tmp_path))
    file = tmp_path / table.path
    file.parent.mkdir(parents=True)
    rows = [story(i) for i in range(FIRST)]
    file.write_text("\n".join(["\t".join(rows[0]), *('"' + '"\t"'.join(row.values()) + '"' for row in rows)]) + "\n")
    return FolderSource(tmp_path)


@pytest.mark.parametrize("name", PROMPTED)
def test_prompts_are_lm_evals(name: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = BY_NAME[name]
    source = source_for(cell, data_dir, tmp_path)
    task = resolve(name)
    adapter = ADAPTERS[cell.set]
    assert isinstance(adapter, LmEvalAdapter)
    whole = type(adapter).rows
    # lm-eval's processing of 2,000 rows takes a second: the first ones will do
    monkeypatch.setattr(type(adapter), "rows", lambda *asked: whole(*asked)[: 2 * FIRST])
    try:
        everything = task.load(source)
    except DataError as error:
        pytest.skip(str(error)) if "no cell of" in str(error) else pytest.fail(str(error))
    docs = everything[:FIRST]
    rows = adapter.rows(cell, source, cell.split)
    by_id = {f"{name}/{adapter.key(row, i)}": row for i, row in enumerate(rows)}
    if cell.shots_from == "drawn":
        left = {f"{name}/{key}" for key in (adapter.key(row, i) for i, row in enumerate(rows))} - {doc.id for doc in everything}
        shots = [by_id[i] for i in left if _mark(cell, by_id[i]) in docs[0].prefix]
        shots.sort(key=lambda row: docs[0].prefix.index(_mark(cell, row)))
    else:
        shots = adapter.rows(cell, source, cell.shots_from)[: cell.shots] if cell.shots else []
    assert len(shots) == cell.shots
    reference = asked_by_lm_eval(theirs(cell, [by_id[doc.id] for doc in docs], shots))
    assert len(reference) == len(docs) == FIRST
    for i, doc in enumerate(docs):
        requests = list(task.requests(doc))
        if isinstance(requests[0], Generate):
            wanted = [(instance.args[0], instance.args[1]["until"]) for instance in reference[i]]
        else:
            wanted = [instance.args for instance in reference[i]]
        assert flat(requests) == wanted, doc.id


def _mark(cell: MultilingualCell, row: dict[str, Any]) -> str:
    """A text of a shot that no other shot holds."""
    if cell.set == "belebele":
        return str(row["question"]).strip()
    before = row["sentence"].partition("_")[0]
    return str(before + row[f"option{row['answer']}"])


@pytest.mark.parametrize("name", ["belebele:th", "xwinograd:ru", "xcopa:vi", "pawsx:de"])
def test_choices_score_as_lm_eval_scores_them(name: str, data_dir: Path) -> None:
    """The same log-probabilities give the same metrics; the right option's being highest is right."""
    task, source = resolve(name), FolderSource(data_dir)
    for i, doc in enumerate(task.load(source)[:FIRST]):
        requests = [r for r in task.requests(doc) if isinstance(r, Loglikelihood)]
        count = sum(len(r.continuations) for r in requests)
        right = int(doc.fields["correct_answer_num"]) - 1 if "correct_answer_num" in doc.fields else None
        right = int(doc.fields["answer"]) - 1 if right is None and "answer" in doc.fields else right
        right = int(doc.fields["label"]) if right is None else right
        for chosen in range(count):
            values = iter([-1.0 if k == chosen else -50.0 - i - k for k in range(count)])
            responses = [
                Loglikelihoods(tuple(next(values) for _ in r.continuations), tuple(False for _ in r.continuations)) for r in requests
            ]
            scored = task.score(doc, responses)
            assert scored.metrics["acc"] == float(chosen == right)
            assert (scored.extracted == scored.target) == (chosen == right)


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "failed"),
    [
        (" Janet isst drei. 16 - 3 = 13. Die Antwort lautet 18.", 1.0, 1.0, False),
        (" Es sind 18 Dollar", 0.0, 1.0, False),
        (" Die Antwort lautet 18. Und 4 weitere", 1.0, 0.0, False),
        (" Ich weiß es nicht", 0.0, 0.0, True),
        (" Die Antwort lautet 1.8", 1.0, 1.0, False),  # lm-eval's metric leaves punctuation out
        (" Die Antwort lautet 19", 0.0, 0.0, False),
    ],
)
def test_mgsm_answers(text: str, strict: float, flexible: float, failed: bool, data_dir: Path) -> None:
    task = resolve("mgsm:de")
    doc = task.load(FolderSource(data_dir))[0]
    (request,) = task.requests(doc)
    assert isinstance(request, Generate)
    assert (request.max_new_tokens, request.temperature) == (512, 0.0)
    assert request.context.count("Frage: ") == 9  # eight worked examples, in the file's order
    scored = task.score(doc, [Generated(text, "stop", 1)])
    assert (scored.metrics["exact_match_strict"], scored.metrics["exact_match_flexible"]) == (strict, flexible)
    assert scored.extraction_failed == failed
    assert scored.target == "18"


def test_drawn_shots_and_their_passages_are_not_tested(data_dir: Path) -> None:
    source = FolderSource(data_dir)
    docs = resolve("belebele:th").load(source)
    rows = [json.loads(line) for line in (data_dir / "belebele/tha_Thai.jsonl").read_text("utf-8").splitlines()]
    tested = {doc.id for doc in docs}
    left = [row for row in rows if f"belebele:th/{row['link']}#{row['question_number']}" not in tested]
    shots = [row for row in left if row["question"].strip() in docs[0].prefix]
    assert (len(rows), len(docs), len(shots)) == (900, 890, 5)
    assert {row["link"] for row in left} == {row["link"] for row in shots}
    assert not {row["link"] for row in shots} & {doc.cluster.removeprefix("belebele/") for doc in docs}
    assert len({doc.prefix for doc in docs}) == 1
    # the same questions in every language, and others under another seed
    german = {doc.id.partition("/")[2] for doc in resolve("belebele:de").load(source)}
    assert german == {i.partition("/")[2] for i in tested}


def test_another_seed_draws_other_shots(data_dir: Path) -> None:
    from evalkit.tasks import Sampling

    source = FolderSource(data_dir)
    first, again, other = (resolve("xwinograd:fr", Sampling(seed=seed)).load(source)[0].prefix for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(("spec", "rows", "tested"), [("xwinograd:fr", 83, 69), ("mmmlu:ja", 7_097, 6_830)])
def test_twins_of_drawn_shots_are_not_tested(spec: str, rows: int, tested: int, data_dir: Path) -> None:
    """XWinograd's sentences come in pairs, and JMMLU has a few questions twice."""
    task = resolve(spec)
    docs = task.load(FolderSource(data_dir))
    assert len(docs) == tested < rows
    samples = [Sample(doc, task.requests(doc), [], UNSCORED) for doc in docs]
    assert in_shots(samples) == ()
