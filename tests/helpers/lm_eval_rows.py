"""Rows for lm-eval's tasks in the schema of their datasets, made of a few facts of our own: a data folder as `--data` takes it.

`write(folder)` writes lm_eval/PATH/NAME/SPLIT.jsonl for every dataset of TASKS.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit_tasks.mmlu import SUBJECTS

# question, options, the right one's index
FACTS: Sequence[tuple[str, Sequence[str], int]] = (
    ("What melts ice", ("Heat", "Cold air", "Sand alone", "Wood"), 0),
    ("Which of these is a planet", ("The Moon", "Mars", "The Sun", "Sirius"), 1),
    ("What do green plants need to grow", ("Oil", "Glass", "Light", "Iron wire"), 2),
    ("What does a fish breathe with", ("Lungs", "Skin", "Feathers", "Gills"), 3),
    ("Where does rain come from", ("Clouds", "Stones", "Cars", "Fires"), 0),
    ("How many legs has a spider", ("Six", "Eight", "Ten", "Four"), 1),
    ("What is frozen water called", ("Steam", "Fog", "Ice", "Mud"), 2),
    ("Which metal is liquid in a warm room", ("Iron", "Gold", "Tin", "Mercury"), 3),
)
STORY = "Anna walked to the lake because it was warm. She swam for an hour and then she ate a red apple under the old oak tree."
LETTERS = "ABCD"
Rows = list[dict[str, Any]]


def _each(make: Any) -> Rows:
    return [make(i, *fact) for i, fact in enumerate(FACTS)]


def _arc(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    labels = list(LETTERS) if i % 3 else ["1", "2", "3", "4"]
    return {"id": f"q{i}", "question": f"{question}?", "choices": {"text": list(options), "label": labels}, "answerKey": labels[right]}


def _hellaswag(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    endings = [f"says {option.lower()} [substeps] and  goes home." for option in options]
    about = {"activity_label": "Quiz night", "ctx_a": f"A man asks: {question.lower()}.", "ctx_b": "his friend", "split": "val"}
    return {"ind": i, **about, "endings": endings, "label": str(right), "ctx": "", "split_type": "indomain", "source_id": f"s{i}"}


def _sentence_pair(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    return {"sentence1": f"{question}, asked Anna.", "sentence2": f"Anna asked about {options[right].lower()}.", "label": i % 2, "idx": i}


def _blank(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    text = f"Anna thanked Ben for {options[right].lower()} because _ had brought it number {i}."
    return {"sentence": text, "option1": "Anna", "option2": "Ben", "answer": str(i % 2 + 1)}


def _wsc(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    text = f"The city hall gave Ben {options[right].lower()} number {i} since he asked for it."
    return {
        "text": text,
        "pronoun": "he",
        "pronoun_loc": text.index(" he ") + 1,
        "options": ["The city hall", "Ben"],
        "label": 1,
        "quote": "he",
    }


def _race(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    problems = [{"question": f"{question}?", "answer": LETTERS[right], "options": list(options)}]
    problems.append({"question": "Anna walked to  _  .", "answer": "B", "options": ["school", "the lake", "a shop", "the sea"]})
    return {"article": STORY, "problems": str(problems if i % 2 else problems[::-1])}


def _copa(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    kind = ("cause", "effect")[i % 2]
    return {
        "premise": f"{options[right]} was in the garden.",
        "choice1": "It rained.",
        "choice2": "The sun rose.",
        "question": kind,
        "label": i % 2,
        "idx": i,
    }


def _truthful_choice(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    ordered = [options[right], *(each for each in options if each != options[right])]
    two = {"choices": [f"{each}." for each in (*ordered, "Nobody knows")], "labels": [1, 0, 0, 0, i % 2]}
    return {"question": f"{question}?", "mc1_targets": {"choices": ordered, "labels": [1, 0, 0, 0]}, "mc2_targets": two}


def _truthful_text(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    wrong = [each for each in options if each != options[right]]
    best = options[right]
    return {
        "question": f"{question}?",
        "best_answer": best,
        "correct_answers": [best, f"It is {best}."],
        "incorrect_answers": wrong,
        "source": "ours",
    }


def _mmlu(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    return {"question": f" {question}? ", "subject": "s", "choices": list(options), "answer": right}


def _mmlu_pro(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    reasoned = f"A: Let's think step by step. It is known. The answer is ({LETTERS[right]})."
    category = {"question_id": i, "category": "biology", "cot_content": reasoned, "src": "ours"}
    return {**category, "question": f"{question}?", "options": list(options), "answer": LETTERS[right], "answer_index": right}


def _gpqa(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    wrong = [each for each in options if each != options[right]]
    return {
        "Question": f"{question}?",
        "Correct Answer": options[right],
        **{f"Incorrect Answer {k + 1}": each for k, each in enumerate(wrong)},
    }


def _sum(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    return {
        "question": f"Ben has {i + 2} apples and buys {right + 3} more. How many has he?",
        "answer": f"{i + 2}+{right + 3}={i + right + 5}\n#### {i + right + 5}",
    }


def _mgsm(i: int, question: str, options: Sequence[str], right: int, shot: bool) -> dict[str, Any]:
    text = f"Ben tiene {i + 2} manzanas y compra {right + 3}. ¿Cuántas tiene?"
    about = {"answer_number": i + right + 5, "equation_solution": None}
    return {
        **about,
        "question": f"Pregunta: {text}" if shot else text,
        "answer": f"Respuesta paso a paso: La respuesta es {i + right + 5}." if shot else None,
    }


def _math(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    return {
        "problem": f"What is ${i} + {right}$?",
        "solution": f"We add and get $\\boxed{{{i + right}}}$.",
        "level": "Level 1",
        "type": "Algebra",
    }


def _drop(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    no_date = {"day": "", "month": "", "year": ""}
    answer = {"number": str(i) if i % 2 else "", "date": no_date, "spans": [] if i % 2 else [options[right]], "worker_id": "", "hit_id": ""}
    others = {key: [answer[key]] for key in answer} | {"spans": [[options[0], options[1]]], "number": [""]}
    return {
        "section_id": f"s{i}",
        "query_id": f"q{i}",
        "passage": STORY,
        "question": f"{question}?",
        "answer": answer,
        "validated_answers": others,
    }


def _qasper(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    answer = {"unanswerable": False, "yes_no": bool(i % 2), "free_form_answer": "", "extractive_spans": []}
    return {"title": f"On {options[right]}", "abstract": STORY, "qas": {"question": [f"{question}?"], "answers": [{"answer": [answer]}]}}


def _ifeval(i: int, question: str, options: Sequence[str], right: int) -> dict[str, Any]:
    return {
        "key": i,
        "prompt": f"{question}? Use no commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{"num_words": None}],
    }


def _parts(**splits: Any) -> dict[str, Rows]:
    return {name: rows if isinstance(rows, list) else _each(rows) for name, rows in splits.items()}


DATASETS: Mapping[str, Mapping[str, Rows]] = {
    "allenai/ai2_arc/ARC-Easy": _parts(train=_arc, validation=_arc, test=_arc),
    "allenai/ai2_arc/ARC-Challenge": _parts(train=_arc, validation=_arc, test=_arc),
    "allenai/openbookqa/main": _parts(
        **{s: lambda i, q, o, r: {**_arc(1, q, o, r), "question_stem": q} for s in ("train", "validation", "test")}
    ),
    "allenai/sciq/default": _parts(
        **{
            split: lambda i, q, o, r: {
                "question": f"{q}?",
                "support": f" {STORY}" if i % 2 else "",
                "correct_answer": o[r],
                **{f"distractor{k + 1}": each for k, each in enumerate(x for x in o if x != o[r])},
            }
            for split in ("train", "validation", "test")
        }
    ),
    "aps/super_glue/copa": _parts(train=_copa, validation=_copa),
    "aps/super_glue/boolq": _parts(
        **{
            s: lambda i, q, o, r: {"passage": STORY, "question": f"is it {o[r].lower()}", "label": i % 2, "idx": i}
            for s in ("train", "validation")
        }
    ),
    "aps/super_glue/cb": _parts(
        **{
            s: lambda i, q, o, r: {"premise": STORY, "hypothesis": f"Anna knows {o[r].lower()}", "label": i % 3, "idx": i}
            for s in ("train", "validation")
        }
    ),
    "aps/super_glue/wic": _parts(
        **{
            s: lambda i, q, o, r: {
                "sentence1": f"The {o[r].lower()} here.",
                "sentence2": f"No {o[r].lower()} there.",
                "start1": 4,
                "end1": 4 + len(o[r]),
                "label": i % 2,
            }
            for s in ("train", "validation")
        }
    ),
    "aps/super_glue/multirc": _parts(
        **{
            s: lambda i, q, o, r: {
                "paragraph": STORY,
                "question": f"{q}?",
                "answer": o[0],
                "label": int(r == 0),
                "idx": {"paragraph": 0, "question": i, "answer": 0},
            }
            for s in ("train", "validation")
        }
    ),
    "nyu-mll/glue/rte": _parts(train=_sentence_pair, validation=_sentence_pair),
    "nyu-mll/glue/mrpc": _parts(train=_sentence_pair, validation=_sentence_pair),
    "nyu-mll/glue/cola": _parts(
        **{s: lambda i, q, o, r: {"sentence": f"{q} is it.", "label": i % 2, "idx": i} for s in ("train", "validation")}
    ),
    "nyu-mll/blimp/adjunct_island": _parts(train=lambda i, q, o, r: {"sentence_good": f"{q}?", "sentence_bad": f"{q[::-1]}?"}),
    "EleutherAI/race/high": _parts(test=_race),
    "Rowan/hellaswag/default": _parts(train=_hellaswag, validation=_hellaswag),
    "allenai/winogrande/winogrande_xl": _parts(train=_blank, validation=_blank),
    "Muennighoff/xwinograd/en": _parts(test=_blank),
    "lighteval/winograd_wsc/wsc273": _parts(test=_wsc),
    "baber/piqa/default": _parts(
        **{s: lambda i, q, o, r: {"goal": f"{q}?", "sol1": o[0], "sol2": o[1], "label": i % 2} for s in ("train", "validation")}
    ),
    "truthfulqa/truthful_qa/multiple_choice": _parts(validation=_truthful_choice),
    "truthfulqa/truthful_qa/generation": _parts(validation=_truthful_text),
    "facebook/belebele/deu_Latn": _parts(
        test=lambda i, q, o, r: {
            "flores_passage": STORY,
            "question": f" {q}? ",
            **{f"mc_answer{k + 1}": each for k, each in enumerate(o)},
            "correct_answer_num": str(r + 1),
        }
    ),
    "cambridgeltl/xcopa/it": _parts(validation=_copa, test=_copa),
    "google-research-datasets/paws-x/de": _parts(train=_sentence_pair, validation=_sentence_pair, test=_sentence_pair),
    "TIGER-Lab/MMLU-Pro/default": _parts(validation=_mmlu_pro, test=_mmlu_pro),
    "Idavidrein/gpqa/gpqa_main": _parts(train=_gpqa),
    "EleutherAI/logiqa/logiqa": _parts(
        **{
            s: lambda i, q, o, r: {"context": STORY, "question": f"{q}?", "options": list(o), "label": "abcd"[r]}
            for s in ("train", "validation", "test")
        }
    ),
    "EleutherAI/headqa/en": _parts(
        **{
            s: lambda i, q, o, r: {"qtext": f"{q}?", "ra": r + 1, "answers": [{"aid": k + 1, "atext": each} for k, each in enumerate(o)]}
            for s in ("train", "validation", "test")
        }
    ),
    "tau/commonsense_qa/default": _parts(
        **{
            s: lambda i, q, o, r: {"question": f"{q}?", "choices": {"label": list("ABCDE"), "text": [*o, "None"]}, "answerKey": LETTERS[r]}
            for s in ("train", "validation")
        }
    ),
    "allenai/swag/regular": _parts(
        **{
            s: lambda i, q, o, r: {"startphrase": q, **{f"ending{k}": each for k, each in enumerate(o)}, "label": r}
            for s in ("train", "validation")
        }
    ),
    "facebook/anli/default": _parts(
        **{
            s: lambda i, q, o, r: {"premise": STORY, "hypothesis": f"It is {o[r].lower()}.", "label": i % 3}
            for s in ("train_r1", "dev_r1", "test_r1")
        }
    ),
    "lighteval/siqa/default": _parts(
        **{
            s: lambda i, q, o, r: {
                "context": STORY,
                "question": f"{q}?",
                "answerA": o[0],
                "answerB": o[1],
                "answerC": o[2],
                "label": str(min(r, 2) + 1),
            }
            for s in ("train", "validation")
        }
    ),
    "skt/kobest_v1/boolq": _parts(
        **{s: lambda i, q, o, r: {"paragraph": STORY, "question": f"{q}?", "label": i % 2} for s in ("train", "validation", "test")}
    ),
    "allenai/qasper/default": _parts(train=_qasper, validation=_qasper),
    "stanfordnlp/web_questions/default": _parts(
        **{s: lambda i, q, o, r: {"question": f"{q}?", "answers": [o[r], f"{o[r]} indeed", o[0]], "url": ""} for s in ("train", "test")}
    ),
    "cimec/lambada/default": _parts(**{s: lambda i, q, o, r: {"text": f"{STORY} {q} {o[r].split()[-1]}"} for s in ("validation", "test")}),
    "EleutherAI/lambada_openai/default": _parts(test=lambda i, q, o, r: {"text": f"{STORY} {q} {o[r].split()[-1]}"}),
    "EleutherAI/asdiv/default": _parts(
        validation=lambda i, q, o, r: {
            "body": f"Ben has {i} pens.",
            "question": f"How many if he gets {r} more?",
            "answer": f"{i + r} (pens)",
        }
    ),
    "EleutherAI/wikitext_document_level/wikitext-2-raw-v1": _parts(
        **{
            s: lambda i, q, o, r: {"page": f" = {o[r]} = \n\n {STORY} @-@ {q} . " + "It is so . " * 10 * i}
            for s in ("train", "validation", "test")
        }
    ),
    "EleutherAI/pile/pile_arxiv": _parts(
        train=lambda i, q, o, r: {"text": f"{q}? {STORY} {o[r]}" * (i + 1), "meta": {"pile_set_name": "ArXiv"}}
    ),
    "openai/gsm8k/main": _parts(train=_sum, test=_sum),
    "juletxara/mgsm/es": _parts(
        train=[_mgsm(i, *fact, shot=True) for i, fact in enumerate(FACTS)],
        test=[_mgsm(i, *fact, shot=False) for i, fact in enumerate(FACTS)],
    ),
    "mandarjoshi/trivia_qa/rc.nocontext": _parts(
        **{
            s: lambda i, q, o, r: {"question": q, "answer": {"value": o[r], "aliases": [o[r], o[r].upper()]}}
            for s in ("train", "validation")
        }
    ),
    "google-research-datasets/nq_open/default": _parts(
        **{s: lambda i, q, o, r: {"question": q, "answer": [o[r]]} for s in ("train", "validation")}
    ),
    "SaylorTwift/bbh/boolean_expressions": _parts(
        test=lambda i, q, o, r: {"input": f"not {'True' if i % 2 else 'False'} is", "target": "False" if i % 2 else "True"}
    ),
    "EleutherAI/hendrycks_math/algebra": _parts(train=_math, test=_math),
    "EleutherAI/drop/default": _parts(train=_drop, validation=_drop),
    "EleutherAI/unscramble/mid_word_1_anagrams": _parts(
        validation=lambda i, q, o, r: {"context": f"{o[r][::-1]} is a mixed word. The word is", "completion": f" {o[r]}"}
    ),
    "Muennighoff/babi/default": _parts(
        **{
            s: lambda i, q, o, r: {"passage": f"{STORY}\n", "question": f"{q}?", "answer": o[r], "task": 1}
            for s in ("train", "valid", "test")
        }
    ),
    "wmt/wmt16/de-en": _parts(
        **{
            s: lambda i, q, o, r: {"translation": {"en": f"{q}?", "de": f"Es ist {o[r]} und das ist gut so."}}
            for s in ("train", "validation", "test")
        }
    ),
    "hazyresearch/based-squad/default": _parts(validation=lambda i, q, o, r: {"text": f" {STORY} {q}?", "value": o[r], "title": "t"}),
    "hazyresearch/based-fda/default": _parts(validation=lambda i, q, o, r: {"text": f"{STORY} {q}: ", "value": o[r], "key": "k"}),
    "google/IFEval/default": _parts(train=_ifeval),
    "openlifescienceai/medmcqa/default": _parts(
        **{
            s: lambda i, q, o, r: {"question": q, "opa": o[0], "opb": o[1], "opc": o[2], "opd": o[3], "cop": r}
            for s in ("train", "validation")
        }
    ),
    "LSDSem/story_cloze/2016": _parts(
        **{
            s: lambda i, q, o, r: {
                **{f"input_sentence_{k}": f"Sentence {k} of {q.lower()}." for k in (1, 2, 3, 4)},
                "sentence_quiz1": o[0],
                "sentence_quiz2": o[1],
                "answer_right_ending": i % 2 + 1,
            }
            for s in ("validation", "test")
        }
    ),
    **{f"cais/mmlu/{subject}": {"dev": _each(_mmlu)[:5], "test": _each(_mmlu)[: 3 + k % 5]} for k, subject in enumerate(SUBJECTS)},
}
# files that a task names in a repository of the hub
FILES: Mapping[str, Rows] = {
    "EleutherAI/arithmetic/data/single_digit_three_ops.jsonl": _each(
        lambda i, q, o, r: {"context": f"Question: What is ({i} + {r}) * 2?\n\nAnswer:", "completion": f" {2 * (i + r)}"}
    ),
    "corypaik/prost/data/default.jsonl": _each(
        lambda i, q, o, r: {
            "context": STORY,
            "ex_question": f"{q}?",
            **dict(zip(LETTERS, o, strict=True)),
            "label": r,
            "name": "n",
            "group": "g",
        }
    ),
}


def write(folder: Path) -> Path:
    """Every dataset below `folder`, which is returned."""
    for name, splits in DATASETS.items():
        for split, rows in splits.items():
            _write(folder / "lm_eval" / name / f"{split}.jsonl", rows)
    for name, rows in FILES.items():
        _write(folder / "lm_eval" / name, rows)
    return folder


def _write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
