"""Under @lm-eval the prompts are lm-eval's own, byte for byte: its task definitions, its few-shot choice, real data."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval_reference import rendered, shown

from evalkit.data.sources import FolderSource, SampleSource
from evalkit.tasks import Form, Generate, Generated, Loglikelihood
from evalkit.tasks.registry import resolve
from evalkit_tasks.gsm8k import table as gsm8k_table
from evalkit_tasks.humaneval.task import HumanEval
from evalkit_tasks.mmlu import table as mmlu_table
from evalkit_tasks.multilingual.cells import BY_NAME
from evalkit_tasks.multilingual.lm_eval_definition import definition
from moe_lm.tokenizer.chat import render

lm_eval_tasks = pytest.importorskip("lm_eval.tasks", reason="lm-eval is not installed")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SUBJECTS = ("anatomy", "college_mathematics", "high_school_us_history", "moral_scenarios", "us_foreign_policy")


def lm_eval_task(yaml: str, splits: dict[str, list[dict]], tmp_path: Path, form: dict[str, Any] | None = None, **changes: Any) -> Any:
    """One of lm-eval's tasks on local rows, without the whole index; `form`: how its prompts are built."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    files = {}
    for split, rows in splits.items():
        files[split] = str(tmp_path / f"{split}.json")
        Path(files[split]).write_text("\n".join(map(json.dumps, rows)))
    root = Path(lm_eval_tasks.__file__).parent
    local = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path / "cache")}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = dict(load_yaml(root / yaml, resolve_func=True)) | local | changes
        task = ConfigurableTask(config=config)
        task.set_fewshot_seed(1234)
        task.build_all_requests(limit=None, rank=0, world_size=1, cache_requests=False, rewrite_requests_cache=False, **form or {})
    return task


@pytest.mark.parametrize("subject", SUBJECTS)
def test_mmlu(subject: str, data_dir: Path, tmp_path: Path) -> None:
    source = FolderSource(data_dir)
    splits = {
        split: [
            {"question": r["question"], "choices": [r[x] for x in "ABCD"], "answer": "ABCD".index(r["answer"]), "subject": subject}
            for r in source.rows(mmlu_table(subject, split))
        ]
        for split in ("dev", "test")
    }
    theirs = lm_eval_task(f"mmlu/default/mmlu_{subject}.yaml", splits, tmp_path, num_fewshot=5)
    asked: dict[int, list[tuple[str, str]]] = {}
    for instance in theirs.instances:
        asked.setdefault(instance.doc_id, []).append(instance.args)
    task = resolve("mmlu@lm-eval")
    docs = [d for d in task.load(source) if d.group == subject]
    assert len(docs) == len(asked) == len(splits["test"])
    for i, doc in enumerate(docs):
        (request,) = task.requests(doc)
        assert isinstance(request, Loglikelihood)
        assert [(request.context, c) for c in request.continuations] == asked[i]


def test_gsm8k(data_dir: Path, tmp_path: Path) -> None:
    source = FolderSource(data_dir)
    splits = {split: source.rows(gsm8k_table(split)) for split in ("train", "test")}
    theirs = lm_eval_task("gsm8k/gsm8k.yaml", splits, tmp_path)
    task = resolve("gsm8k@lm-eval")
    docs = task.load(source)
    assert len(theirs.instances) == len(docs) == 1_319
    for doc, instance in zip(docs, theirs.instances, strict=True):
        (request,) = task.requests(doc)
        assert isinstance(request, Generate)
        prompt, settings = instance.args
        assert request.context == prompt
        assert list(request.until) == settings["until"]


def test_gsm8k_scores(data_dir: Path, tmp_path: Path) -> None:
    """lm-eval's filters and metric over completions of every kind give what ours give."""
    from evalkit_tasks.extraction import lm_eval_filters

    source = FolderSource(data_dir)
    splits = {split: source.rows(gsm8k_table(split))[:40] for split in ("train", "test")}
    theirs = lm_eval_task("gsm8k/gsm8k.yaml", splits, tmp_path)
    completions = [
        *(row["answer"] for row in splits["test"][:10]),
        *(row["answer"].replace("#### ", "The answer is $") + "." for row in splits["test"][10:20]),
        *("#### 1,0.", "none", "", "...", "$", "#### -3 then 5", "12. 13,", "a ,, b", "#### $5", "3\n#### 4\n#### 5"),
        *(str(i) for i in range(10)),
    ]
    for instance, completion in zip(theirs.instances, completions, strict=True):
        instance.resps = [completion]
    theirs.apply_filters()
    for instance, completion in zip(theirs.instances, completions, strict=True):
        ours = lm_eval_filters(completion, instance.doc["answer"]).correct
        for metric, name in (("exact_match_strict", "strict-match"), ("exact_match_flexible", "flexible-extract")):
            score = theirs.process_results(instance.doc, [instance.filtered_resps[name]])["exact_match"]
            assert bool(score) == ours[metric], (completion, metric)


@pytest.fixture
def code_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's HumanEval loads a metric from the hub when it is imported; its prompts and filters do not need it."""
    metric = SimpleNamespace(compute=lambda **_: None)
    monkeypatch.setattr("evaluate.load", lambda _: metric)


