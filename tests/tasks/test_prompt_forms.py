"""Built-in tasks in another form than their protocol's: other shots, the chat template, a system message, a protocol of the user's own."""

from pathlib import Path

import pytest

from evalkit.data.sources import SampleSource
from evalkit.errors import EvalkitError
from evalkit.tasks import Doc, Form, Generate, Loglikelihood, Task
from evalkit.tasks.lm_eval.options import LmEvalOptions
from evalkit.tasks.registry import remark, resolve, resolve_all, spec_of

OWN = """
[short]
summary = "one shot"
source = "here"
headline = "acc"
averaging = "micro"
num_fewshot = 1
header = "About {subject}.\\n\\n"
item = "{question}\\nA. {A}\\nB. {B}\\nC. {C}\\nD. {D}\\nAnswer:"
shot_end = "\\n\\n"
strip_question = true
scores = "letters"
truncate_above = 0
truncate_to = 0
"""


def first(task: Task) -> tuple[Doc, Loglikelihood | Generate]:
    doc = task.load(SampleSource())[0]
    return doc, task.requests(doc)[0]


def test_mmlu_as_a_conversation() -> None:
    _, request = first(resolve("mmlu", form=Form(num_fewshot=2)))
    assert isinstance(request, Loglikelihood)
    _, chat = first(resolve("mmlu", form=Form(num_fewshot=2, chat=True)))
    assert isinstance(chat, Loglikelihood)
    assert [role for role, _ in chat.messages] == ["user", "assistant", "user", "assistant", "user"]
    # the same text, cut into turns where a blank or an empty line was
    at = 0
    for _, text in chat.messages:
        at = request.context.index(text, at) + len(text)
    assert at == len(request.context)
    assert (request.continuations, chat.continuations) == ((" A", " B", " C", " D"), ("A", "B", "C", "D"))
    assert (request.truncate_above, chat.truncate_above) == (2048, None)
    _, single = first(resolve("mmlu", form=Form(num_fewshot=2, chat=True, multiturn=False)))
    assert single.messages == (("user", request.context),)


def test_gsm8k_has_the_first_worked_examples() -> None:
    whole, _ = first(resolve("gsm8k"))
    two, _ = first(resolve("gsm8k@qwen+2-shot"))
    none, asked = first(resolve("gsm8k@qwen+0-shot"))
    assert two.prefix.count("Question:") == 2
    assert whole.prefix.startswith(two.prefix.rstrip("\n"))
    ends = [doc.prefix[len(doc.prefix.rstrip("\n")) :] for doc in (whole, two)]
    assert ends[0] == ends[1]
    assert none.prefix == ""
    assert isinstance(asked, Generate)
    assert "\n\n" in asked.until
    _, chat = first(resolve("gsm8k@qwen+2-shot+chat"))
    assert isinstance(chat, Generate)
    assert chat.until == ("<|endoftext|>", "Question:")
    turns = [text for _, text in chat.messages]
    assert turns[0].endswith("Let's think step by step")
    assert "".join(f"{q}\n{a}\n\n" for q, a in zip(turns[:-1:2], turns[1::2], strict=True)).rstrip("\n") == two.prefix.rstrip("\n")
    _, single = first(resolve("gsm8k@qwen+2-shot+chat+single-turn"))
    assert single.messages == (("user", f"{two.prefix}\n{turns[-1]}"),)


def test_a_system_message() -> None:
    _, text = first(resolve("mmlu@qwen+1-shot", form=Form(system="Be brief.")))
    assert text.context.startswith("Be brief.\n\nThe following are")
    _, chat = first(resolve("mmlu@qwen+1-shot+chat", form=Form(system="Be brief.")))
    assert chat.messages[0] == ("system", "Be brief.")
    names = {resolve("mmlu", form=Form(system=system)).protocol.name for system in ("Be brief.", "Be long.", "")}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("spec", "form", "name"),
    [
        ("mmlu", Form(num_fewshot=5), "qwen"),
        ("gsm8k", Form(num_fewshot=8), "qwen"),
        ("mmlu@lighteval-cloze-chat", Form(chat=True), "lighteval-cloze-chat"),
        ("gsm8k@smollm-chat", Form(num_fewshot=2, chat=True), "smollm-chat+2-shot"),
        ("mt_bench", Form(chat=True), "fastchat"),
        ("humaneval@evalscope", Form(num_fewshot=0, chat=True), "evalscope"),
        ("m3exam:it", Form(num_fewshot=3), "qwen+3-shot"),
        ("mmlu@+chat", Form(num_fewshot=3), "qwen+3-shot+chat"),
        ("mmlu@qwen+chat", Form(chat=True), "qwen+chat"),
    ],
)
def test_a_form_is_named_where_it_is_another(spec: str, form: Form, name: str) -> None:
    task = resolve(spec, form=form)
    assert task.protocol.name == name
    again = resolve(spec_of(task.protocol.task, name))
    assert again.protocol == task.protocol
    said = remark(task.protocol.task, name)
    assert (said is not None and said.startswith("no published figure")) == ("+" in name)


