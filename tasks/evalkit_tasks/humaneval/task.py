"""HumanEval: 164 functions to write from their signature and docstring (Chen et al. 2021, arXiv 2107.03374).

A completion passes if the problem's own test does, in the sandbox. pass@k is the unbiased estimate over n samples per problem.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evalkit.tasks import (
    NOT_EMPTY,
    Answers,
    CodeTask,
    DataSource,
    Doc,
    EvalkitError,
    Form,
    FunctionCheck,
    Generate,
    Generated,
    Protocol,
    Ran,
    ReadsAnswers,
    Request,
    Response,
    Rule,
    Scored,
    Table,
    at_least,
    in_form,
    list_of,
    one_of,
    sha256_json,
    template,
)
from evalkit_tasks.humaneval import answers
from evalkit_tasks.humaneval.extraction import EXTRACTIONS, Extracted
from evalkit_tasks.humaneval.problems import EVALPLUS_FILE, PROBLEMS, TABLE
from evalkit_tasks.protocol_files import Settings, make_protocol, read_protocols

KS = (1, 10, 100)
SETTINGS: Settings = {
    "problems": one_of(*PROBLEMS),
    "prompt": template("prompt", "stripped"),
    "chat": bool,
    "answer_prefix": template("prompt", "stripped"),
    "until": list_of(NOT_EMPTY, 0),
    "max_new_tokens": at_least(1),
    "max_total_tokens": at_least(0),
    "extraction": one_of(*EXTRACTIONS),
}
CANONICAL: Settings = {"canonical_passing": at_least(0)}
RULES = (Rule("headline", "pass@1, pass@10 or pass@100", lambda row: row["headline"] in {f"pass@{k}" for k in KS}),)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k). Needs k <= n."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


class HumanEval(CodeTask, ReadsAnswers):
    name = "humaneval"
    protocols = read_protocols("humaneval", {**SETTINGS, **CANONICAL})
    default_protocol = "qwen"
    given_protocol = "given"
    official_n = 164
    text_files = (EVALPLUS_FILE,)
    official_sha256 = "c73c472f1c42c46f67395c0f09fb83071a7abfbb31c305b05e4efa873353d047"

    @classmethod
    def protocol_of(cls, name: str, table: Mapping[str, Any]) -> Protocol:
        return make_protocol("humaneval", name, table, SETTINGS, CANONICAL, RULES)

    @classmethod
    def in_form(cls, protocol: Protocol, form: Form) -> Protocol:
        if form.chat and not protocol.settings["chat"]:
            chats = ", ".join(f"humaneval@{name}" for name, each in cls.protocols.items() if each.settings["chat"])
            raise EvalkitError(
                f"{protocol} has the model continue a program, which no conversation does; leave --apply-chat-template out, or take {chats}"
            )
        if form.num_fewshot or form.system is not None:
            raise EvalkitError(f"{protocol} has no shots and no system message, and {form.suffix} would add one; leave it out")
        return in_form(protocol, form, 0, protocol.settings["chat"])

    @classmethod
    def tables(cls, source: DataSource) -> list[Table]:
        return [TABLE]

    def load(self, source: DataSource) -> list[Doc]:
        return [Doc(row["task_id"], "all", row) for row in PROBLEMS[self.protocol.settings["problems"]](source)]

    def requests(self, doc: Doc) -> Sequence[Request]:
        settings, sampling = self.protocol.settings, self.sampling
        prompt, begun = (self._text(settings[name], doc) for name in ("prompt", "answer_prefix"))
        seeds = [int(sha256_json([self.name, sampling.seed, doc.id, i])[:8], 16) for i in range(sampling.repeats)]
        if not sampling.temperature:
            seeds = [0]  # there is one greedy answer, whatever the seed
        request = Generate(
            context=begun if settings["chat"] else prompt + begun,
            until=tuple(settings["until"]),
            max_new_tokens=settings["max_new_tokens"],
            temperature=sampling.temperature or 0.0,
            messages=(("user", prompt),) if settings["chat"] else (),
            max_total_tokens=settings["max_total_tokens"] or None,
        )
        return [replace(request, seed=seed) for seed in seeds]

    def _text(self, template: str, doc: Doc) -> str:
        return template.format(prompt=doc.fields["prompt"], stripped=doc.fields["prompt"].strip())

    def read_answers(self, text: str, name: str, docs: Sequence[Doc]) -> Answers:
        return answers.read(text, name, docs)

    def programs(self, doc: Doc, responses: Sequence[Response]) -> Sequence[FunctionCheck]:
        return [self._check(doc.fields, response.text) for response in responses if isinstance(response, Generated)]

    def _check(self, row: Mapping[str, Any], answer: str) -> FunctionCheck:
        extracted = self.extracted(answer, row)
        whole = EXTRACTIONS[self.protocol.settings["extraction"]].whole
        found = replace(check(row, extracted.text), whole=whole, found=extracted.found)
        return found if extracted.helpers is None else replace(found, prompt=extracted.helpers)

    def remark(self) -> str | None:
        passing = self.protocol.settings.get("canonical_passing", self.official_n)
        if passing == self.official_n:
            return None
        broken, ceiling = self.official_n - passing, 100 * passing / self.official_n
        return f"the protocol's cut breaks {broken} of the {self.official_n} canonical solutions: its ceiling is {ceiling:.1f}"

    def extracted(self, answer: str, row: Mapping[str, Any]) -> Extracted:
        """What is run of an answer to the problem, as the protocol has it."""
        settings = self.protocol.settings
        return EXTRACTIONS[settings["extraction"]].read(answer, settings["until"], row)

    def score_programs(self, doc: Doc, ran: Sequence[Ran]) -> Scored:
        n, c = len(ran), sum(r.passed for r in ran)
        metrics = {f"pass@{k}": pass_at_k(n, c, k) for k in KS if k <= n}
        extracted = "\n".join(map(str, ran))
        return Scored(metrics, extracted, "passed")


def check(row: Mapping[str, Any], completion: str) -> FunctionCheck:
    """The program that decides about a completion."""
    return FunctionCheck(row["prompt"], completion, row["test"], row["entry_point"], cpu_seconds=row.get("cpu_seconds"))


TASKS = (HumanEval,)