@pytest.mark.usefixtures("code_eval")
@pytest.mark.parametrize(("protocol", "yaml"), [("lm-eval", "humaneval"), ("lm-eval-instruct", "humaneval_instruct")])
def test_humaneval(protocol: str, yaml: str, data_dir: Path, tmp_path: Path) -> None:
    task = resolve(f"humaneval@{protocol}")
    assert isinstance(task, HumanEval)
    docs = task.load(FolderSource(data_dir))
    theirs = lm_eval_task(f"humaneval/{yaml}.yaml", {"test": [dict(doc.fields) for doc in docs]}, tmp_path)
    answers = ["    return 1\n", "    return 1\n```\nIt works.", "```", ""]
    for doc, instance in zip(docs, theirs.instances, strict=True):
        (request,) = task.requests(doc)
        assert isinstance(request, Generate)
        prompt, settings = instance.args
        assert (request.context, list(request.until), request.max_new_tokens) == (prompt, settings["until"], settings["max_gen_toks"])
        assert settings["do_sample"] is False
        instance.resps = answers  # as many samples of one document
    theirs.apply_filters()
    for doc, instance in zip(docs, theirs.instances, strict=True):
        ours = task.programs(doc, [Generated(answer, "stop", 1) for answer in answers])
        assert [check.program for check in ours] == instance.filtered_resps["create_test"]


@pytest.mark.usefixtures("code_eval")
def test_humaneval_through_a_chat_template(data_dir: Path, tmp_path: Path) -> None:
    """The conversation is lm-eval's, and the text what transformers makes of it where the last message goes on."""
    from transformers.utils.chat_template_utils import render_jinja_template

    task = resolve("humaneval@lm-eval-instruct-chat")
    docs = task.load(FolderSource(data_dir))
    theirs = lm_eval_task("humaneval/humaneval_instruct.yaml", {"test": [dict(doc.fields) for doc in docs]}, tmp_path)
    theirs.build_all_requests(apply_chat_template=True, chat_template=lambda said, **how: json.dumps([said, how]), tokenizer_name="none")
    for doc, instance in zip(docs, theirs.instances, strict=True):
        (request,) = task.requests(doc)
        assert isinstance(request, Generate)
        said, how = json.loads(instance.args[0])
        messages = [{"role": role, "content": content} for role, content in request.messages]
        assert said == [*messages, {"role": "assistant", "content": request.context}]
        assert how == {"add_generation_prompt": False}
    ((text,), _) = render_jinja_template([said], chat_template=CHATML, continue_final_message=True)
    assert render(messages, CHATML) + request.context == text


@pytest.mark.parametrize("multiturn", [True, False])
def test_gsm8k_in_the_chat_template(multiturn: bool, tmp_path: Path) -> None:
    """Another number of shots, drawn as lm-eval draws them, as turns or in the one question."""
    source = SampleSource()
    splits = {split: source.rows(gsm8k_table(split)) for split in ("train", "test")}
    form = {"apply_chat_template": True, "fewshot_as_multiturn": multiturn, "chat_template": rendered, "tokenizer_name": "oracle"}
    theirs = lm_eval_task("gsm8k/gsm8k.yaml", splits, tmp_path, form, num_fewshot=3)
    task = resolve("gsm8k@lm-eval", form=Form(num_fewshot=3, chat=True, multiturn=multiturn))
    assert task.protocol.name == "lm-eval+3-shot+chat" + ("" if multiturn else "+single-turn")
    asked = {instance.doc_id: instance.args[0] for instance in theirs.instances}
    docs = task.load(source)
    assert len(asked) == len(docs) > 20
    for i, doc in enumerate(docs):
        (request,) = task.requests(doc)
        assert shown(request) == asked[i]


@pytest.mark.parametrize("cell", ["belebele:es", "mgsm:es"])
@pytest.mark.parametrize("multiturn", [True, False])
def test_sets_of_the_multilingual_suite_in_the_chat_template(cell: str, multiturn: bool) -> None:
    task = resolve(cell, form=Form(num_fewshot=2, chat=True, multiturn=multiturn))
    docs = task.load(SampleSource())
    shots = [turn for turn in docs[0].messages if turn[0] == "user"] if multiturn else []
    assert len(shots) == (2 if multiturn else 0)
    theirs = definition(BY_NAME[cell].lm_eval, docs[0].fields).task
    worked = resolve(cell, form=Form(num_fewshot=2)).load(SampleSource())[0].prefix
    for doc in docs[:5]:
        (request,) = task.requests(doc)
        alone = theirs.fewshot_context(dict(doc.fields), 0, apply_chat_template=True, fewshot_as_multiturn=True, chat_template=rendered)
        assert shown(replace(request, messages=request.messages[-1:])) == alone if multiturn else worked in request.messages[0][1]
        if isinstance(request, Loglikelihood):
            made = theirs.construct_requests(dict(doc.fields), alone, apply_chat_template=True)
            assert request.continuations == tuple(instance.args[1] for instance in made)
