"""lm-eval's results: a comparison gives lm-eval's own figures, or refuses in one line that names both numbers and the way out."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from lm_eval_folders import mean, row, rows, write

from evalkit import cli
from evalkit.comparison.answers import read_answers
from evalkit.comparison.compare import Comparison, compare
from evalkit.errors import EvalkitError
from evalkit.stats.estimate import mean as estimate_of
from evalkit.view.read import read

SCORES = [1.0, 1.0, 1.0, 0.0] * 10
WORSE = [1.0, 0.0, 1.0, 0.0] * 10


def refusal(folder: Path, **options: object) -> str:
    """What compare says of a folder and its copy; gate and view must refuse it too."""
    with pytest.raises(EvalkitError) as caught:
        compare(str(folder), str(folder), **options)  # type: ignore[arg-type]
    if not options:
        assert cli.main(["gate", str(folder), str(folder)]) == 2
        with pytest.raises(EvalkitError):
            read(str(folder))
    return str(caught.value)


def figures(found: Comparison) -> dict[str, tuple[float, float]]:
    return {task.pairs.task: (task.difference.base, task.difference.cand) for task in found.tasks}


def test_samples_that_are_not_all_there(tmp_path: Path) -> None:
    both = {"sums": rows("sums", SCORES), "stories": rows("stories", WORSE)}
    lost = write(tmp_path / "lost", both)
    next(lost.glob("samples_stories_*")).unlink()
    assert "stories has no samples, and its results are of 40 documents" in refusal(lost)
    assert "pass --tasks sums" in refusal(lost)
    assert figures(compare(str(lost), str(lost), ["sums"])) == {"sums": (0.75, 0.75)}
    cut = write(tmp_path / "cut", both)
    file = next(cut.glob("samples_sums_*"))
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:10]))
    assert "holds 10 documents of sums, and its results are of 40" in refusal(cut)


def test_files_saved_again_by_other_programs(tmp_path: Path) -> None:
    """UTF-16 with its mark, as Windows writes it, says what UTF-8 does; rows over several lines are refused with the way back."""
    folder = write(tmp_path / "saved", {"sums": rows("sums", SCORES)})
    for file in folder.iterdir():
        file.write_text(file.read_text("utf-8"), "utf-16")
    assert figures(compare(str(folder), str(folder))) == {"sums": (0.75, 0.75)}
    (file,) = folder.glob("samples_*")
    its = rows("sums", SCORES)
    for text, fix in (("\n".join(json.dumps(each, indent=1) for each in its), "jq -c ."), (json.dumps(its, indent=1), "jq -c '.[]'")):
        file.write_text(text)
        assert f"is laid out over several lines; samples are an object a line, as `{fix}` writes them" in refusal(folder)


def test_samples_that_do_not_give_the_figure(tmp_path: Path) -> None:
    changed = write(tmp_path / "changed", {"sums": rows("sums", SCORES)}, {"sums": {"acc,none": 0.8}})
    assert "acc,none of sums is 0.75 over the 40 samples, and the figure stated is 0.8" in refusal(changed)
    unstated = write(tmp_path / "unstated", {"sums": rows("sums", SCORES)}, {"sums": {}})
    assert "and no figure is stated" in refusal(unstated)
    twice = write(tmp_path / "twice", {"sums": [*rows("sums", SCORES), row(3, acc=1.0)]})
    assert "document 3 is there twice" in refusal(twice)


def test_documents_do_not_leave_the_denominator(tmp_path: Path) -> None:
    two = [row(i, **{"acc_en" if i % 2 else "acc_fr": 1.0}) for i in range(40)]
    keys = write(tmp_path / "keys", {"sums": two})
    assert figures(compare(str(keys), str(keys))) == {"sums/acc_fr": (1.0, 1.0), "sums/acc_en": (1.0, 1.0)}
    both = [row(i, acc_fr=1.0, acc_en=1.0) for i in range(30, 40)]
    uncovered = write(tmp_path / "uncovered", {"sums": [*two[:30], *both]})
    assert "15 of 40 documents have no acc_fr,none; only a metric that all documents have" in refusal(uncovered)
    three = [each | {"acc": 1.0, "metrics": [*each["metrics"], "acc"]} for each in two]
    some = write(tmp_path / "some", {"sums": three})
    assert "pass --metric acc,none" in refusal(some)
    assert figures(compare(str(some), str(some), metric="acc")) == {"sums": (1.0, 1.0)}
    for place in (0, 17, 39):
        null = rows("sums", SCORES)
        null[place]["acc"] = None
        assert f"document {place}: acc of a document is None" in refusal(write(tmp_path / f"null{place}", {"sums": null}))


RULER_MEAN = "def aggregate_metrics(metrics: list[float]) -> float:\n    res = [x for x in metrics if x != -1]\n"


def ruler(folder: Path, lengths: tuple[int, ...], scores: Sequence[float], **figures: float) -> str:
    """A task of RULER as lm-eval 0.4.13 writes it: a document has its length's metric, and -1 for another default one."""
    its = [row(i, "niah", **{"4096": -1.0, str(length): score}) for i, (length, score) in enumerate(zip(lengths, scores, strict=True))]
    metrics = [{"metric": str(length), "aggregation": RULER_MEAN, "higher_is_better": True} for length in (4096, 8192, 16384)]
    config = {"niah": {"task": "niah", "output_type": "generate_until", "num_fewshot": 0, "metric_list": metrics}}
    stated = {f"{length.removeprefix('at_')},none": value for length, value in figures.items()}
    tasks = {"niah": stated, "ruler": {"4096,none": stated.get("4096,none", -1)}}
    return str(write(folder, {"niah": its}, tasks, {"ruler": ["niah"]}, configs=config))