@pytest.mark.parametrize(
    ("spec", "form", "words"),
    [
        ("gsm8k", Form(num_fewshot=9), "has 8 worked examples"),
        ("gsm8k@qwen+2-shot", Form(num_fewshot=3), "give one"),
        ("mmlu", Form(multiturn=False), "--no-fewshot-as-multiturn has no effect"),
        ("mmlu@qwen+chats", Form(), "the part 'chats'"),
        ("mmlu@qwen+2-shot+3-shot", Form(), "says one thing twice"),
        ("mmlu@qwen+system-00000000", Form(), "--system-instruction"),
        ("gsm8k@smollm-chat", Form(system="x"), "without a system message"),
        ("humaneval", Form(chat=True), "take humaneval@chat"),
        ("humaneval", Form(num_fewshot=1), "no shots"),
        ("mt_bench", Form(num_fewshot=1), "in one form"),
        ("pawsx", Form(chat=True), "scores whole sentences"),
        ("multilingual", Form(chat=True), "xwinograd"),
    ],
)
def test_a_form_that_a_task_has_not_is_refused(spec: str, form: Form, words: str) -> None:
    with pytest.raises(EvalkitError, match=words):
        resolve(spec, form=form)


def test_too_few_rows_for_the_shots_are_refused() -> None:
    with pytest.raises(EvalkitError, match=r"holds 5 rows, mmlu@qwen\+6-shot needs 6"):
        resolve("mmlu@qwen+6-shot").load(SampleSource())


def test_a_protocol_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "short.toml"
    file.write_text(OWN)
    tasks = resolve_all(["mmlu", "mmlu@qwen", "mmlu@+chat"], None, LmEvalOptions(protocol_file=str(file)))
    own, published, chat = tasks.values()
    assert own.protocol.name.startswith("short-")
    assert (published.protocol.name, chat.protocol.name) == ("qwen", f"{own.protocol.name}+chat")
    assert first(own)[1].context.startswith("About astronomy.\n\n")
    assert remark("mmlu", own.protocol.name)
    assert resolve(f"mmlu@{own.protocol.name}", protocol_file=str(file)).protocol == own.protocol
    file.write_text(OWN.replace("one shot", "another summary"))
    assert resolve("mmlu", protocol_file=str(file)).protocol.name == own.protocol.name  # no setting
    file.write_text(OWN.replace("About", "On"))
    assert resolve("mmlu", protocol_file=str(file)).protocol.name != own.protocol.name


@pytest.mark.parametrize(
    ("task", "text", "words"),
    [
        ("mmlu", OWN.replace("shot_end", "shots_end"), r"short.toml:10: short.shots_end is no key of mmlu's protocols"),
        ("mmlu", OWN.replace('"letters"', '"leters"'), r"short.toml:12: .*'letters', 'texts'"),
        ("mmlu", OWN.replace('"acc"', '"acc_norm"'), "short.headline is"),
        ("mmlu", OWN.replace("num_fewshot = 1", "num_fewshot = true"), "num_fewshot is true"),
        ("mmlu", OWN.replace("{question}", "{question.__class__}"), "no placeholder but"),
        ("mmlu", OWN.replace("{question}", "{query}"), "a text with {question}"),
        ("mmlu", OWN.replace("truncate_to = 0", "truncate_to = 5"), "truncate_above"),
        ("mmlu", OWN.replace('averaging = "micro"\n', ""), "lacks averaging"),
        ("mmlu", OWN.replace("[short]", "[sh+ort]").replace("[sh+ort]", '["sh+ort"]'), "can't name a protocol"),
        ("mmlu", OWN + OWN.replace("[short]", "[long]"), "give it one table"),
        ("mmlu", "x = 1", "give it one table"),
        ("gsm8k", OWN, "is no key of gsm8k's protocols"),
        ("mt_bench", OWN, "takes no protocol from a file"),
        ("mmlu@qwen", OWN, "has no effect"),
    ],
)
def test_a_protocol_that_is_not_understood_is_refused(task: str, text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "short.toml"
    file.write_text(text)
    with pytest.raises(EvalkitError, match=words):
        resolve_all([task], None, LmEvalOptions(protocol_file=str(file)))
