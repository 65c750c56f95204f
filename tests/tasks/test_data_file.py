"""A table of questions as a task: how rows are read and asked, how answers are scored, and what is refused with row and column."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalkit.data.sources import SampleSource
from evalkit.errors import EvalkitError
from evalkit.tasks import Form, Generate, Generated, Loglikelihood, Loglikelihoods, Task
from evalkit.tasks.registry import resolve

HEADER = "question,choices,answer\n"
Made = Callable[..., Task]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """The task of a file with this content (text, bytes or rows), beside the files that were made before."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, content: Any, form: Form | None = None) -> Task:
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return resolve(name, form=form or Form())

    return make


def asked(task: Task) -> list[Any]:
    """The first request of each document."""
    return [task.requests(doc)[0] for doc in task.load(SampleSource())]


def test_a_question_with_choices_is_one_request(made: Made) -> None:
    task = made("a.csv", HEADER + '"One, or\ntwo?",a | b,B\nTwo?,"[""c|d"", ""e""]",A\n')
    docs = task.load(SampleSource())
    first, second = asked(task)
    assert first == Loglikelihood("Question: One, or\ntwo?\nA. a\nB. b\nAnswer:", (" A", " B"))
    assert second.context.endswith("A. c|d\nB. e\nAnswer:")
    assert [doc.fields["answer"] for doc in docs] == ["B", "A"]
    right = task.score(docs[0], [Loglikelihoods((-2.0, -1.0), (False, True))])
    assert (right.metrics, right.extracted, right.target) == ({"acc": 1.0}, "B", "B")
    tie = task.score(docs[0], [Loglikelihoods((-1.0, -1.0), (False, True))])
    assert tie.extracted == "A"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", HEADER + "One?,a|b,A\nTwo?,c|d,B\n"),
        ("a.csv", ("\ufeff" + HEADER + "One?,a|b,A\n\nTwo?,c|d,B\n").replace("\n", "\r\n")),
        ("a.csv", (HEADER + "One?,a|b,A\nTwo?,c|d,B").encode("utf-16")),
        ("a.csv", "A,B,question,answer\na,b,One?,A\nc,d,Two?,B\n"),
        ("a.csv", HEADER + "One?,a|b,0\nTwo?,c|d,1\n"),
        ("a.csv", HEADER + "One?,a|b,1\nTwo?,c|d,2\n"),
        ("a.csv", HEADER + "One?,a|b,a\nTwo?,c|d,d\n"),
        ("a.jsonl", [{"question": q, "choices": c, "answer": a} for q, c, a in (("One?", ["a", "b"], 0), ("Two?", ["c", "d"], 1))]),
        (
            "a.json",
            json.dumps([{"question": "One?", "choices": "a|b", "answer": "a"}, {"question": "Two?", "choices": ["c", "d"], "answer": "d"}]),
        ),
    ],
)
def test_one_question_written_in_several_ways_is_asked_in_one(name: str, content: Any, made: Made) -> None:
    task = made(name, content)
    assert [request.context for request in asked(task)] == [
        "Question: One?\nA. a\nB. b\nAnswer:",
        "Question: Two?\nA. c\nB. d\nAnswer:",
    ]
    assert [doc.fields["answer"] for doc in task.load(SampleSource())] == ["A", "B"]


def test_the_name_says_how_it_is_asked_and_not_what(made: Made) -> None:
    table = made("a.csv", HEADER + "One?,a|b,A\n")
    other = made("b.csv", HEADER + "Two?,a|b,A\n")
    described = made("c.toml", 'data = "a.csv"\n')
    assert table.protocol.name == other.protocol.name == described.protocol.name
    changed = made("c.toml", 'data = "a.csv"\nheader = "x"\n')
    assert changed.protocol.name != described.protocol.name
    assert (changed.name, changed.file, changed.protocol.task) == ("c.toml", "c.toml", "c.toml")