def test_rulers_lengths_are_compared_each_over_its_own_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-1 is no score but says that a document has another length: lm-eval's own means leave it out."""
    lengths = (4096, 8192) * 10
    base = ruler(tmp_path / "a", lengths, [1.0] * 20, at_4096=1.0, at_8192=1.0)
    cand = ruler(tmp_path / "b", lengths, [1.0, 0.5] * 10, at_4096=1.0, at_8192=0.5)
    assert figures(compare(base, cand)) == {"niah/4096": (1.0, 1.0), "niah/8192": (1.0, 0.5)}
    assert cli.main(["gate", base, cand]) == 1
    assert "niah: no metric is of all its 20 documents; each is compared over its own" in capsys.readouterr().out
    for task in ("niah", "ruler"):
        assert figures(compare(base, cand, [task], "4096")) == {task: (1.0, 1.0)}
    assert "4096,none is of 10 of its 20 documents; lm-eval's figure leaves" in str(compare(base, cand, ["niah"], "4096").notes)
    viewed = {name: (about["value"], about["n"]) for name, about in read(cand).about["tasks"].items()}
    assert viewed == {"niah/4096": (1.0, 10), "niah/8192": (0.5, 10)}
    only = ruler(tmp_path / "only", (8192,) * 20, [0.5] * 20, at_4096=-1, at_8192=0.5)
    assert figures(compare(only, only)) == {"niah": (0.5, 0.5)}
    one = ruler(tmp_path / "one", (4096,) * 20, [0.5] * 20, at_4096=0.5)
    assert figures(compare(one, one)) == {"ruler": (0.5, 0.5)}


def test_marks_that_the_figure_counts_are_scores(tmp_path: Path) -> None:
    """-1 of a metric whose stated mean has it in (a correlation, a stance), NaN that nanmean leaves out, and what cannot be told."""
    signed = write(tmp_path / "signed", {"stance": [row(i, stance=(1.0, 0.0, -1.0)[i % 3]) for i in range(30)]})
    assert figures(compare(str(signed), str(signed))) == {"stance": (0.0, 0.0)}
    rate = [row(i, **{"acc": math.nan if i % 2 else 0.5}) for i in range(30)]
    config = {"rate": {"task": "rate", "metric_list": [{"metric": "acc", "aggregation": "nanmean"}]}}
    nan = str(write(tmp_path / "nan", {"rate": rate}, {"rate": {"acc,none": 0.5}}, configs=config))
    assert figures(compare(nan, nan, ["rate"], "acc")) == {"rate": (0.5, 0.5)}
    assert "15 of 30 documents have no acc,none" in refusal(Path(nan))
    odd = write(tmp_path / "odd", {"x": [row(i, acc=1.0 if i % 2 else -1.0) for i in range(30)]}, {"x": {"acc,none": 0.7}})
    assert "acc,none of x is 0 over the 30 samples, and the figure stated is 0.7" in refusal(odd)


def group(folder: Path, big: list[float], small: list[float], own: float, **changes: object) -> str:
    tasks = {"langs_big": rows("langs_big", big), "langs_small": rows("langs_small", small)}
    return str(write(folder, tasks, {"langs": {"acc,none": own}}, {"langs": ["langs_big", "langs_small"]}, **changes))


