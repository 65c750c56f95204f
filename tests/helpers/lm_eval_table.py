"""lm-eval's tasks that are held to lm-eval itself, and their table in docs/lm-eval-tasks.md: `python tests/helpers/lm_eval_table.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalkit.tasks.lm_eval.code import functions_of
from evalkit.tasks.lm_eval.index import index
from evalkit.tasks.lm_eval.tree import Group, members_of

PAGE = Path(__file__).parents[2] / "docs" / "lm-eval-tasks.md"
BEGIN, END = "<!-- table of tasks -->\n", "<!-- end of the table of tasks -->\n"
HEAD = "| task | output | shots | runs code | dataset |\n|---|---|---|---|---|\n"

# a task, or a group -> what is set; every number of shots but the file's own is ours
TASKS: Mapping[str, Mapping[str, Any]] = {
    # multiple_choice
    "arc_easy": {},
    "arc_challenge": {"num_fewshot": 3},
    "openbookqa": {},
    "sciq": {"num_fewshot": 1},
    "piqa": {"num_fewshot": 2},
    "hellaswag": {"num_fewshot": 2},
    "winogrande": {"num_fewshot": 3},
    "wsc273": {},
    "xwinograd_en": {},
    "copa": {"num_fewshot": 1},
    "xcopa_it": {},
    "paws_de": {"num_fewshot": 2},
    "boolq": {"num_fewshot": 2},
    "cb": {"num_fewshot": 1},
    "wic": {},
    "multirc": {},
    "rte": {"num_fewshot": 2},
    "mrpc": {},
    "cola": {"num_fewshot": 4},
    "race": {},
    "belebele_deu_Latn": {"num_fewshot": 2},
    "truthfulqa_mc1": {},
    "truthfulqa_mc2": {},
    "mmlu_anatomy": {"num_fewshot": 5},
    "gpqa_main_zeroshot": {},
    "logiqa": {},
    "headqa_en": {},
    "commonsense_qa": {"num_fewshot": 2},
    "swag": {},
    "anli_r1": {"num_fewshot": 1},
    "social_iqa": {},
    "medmcqa": {"num_fewshot": 2},
    "storycloze_2016": {},
    "kobest_boolq": {},
    "qasper_bool": {},
    "webqs": {},
    "prost": {},
    "blimp_adjunct_island": {},
    # loglikelihood
    "lambada_openai": {},
    "lambada_standard": {"num_fewshot": 2},
    "asdiv": {"num_fewshot": 1},
    "arithmetic_1dc": {"num_fewshot": 2},
    # loglikelihood_rolling
    "wikitext": {},
    "pile_arxiv": {},
    # generate_until
    "gsm8k": {},
    "gsm8k_cot": {},
    "gsm8k_cot_self_consistency": {},
    "mgsm_direct_es": {"num_fewshot": 2},
    "triviaqa": {"num_fewshot": 2},
    "nq_open": {"num_fewshot": 2},
    "truthfulqa_gen": {},
    "bbh_cot_fewshot_boolean_expressions": {},
    "bbh_zeroshot_boolean_expressions": {},
    "mmlu_pro_biology": {},
    "minerva_math_algebra": {},
    "hendrycks_math_algebra": {"num_fewshot": 2},
    "drop": {"num_fewshot": 2},
    "anagrams1": {},
    "babi": {"num_fewshot": 1},
    "wmt16-en-de": {"num_fewshot": 1},
    "ifeval": {},
    "squad_completion": {},
    "fda": {},
    # groups
    "mmlu": {"num_fewshot": 2},
}
NEEDS = {
    "minerva_math_algebra": "math_verify",
    "ifeval": "langdetect",
}


def table() -> str:
    """A row a task, by what its file says."""
    return HEAD + "".join(map(_row, TASKS))


def read_table(text: str) -> str:
    """The table that a page has."""
    return text.partition(BEGIN)[2].partition(END)[0]


def _row(name: str) -> str:
    (member,) = members_of(name, index(None))
    leaves = list(member.leaves())
    config = leaves[0].config
    shots = TASKS[name].get("num_fewshot", config.get("num_fewshot") or 0)
    output = "a class of its own" if "class" in config else str(config.get("output_type", "generate_until"))
    if isinstance(member, Group):
        output += f", a group of {len(leaves)}"
    code = "yes" if any(any(functions_of(leaf.config)) for leaf in leaves) else ""
    place = " ".join(filter(None, (config.get("dataset_path"), None if isinstance(member, Group) else config.get("dataset_name"))))
    needs = f", needs {NEEDS[name]}" if name in NEEDS else ""
    return f"| {name} | {output} | {shots} | {code}{needs} | {place} |\n"


if __name__ == "__main__":
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