def test_texts_of_choices_are_scored_by_character(made: Made) -> None:
    made("a.csv", HEADER + "One?,abcd|b,A\n")
    task = made("a.toml", 'data = "a.csv"\nscores = "texts"\nprompt = "{{ question | upper }} {{ choices | length }}"\n')
    assert asked(task) == [Loglikelihood("ONE? 2", (" abcd", " b"))]
    scored = task.score(task.load(SampleSource())[0], [Loglikelihoods((-3.0, -2.0), (False, False))])
    assert scored.metrics == {"acc_norm": 1.0, "acc": 0.0}
    assert scored.extracted == "A"


def test_shots_come_from_a_file_or_a_split(made: Made) -> None:
    rows = "question,answer,split\nOne?,1,dev\nTwo?,2,dev\nThree?,3,test\n"
    Path("a.csv").write_text(rows)
    settings = 'data = "a.csv"\nsplit = "split"\ntest = "test"\nshots = "dev"\n'
    assert asked(made("a.toml", settings))[0].context == "Question: Three?\nAnswer:"
    (request,) = asked(made("a.toml", settings + 'num_fewshot = 2\nheader = "Count.\\n"\n'))
    assert request.context == "Count.\nQuestion: One?\nAnswer: 1\n\nQuestion: Two?\nAnswer: 2\n\nQuestion: Three?\nAnswer:"
    (request,) = asked(made("a.toml", settings, Form(num_fewshot=1, chat=True, system="Count.")))
    assert request.messages == (
        ("system", "Count."),
        ("user", "Question: One?\nAnswer:"),
        ("assistant", "1"),
        ("user", "Question: Three?\nAnswer:"),
    )
    with pytest.raises(EvalkitError, match=r"a.toml: 3 shots, and there are 2 rows"):
        made("a.toml", settings, Form(num_fewshot=3))
    Path("b.jsonl").write_text('{"question": "One?", "answer": "1", "split": "x"}\n')
    (request,) = asked(made("a.toml", 'data = "b.jsonl"\nshots = "a.csv"\nnum_fewshot = 1\n'))
    assert request.context.startswith("Question: One?\nAnswer: 1\n\n")


@pytest.mark.parametrize(
    ("settings", "answer", "said", "metrics", "extracted"),
    [
        ("", "Paris", "\n Paris \nLyon", {"exact_match": 1.0}, "Paris"),
        ("", "Paris", "paris", {"exact_match": 0.0}, "paris"),
        ("", ["Paris", "paris"], "paris", {"exact_match": 1.0}, "paris"),
        ("", "Paris", "<think>Lyon?</think>\nParis", {"exact_match": 1.0}, "Paris"),
        ("", "Paris", " \n", {"exact_match": 0.0}, "[invalid]"),
        ('extraction = "exact"\nuntil = []', "a\nb", " a\nb ", {"exact_match": 1.0}, "a\nb"),
        ('extraction = "number"\nuntil = []', "1,200", "It is 7, or $1200.00.", {"exact_match": 1.0}, "1200.00"),
        ('extraction = "number"\nuntil = []', 12, "none", {"exact_match": 0.0}, "[invalid]"),
        ("extraction = \"regex\"\nuntil = []\npattern = 'is (\\w+)'", "Paris", "It is Paris. It is Lyon.", {"exact_match": 1.0}, "Paris"),
        ("extraction = \"regex\"\nuntil = []\npattern = 'P\\w+'", "Paris", "Rome", {"exact_match": 0.0}, "[invalid]"),
        (
            'metrics = ["quasi_exact_match", "exact_match"]',
            "The Hague",
            "the hague.",
            {"quasi_exact_match": 1.0, "exact_match": 0.0},
            "the hague.",
        ),
        ('metrics = ["contains"]', "New York", "It is New York, I think", {"contains": 1.0}, "It is New York, I think"),
        ('metrics = ["contains"]', "York", "It is Yorkshire", {"contains": 0.0}, "It is Yorkshire"),
        ('metrics = ["f1"]', "red apple", "a red pear", {"f1": 0.5}, "a red pear"),
    ],
)
def test_generated_answers(settings: str, answer: Any, said: str, metrics: dict[str, float], extracted: str, made: Made) -> None:
    Path("a.jsonl").write_text(json.dumps({"question": "One?", "answer": answer}))
    task = made("a.toml", f'data = "a.jsonl"\n{settings}\n')
    (doc,) = task.load(SampleSource())
    (request,) = task.requests(doc)
    assert isinstance(request, Generate)
    scored = task.score(doc, [Generated(said, "stop", 1)])
    assert (scored.metrics, scored.extracted, scored.extraction_failed) == (metrics, extracted, extracted == "[invalid]")
    assert task.protocol.headline == next(iter(metrics))