def test_a_groups_own_averaging(tmp_path: Path) -> None:
    big, small = [1.0] * 30 + [0.0] * 10, [1.0] * 2 + [0.0] * 8
    micro, macro = mean(big + small), (mean(big) + mean(small)) / 2
    for name, own in (("micro", micro), ("macro", macro)):
        folder = group(tmp_path / name, big, small, own)
        assert figures(compare(folder, folder)) == {"langs": (pytest.approx(own, abs=1e-12),) * 2}
        assert read(folder).about["tasks"]["langs"]["value"] == own
    with pytest.raises(EvalkitError, match="langs: BASE is a mean over documents, CAND over tasks"):
        compare(str(tmp_path / "micro"), str(tmp_path / "macro"))
    # where the sizes do not tell, the other run does
    either = group(tmp_path / "either", [1.0] * 20 + [0.0] * 20, [1.0] * 5 + [0.0] * 5, 0.5)
    assert figures(compare(either, str(tmp_path / "macro"))) == {"langs": (0.5, pytest.approx(macro))}
    assert figures(compare(either, str(tmp_path / "micro"))) == {"langs": (0.5, pytest.approx(micro))}


def test_a_group_whose_figure_is_no_mean_is_taken_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = group(tmp_path / "odd", [1.0] * 40, [0.0] * 10, 0.9)
    assert figures(compare(folder, folder)) == {"langs_big": (1.0, 1.0), "langs_small": (0.0, 0.0)}
    assert cli.main(["gate", folder, folder]) == 0
    note = "langs: its own figure is no mean over all of its tasks; they are compared one by one"
    assert note in capsys.readouterr().out
    assert read(folder).about["notes"] == [note]


def test_a_group_of_different_metrics(tmp_path: Path) -> None:
    tasks = {
        "lb_logic": rows("lb_logic", SCORES, "acc_norm"),
        "lb_algebra": rows("lb_algebra", WORSE, "exact_match"),
        "lb_facts": rows("lb_facts", SCORES, "acc"),
    }
    folder = str(write(tmp_path / "lb", tasks, {"lb": {" ": " ", "alias": "lb"}}, {"lb": list(tasks)}))
    each = {"lb_logic": (0.75, 0.75), "lb_algebra": (0.5, 0.5), "lb_facts": (0.75, 0.75)}
    assert figures(compare(folder, folder)) == figures(compare(folder, folder, ["lb"])) == each
    assert figures(compare(folder, folder, ["lb_logic"])) == {"lb_logic": (0.75, 0.75)}
    assert figures(compare(folder, folder, ["lb_facts"], "acc")) == {"lb_facts": (0.75, 0.75)}
    told = refusal(Path(folder), metric="acc")
    assert "unknown metric of lb_logic 'acc'; known: acc_norm,none; to compare the others, pass --tasks lb_facts" in told
    with pytest.raises(EvalkitError, match=r"unknown task in .* 'lb_logics'; did you mean 'lb_logic'\? known: lb, lb_algebra"):
        compare(folder, folder, ["lb_logics"])


def test_one_odd_task_does_not_block_the_others(tmp_path: Path) -> None:
    tasks = {"a": rows("a", SCORES), "odd": [row(i, "odd", ppl=[1.0, 2]) for i in range(4)], "b": rows("b", WORSE)}
    folder = write(tmp_path / "g", tasks, {}, {"g": ["a", "odd", "b"]})
    assert "no metric that lm-eval averages" in refusal(folder)
    assert "pass --tasks a,b" in refusal(folder)
    assert figures(compare(str(folder), str(folder), ["a", "b"])) == {"a": (0.75, 0.75), "b": (0.5, 0.5)}


def test_groups_that_name_themselves(tmp_path: Path) -> None:
    own = write(tmp_path / "own", {"sums": rows("sums", SCORES)}, groups={"sums": ["sums"]})
    assert figures(compare(str(own), str(own))) == {"sums": (0.75, 0.75)}
    circle = write(tmp_path / "circle", {"sums": rows("sums", SCORES)}, groups={"a": ["b"], "b": ["a", "sums"]})
    assert "name each other" in refusal(circle)
    assert figures(compare(str(circle), str(circle), ["sums"])) == {"sums": (0.75, 0.75)}
    assert figures(compare(str(circle), str(circle), ["a"])) == {"sums": (0.75, 0.75)}


