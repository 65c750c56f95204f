"""A program that uses evalkit as docs/library.md has it: `make check` holds the types, test_library.py runs it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, assert_type

import evalkit
from evalkit.stats.estimate import Estimate
from evalkit.tasks import Generate, Loglikelihood


class Shortest:
    """A model with the three methods: the shortest option, and one answer to every question."""

    def loglikelihood(self, requests: list[Loglikelihood]) -> Iterator[list[tuple[float, bool]]]:
        for request in requests:
            yield [(-1.0 * len(each), False) for each in request.continuations]

    def loglikelihood_rolling(self, texts: list[str]) -> list[float]:
        return [-1.0 * len(text) for text in texts]

    def generate(self, requests: list[Generate]) -> list[str]:
        return ["The answer is 18." for _ in requests]

    def fingerprint(self) -> str:
        return "shortest 1"


def by_name(model: Path, out: Path) -> evalkit.Run:
    return evalkit.run("mmlu", model, data="sample", limit=6, out=out)


def by_object(out: Path) -> evalkit.Run:
    return evalkit.run(["mmlu", "gsm8k@lm-eval"], model=Shortest(), data="sample", limit=6, out=out, name="object")


def by_function(out: Path) -> evalkit.Run:
    return evalkit.run(tasks=["gsm8k@lm-eval"], model=lambda prompt: "#### 18", data="sample", limit=6, out=out, name="function")


def figure(folder: Path) -> Estimate:
    run = evalkit.load_run(folder)
    assert_type(run.is_complete, bool)
    assert_type(run.folder, Path)
    assert_type(run.tasks["mmlu"].metrics["acc"].ci95, tuple[float, float])
    assert_type([row.doc_id for row in run.samples("mmlu")], list[str])
    return run.tasks["mmlu"].metrics["acc"]


def judged(base: evalkit.Run, cand: Path) -> Literal["fail", "cannot detect", "inconclusive", "pass"]:
    compared = evalkit.compare(base, cand, tasks="mmlu")
    assert_type(compared, evalkit.Comparison)
    assert_type(compared.tasks[0].difference.value, float)
    gate = evalkit.gate(base, cand, margin={"mmlu": 0.4}, tasks=["mmlu"], allow_small_margin=True)
    assert_type(gate, evalkit.Gate)
    assert_type(gate.passed, bool)
    return gate.word