def test_ids_and_groups(made: Made) -> None:
    task = made("a.csv", "id,group,question,answer\nx,red,One?,1\ny,blue,Two?,2\n")
    docs = task.load(SampleSource())
    assert [(doc.id, doc.group, task.category(doc.group)) for doc in docs] == [("x", "red", "red"), ("y", "blue", "blue")]


CSV_FAULTS = [
    ("", "a.csv is empty"),
    (HEADER, "a header and no rows"),
    ("question,answer,foo\nx,y,z\n", "the column 'foo' has no meaning by itself"),
    ("question,choices\nx,a|b\n", "no column 'answer'"),
    ("question;answer\nx;y\n", "row 1: the cells are separated by ';'"),
    ("question,question\nx,y\n", "row 1: the header has the column 'question' twice"),
    ("question, answer\nx,y\n", "row 1: the header has the column ' answer'"),
    (HEADER + "q,a|b,C\n", r"row 2, column 'answer': 'C' is none of the choices \(A. a, B. b\)"),
    (HEADER + "q,a|b,b|a\n", "row 2, column 'answer': 'b|a' is none"),
    (HEADER + "q,a|b,1\n", "row 2, column 'answer': '1' may be an index from 0 or a number from 1"),
    (HEADER + "q,1|2|3,2\n", "row 2, column 'answer': '2' may be"),
    (HEADER + "q,B|A,A\n", "'A' may be a letter or a choice's text"),
    (HEADER + "q,a|b,A\nr,c|d,d\n", "row 3, column 'answer': 'd' is a choice's text, and 'A' in the first row is a letter"),
    (HEADER + f"q,a|b,{'1' * 5000}\n", "row 2, column 'answer'"),
    (HEADER + "q,a|a,A\n", "row 2, column 'choices': the choice 'a' is there twice"),
    (HEADER + "q,a,A\n", "row 2, column 'choices': 1 choices"),
    (HEADER + "q," + "|".join(f"c{i}" for i in range(27)) + ",A\n", "27 choices, and a question has 2 to 26"),
    (HEADER + "q,a||b,A\n", "row 2, column 'choices': the choice '' is no text"),
    (HEADER + "q,[a,A\n", "row 2, column 'choices': '.a' begins as a JSON list"),
    (HEADER + 'q,"' + "[" * 100_000 + '",A\n', "nested too deep"),
    (HEADER + 'q,"[1, 2]",A\n', "the choice 1 is no text"),
    (HEADER + " ,a|b,A\n", "row 2, column 'question': the cell is empty"),
    (HEADER + "q,a|b,\n", "row 2, column 'answer': the cell is empty"),
    (HEADER + "q,a|b,A\nr,a|b,B\nq,a|b,A\n", "a.csv row 4 asks the same as a.csv row 2"),
    (HEADER + "q,a|b\n", "row 2: 2 cells, and the header has 3"),
    (HEADER + '"q,a|b,A\n', "line 2: not valid CSV"),
    (HEADER + '"two\nlines",a|b,A\n\nr,a|b,E\n', r"row 3 \(line 5\), column 'answer': 'E' is none"),
    (HEADER + f"{'x' * 200_000},a|b,A\n", "line 2: not valid CSV"),
    (b"question,answer\n\xff,x\n", "not UTF-8 text"),
    (b"question,answer\nq,x\0\n", "row 2, column 'answer': a NUL character"),
    ("question,A,B,choices,answer\nq,x,y,x|y,x\n", "both a column 'choices' and the columns A, B"),
    ("question,A,answer\nq,x,x\n", "one column of choices, 'A'"),
    ("question,A,B,D,answer\nq,x,y,z,A\n", "has the columns A, B, D and no C"),
    ('question,answer\nq,"[""a"", ""b""]"\n', "row 2, column 'answer': .* may be a text or a list of answers"),
    ('question,answer\nq,"a\nb"\n', "row 2, column 'answer': 'a.nb' has several lines"),
    ("id,question,answer\n1,q,a\n1,r,b\n", "row 3, column 'id': the id '1' is that of a.csv row 2 too"),
    ("question,group,answer\nq,,a\n", "row 2, column 'group': the cell is empty"),
]