def test_a_group_of_tasks_without_samples(tmp_path: Path) -> None:
    for children in (["gone"], ["gone", "sums"]):
        folder = write(tmp_path / children[-1], {"sums": rows("sums", SCORES)}, {"g": {"acc,none": 0.5}}, {"g": children})
        assert "gone is named by a group, and has no samples" in refusal(folder)


def test_nested_groups_and_a_task_of_two(tmp_path: Path) -> None:
    tasks = {name: rows(name, scores) for name, scores in (("x", SCORES), ("y", WORSE), ("z", [1.0] * 10))}
    figure = {"all": {"acc,none": mean([0.75, 0.5, 1.0])}, "xy": {"acc,none": 0.625}}
    folder = str(write(tmp_path / "g", tasks, figure, {"all": ["xy", "z"], "xy": ["x", "y"], "also": ["z"]}))
    assert figures(compare(folder, folder)) == {"all": (pytest.approx(0.75),) * 2, "z": (1.0, 1.0)}
    assert figures(compare(folder, folder, ["xy", "y"])) == {"xy": (0.625, 0.625), "y": (0.5, 0.5)}


def test_several_results_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "m", {"sums": rows("sums", SCORES)})
    write(folder, {"stories": rows("stories", WORSE)}, time="2026-03-02T10-00-00.000001")
    assert figures(compare(str(folder), str(folder))) == {"sums": (0.75, 0.75), "stories": (0.5, 0.5)}
    write(folder, {"sums": rows("sums", WORSE)}, time="2026-03-03T10-00-00.000001")
    assert figures(compare(str(folder), str(folder))) == {"sums": (0.5, 0.5), "stories": (0.5, 0.5)}
    assert cli.main(["compare", str(folder), str(folder)]) == 0
    assert "sums of results_2026-03-01T10-00-00.123456.json: passed over for newer results" in capsys.readouterr().out
    one = str(folder / "results_2026-03-01T10-00-00.123456.json")
    assert figures(compare(one, one)) == {"sums": (0.75, 0.75)}
    write(folder, {"x": rows("x", WORSE)}, time="2026-03-04T10-00-00.000001", model_name="other")
    assert "holds results of m and of other; give one results file" in refusal(folder)


def older(each: dict[str, object]) -> dict[str, object]:
    """A row of lm-eval 0.4.3 to 0.4.5, which names neither its filter nor its metrics."""
    return {key: value for key, value in each.items() if key not in ("filter", "metrics")}


def test_rows_of_older_versions(tmp_path: Path) -> None:
    def written(name: str, its: list[dict[str, object]], figure: dict[str, float], *filters: str) -> Path:
        folder = write(tmp_path / name, {"sums": rows("sums", SCORES)}, {"sums": figure})
        next(folder.glob("samples_*")).write_text("".join(json.dumps(older(each)) + "\n" for each in its))
        results = next(folder.glob("results_*"))
        raw = json.loads(results.read_text())
        raw["configs"]["sums"] |= {"filter_list": [{"name": name, "filter": []} for name in filters]} if filters else {}
        results.write_text(json.dumps(raw))
        return folder

    one = written("one", rows("sums", SCORES), {"acc,none": 0.75})
    assert figures(compare(str(one), str(one))) == {"sums": (0.75, 0.75)}
    both = [*rows("sums", WORSE, "exact_match"), *rows("sums", SCORES, "exact_match")]
    stated = {"exact_match,strict": 0.5, "exact_match,flexible": 0.75}
    two = str(written("two", both, stated, "strict", "flexible"))
    assert figures(compare(two, two)) == {"sums": (0.5, 0.5)}
    assert figures(compare(two, two, metric="exact_match,flexible")) == {"sums": (0.75, 0.75)}
    # the order of the filters is checked by their figures
    assert "is 0.5 over the 40 samples, and the figure stated is 0.75" in refusal(written("swapped", both, stated, "flexible", "strict"))
    assert "rows of lm-eval 0.4.0 and later can" in refusal(written("three", both, stated))


def oldest(folder: Path, results: str, arguments: str, tasks: dict[str, list[dict[str, object]]], **changes: object) -> Path:
    """A folder as lm-eval 0.4.0 to 0.4.2 wrote it: results without times and counts, samples as a list each, rows without hashes."""
    write(folder, tasks)
    (file,) = folder.glob("results_*")
    raw = json.loads(file.read_text())
    gone = ("higher_is_better", "n-samples", "model_name", "date", "group_subtasks")
    metrics = {"metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
    configs = {task: {**config, **metrics} for task, config in raw["configs"].items()}
    for task, its in tasks.items():
        raw["results"][task]["acc_stderr,none"] = estimate_of([float(each["acc"]) for each in its]).stderr  # type: ignore[arg-type]
    raw = {key: value for key, value in raw.items() if key not in gone} | {"config": {"model_args": arguments}, "configs": configs}
    for each in folder.iterdir():
        each.unlink()
    (folder / results).write_text(json.dumps(raw | changes, indent=2))
    hashes = ("doc_hash", "prompt_hash", "target_hash")
    for task, its in tasks.items():
        plain = [{key: value for key, value in older(each).items() if key not in hashes} for each in its]
        lists = [each | {"arguments": [list(a.values()) for a in each["arguments"].values()]} for each in plain]  # type: ignore[attr-defined]
        (folder / f"{arguments.replace('/', '__').replace('=', '__')}_{task}.jsonl").write_text(json.dumps(lists, indent=2))
    return folder


def test_the_layout_before_0_4_3(tmp_path: Path) -> None:
    tasks = {"sums": rows("sums", SCORES), "stories": rows("stories", WORSE)}
    base = oldest(tmp_path / "base", "results.json", "pretrained=org/m,dtype=float", tasks)
    better = {"sums": rows("sums", WORSE), "stories": rows("stories", SCORES)}
    cand = oldest(tmp_path / "cand", "mine.json", "pretrained=org/n", better)
    assert figures(compare(str(base), str(cand / "mine.json"))) == {"sums": (0.75, 0.5), "stories": (0.5, 0.75)}
    assert read_answers(str(base)).model == "pretrained=org/m,dtype=float"
    assert cli.main(["report", str(base), "--runs-only"]) == 0
    (file,) = base.glob("*_sums.jsonl")
    text = file.read_text()
    file.write_text(text.replace('"yes 3"', '"no 3"'))
    assert "the data of 1 of 40 documents differ (first: sums/3)" in refusal_of(str(base), str(cand / "mine.json"))
    file.write_text(json.dumps(json.loads(text)[:20]))
    assert "the standard error of acc,none is 0.09933992678 over the 20 samples, and the file says 0.0693375245" in refusal(base)
    file.write_text(text[:-9])
    assert "is damaged" in refusal(base)
    file.unlink()
    assert "stories" in figures(compare(str(base), str(base), ["stories"]))


def refusal_of(base: str, cand: str) -> str:
    with pytest.raises(EvalkitError) as caught:
        compare(base, cand)
    return str(caught.value)


def test_results_under_a_name_of_ones_own(tmp_path: Path) -> None:
    """`--output_path mine.json`: lm-eval puts the time behind the name, and the samples beside it."""
    folder = write(tmp_path / "own", {"sums": rows("sums", SCORES)})
    (file,) = folder.glob("results_*")
    named = file.rename(folder / file.name.replace("results_", "mine_"))
    for place in (folder, named):
        assert figures(compare(str(place), str(place))) == {"sums": (0.75, 0.75)}


def test_a_metric_of_which_less_is_better(tmp_path: Path) -> None:
    better = {"sums": {"wer": False}}
    base = write(tmp_path / "a", {"sums": rows("sums", [0.2, 0.4] * 50, "wer")}, higher_is_better=better)
    cand = write(tmp_path / "b", {"sums": rows("sums", [0.5, 0.7] * 50, "wer")}, higher_is_better=better)
    found = compare(str(base), str(cand)).tasks[0].difference
    assert (found.base, found.cand, found.value) == (pytest.approx(0.3), pytest.approx(0.6), pytest.approx(0.3))
    assert found.lower <= found.value <= found.upper
    assert cli.main(["gate", str(base), str(cand), "--margin", "0.1", "--allow-small-margin"]) == 1
    assert cli.main(["gate", str(cand), str(base), "--margin", "0.1", "--allow-small-margin"]) == 0
    assert read(str(base)).about["tasks"]["sums"]["value"] == pytest.approx(0.3)


def test_what_lm_eval_does_not_average_is_passed_over(tmp_path: Path) -> None:
    its = [row(i, perplexity=-2.0 - i, f1=[1, 0], med=1.0, acc=float(i % 2)) for i in range(10)]
    config = {"sums": {"metric_list": [{"metric": "med", "aggregation": "median"}]}}
    folder = str(write(tmp_path / "p", {"sums": its}, configs=config))
    task = read_answers(folder).tasks["sums"]
    assert (task.metric, task.averaging) == ("acc,none", "micro")