@pytest.mark.parametrize(("text", "words"), CSV_FAULTS)
def test_a_table_that_is_not_understood_is_refused(text: Any, words: str, made: Made) -> None:
    with pytest.raises(EvalkitError, match=words) as refused:
        made("a.csv", text)
    assert "\n" not in str(refused.value)


CHOICE = {"question": "q", "choices": ["a", "b"], "answer": 0}
JSON_FAULTS = [
    ([{"question": "q", "answer": "a"}, {"question": "r", "answer": None}], "line 2, column 'answer': None is no answer"),
    ([{"question": "q", "answer": "a"}, {"question": "r"}], "line 2: no column 'answer', which the first row has"),
    ([{"question": "q", "answer": "a"}, {"question": "r", "answer": "b", "x": 1}], "line 2: a column 'x'"),
    ([{"question": "q", "answer": float("nan")}], "line 1, column 'answer': nan is no number"),
    ([{"question": "q", "answer": []}], "an empty list of answers"),
    ([{"question": "q", "answer": {"a": 1}}], "is no answer"),
    ([{"question": 1, "answer": "a"}], "line 1, column 'question': 1 is no text"),
    ([{"question": "\ud800", "answer": "a"}], "half of a surrogate pair"),
    ([CHOICE | {"answer": True}], "line 1, column 'answer': True is no answer"),
    ([CHOICE, CHOICE | {"question": "r", "answer": "B"}], "line 2, column 'answer': 'B' is of another type than 0"),
    ([CHOICE, CHOICE | {"question": "r", "choices": ["a", None]}], "line 2, column 'choices': the choice None"),
    ([CHOICE | {"choices": 7}], "line 1, column 'choices': 7 is no list"),
    ([CHOICE | {"answer": -1}], "-1 is none of the choices"),
    ('{"question": "q", "question": "r", "answer": "x"}', 'the key "question" is there twice'),
    ("[1]", "item 1: 1 is no object"),
    ('{"question": "q"', "line 1: not valid JSON"),
    ([{"question": "x" * 131_073, "answer": "a"}], "131,073 characters, more than 131,072"),
]


@pytest.mark.parametrize(("rows", "words"), JSON_FAULTS)
def test_json_that_is_not_understood_is_refused(rows: Any, words: str, made: Made) -> None:
    with pytest.raises(EvalkitError, match=words) as refused:
        made("a.jsonl", rows)
    assert "\n" not in str(refused.value)


DESCRIPTION_FAULTS = [
    ('dta = "a.csv"', r"a.toml:1: dta is no key .*did you mean data"),
    ('prompt = "x"', "data is missing"),
    ('data = "none.csv"', "none.csv: no such file"),
    ('data = "a.toml"', "give a file that ends in .csv, .jsonl, .json"),
    ('data = "a.csv"\nmax_new_tokens = "x"', "a.toml:2: max_new_tokens"),
    ('data = "a.csv"\nquestion = "q"', "no column 'q'"),
    ('data = "a.csv"\nid = "answer"', "the column 'answer' is named for two things"),
    ('data = "a.csv"\nprompt = "{{ x }}"', "a.csv row 2: a.toml: prompt can't be rendered .*'x' is undefined"),
    ('data = "a.csv"\nprompt = "{{ answer }}"', "'answer' is undefined"),
    ('data = "a.csv"\nprompt = "{{ question"', "prompt is not a valid template"),
    ('data = "a.csv"\nprompt = "{{ question.__class__.__mro__ }}"', "does what the sandbox forbids"),
    ('data = "a.csv"\nprompt = "{% for i in range(10**9) %}x{% endfor %}"', "can't be rendered"),
    ('data = "a.csv"\nprompt = "{% include \'a.csv\' %}"', "can't be rendered"),
    ('data = "a.csv"\nprompt = " "', "its prompt is empty"),
    ('data = "a.csv"\nprompt = "{{ question }} "', "its prompt ends with a blank"),
    ('data = "b.jsonl"\nprompt = "{{ question }} {{ note }}"', "b.jsonl line 1: .*None would be written as it stands"),
    ('data = "a.csv"\nprompt = "x"', "a.csv row 3 asks the same"),
    ('data = "a.csv"\nscores = "texts"', "scores has no effect, since there are no choices"),
    ('data = "c.csv"\nuntil = ["x"]', "until has no effect, since choices are scored"),
    ('data = "c.csv"\nmetrics = ["f1"]', "metrics has 'f1'"),
    ('data = "a.csv"\nmetrics = ["acc"]', "metrics has 'acc'"),
    ('data = "a.csv"\nmetrics = ["f1", "f1"]', "name each once"),
    ('data = "a.csv"\nextraction = "regex"\nuntil = []', "go together"),
    ('data = "a.csv"\npattern = "x"', "go together"),
    ('data = "a.csv"\nextraction = "regex"\npattern = "("\nuntil = []', "no regular expression"),
    ('data = "a.csv"\nextraction = "regex"\npattern = "(a)(b)"\nuntil = []', "has 2 groups"),
    ('data = "a.csv"\nextraction = "exact"', "say where answers end"),
    ('data = "a.csv"\nextraction = "number"\nuntil = []', "a.csv row 2, column 'answer': 'a' holds 0 numbers"),
    ('data = "a.csv"\nuntil = ["a"]', "holds the stop string 'a'"),
    ('data = "a.csv"\nuntil = [""]', "until holds an empty text"),
    ('data = "a.csv"\nmax_new_tokens = 0', "max_new_tokens 0"),
    ('data = "a.csv"\nnum_fewshot = 1', "no rows are named for them"),
    ('data = "a.csv"\nnum_fewshot = 3\nshots = "a.csv"', "3 shots, and there are 2 rows"),
    ('data = "a.csv"\nnum_fewshot = 1\nshots = "c.csv"\nprompt = "x{{ question }}"\nuntil = ["A"]', "stop string 'A'"),
    ('data = "b.jsonl"\nsplit = "note"', "go together"),
    ('data = "b.jsonl"\nsplit = "note"\ntest = "x"', "no row of b.jsonl has note = 'x'"),
    ('data = "b.jsonl"\nsplit = "note"\ntest = "x"\nshots = "x"', "can't be their own examples"),
    ('data = "d.csv"\nquestion = "frage"', "has a column 'question' that is not its question"),
]


@pytest.mark.parametrize(("text", "words"), DESCRIPTION_FAULTS)
def test_a_description_that_is_not_understood_is_refused(text: str, words: str, made: Made) -> None:
    made("a.csv", "question,answer\nq,a\nr,b\n")
    made("c.csv", HEADER + "q,a|b,A\n")
    Path("b.jsonl").write_text('{"question": "q", "answer": "a", "note": null}\n')
    Path("d.csv").write_text("question,frage,answer\nx,q,a\n")
    with pytest.raises(EvalkitError, match=words) as refused:
        made("a.toml", text)
    assert "\n" not in str(refused.value)


def test_what_the_readers_say_of_any_bytes_is_one_line(made: Made) -> None:
    """Damaged files of all kinds: read, or refused in one line; never another exception."""
    sound = (HEADER + '"One, or\ntwo?","[""a"", ""b""]",B\nTwo?,c|d,A\n').encode()
    lines = b'{"question": "q", "choices": ["a", "b"], "answer": 0}\n{"question": "r", "choices": ["a", "b"], "answer": 1}\n'
    refused = []
    for name, raw in (("a.csv", sound), ("a.jsonl", lines)):
        for at in range(len(raw)):
            for changed in (raw[:at], raw[:at] + b'"' + raw[at + 1 :], raw[:at] + b"\xff" + raw[at:], raw[:at] + b"\x00" + raw[at:]):
                try:
                    asked(made(name, changed))
                except EvalkitError as error:
                    refused.append(str(error))
    assert len(refused) > 500
    assert not [text for text in refused if "\n" in text]
