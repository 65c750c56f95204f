"""evalkit verify: passes on the real engine, and fails on engines whose answers depend on their neighbours."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalkit.cli import _Parser
from evalkit.cli.verify import add
from evalkit.config import RunConfig
from evalkit.errors import EvalkitError
from evalkit.lm.base import LM
from evalkit.lm.models import MODELS, local_path
from evalkit.lm.native import NativeLM
from evalkit.progress import Reporter
from evalkit.runner.verify import LAYOUTS, verify
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = RunConfig(("mmlu@cloze", "gsm8k@lm-eval"), data="sample", limit=2)


class Short(NativeLM):
    """The native engine with short answers."""

    def generate_tokens(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated, list[int]]]:
        return super().generate_tokens([replace(request, max_new_tokens=6) for request in requests])


class ScoresByNeighbours(Short):
    """The last bit of a score depends on how many are asked together, as a BLAS does it to a careless engine."""

    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        for i, answer in super().loglikelihood(requests):
            first, *others = answer.logprobs
            yield i, replace(answer, logprobs=(first + (2e-6 if len(requests) > 1 else 0.0), *others))


class TokensByBatch(Short):
    """One answer's tokens depend on how many run at a time; its text does not."""

    def generate_tokens(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated, list[int]]]:
        for i, answer, tokens in super().generate_tokens(requests):
            changed = i == 0 and self.generator.max_running == 8
            yield i, answer, [*tokens[:-1], tokens[-1] + 1] if changed else tokens


class ByOrder(LM):
    """An engine that can't be laid out, and that answers by position."""

    fingerprint = "sha256:0"

    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        for i, request in enumerate(requests):
            yield i, Loglikelihoods((-1.0 - i,) * len(request.continuations), (False,) * len(request.continuations))

    def loglikelihood_rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
        raise NotImplementedError

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        yield from ((i, Generated("same", "eos", 1)) for i in range(len(requests)))

    def describe(self) -> dict[str, Any]:
        return {}


def opening(engine: type[NativeLM], tiny_model: Path) -> Any:
    return lambda model: engine.load(replace(model, spec=str(tiny_model)))


def test_the_native_engine_is_invariant(tiny_model: Path) -> None:
    report = verify(CONFIG, Reporter(quiet=True), opening(Short, tiny_model))
    assert report.is_invariant
    assert report.num_docs == 4
    assert [outcome.layout for outcome in report.outcomes] == list(LAYOUTS)
    assert {outcome.largest for outcome in report.outcomes} == {0.0}
    # each alone shares no header: that layout computes it again for each question
    computed = [outcome.computed for outcome in report.outcomes]
    assert computed[-1] > computed[0] > 0
    assert all(outcome.seconds > 0 for outcome in report.outcomes)


def test_a_score_that_depends_on_its_neighbours_is_found(tiny_model: Path) -> None:
    report = verify(replace(CONFIG, tasks=("mmlu@cloze",)), Reporter(quiet=True), opening(ScoresByNeighbours, tiny_model))
    *together, in_parts, alone = report.outcomes
    assert not report.is_invariant
    assert not any(outcome.differing for outcome in together)
    for found in (in_parts, alone):
        assert [document.split()[0] for document in found.differing] == ["mmlu"] * 2
        assert 1e-6 < found.largest < 3e-6


def test_a_token_that_depends_on_the_batch_is_found(tiny_model: Path) -> None:
    report = verify(replace(CONFIG, tasks=("gsm8k@lm-eval",)), Reporter(quiet=True), opening(TokensByBatch, tiny_model))
    assert [len(outcome.differing) for outcome in report.outcomes] == [0, 0, 1, 0, 0, 1, 0, 0]


def test_other_engines_are_asked_in_other_orders(tiny_model: Path) -> None:
    report = verify(CONFIG, Reporter(quiet=True), lambda config: ByOrder())
    names = ["as a run has it", "shuffled", "in 4 parts, prefixes kept", "each alone, nothing shared"]
    assert [outcome.layout.name for outcome in report.outcomes] == names
    assert not report.is_invariant
    assert max(outcome.largest for outcome in report.outcomes) >= 1


def command(*arguments: str) -> int:
    parser = _Parser()
    add(parser.add_subparsers())
    parsed = parser.parse_args(["verify", "--data", "sample", "--limit", "2", *arguments])
    return int(parsed.command(parsed))


def test_exit_codes_and_the_table(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--tasks", "mmlu", "--model", str(tiny_model)) == 0
    out = capsys.readouterr().out
    assert "2 documents in 8 layouts" in out
    assert "invariant: every log-probability and every generated token is the same in all 8 layouts (native, float32, cpu)" in out
    for layout in LAYOUTS:
        assert layout.name in out
    monkeypatch.setattr("evalkit.lm.native.NativeLM", ScoresByNeighbours)
    assert command("--tasks", "mmlu@cloze", "--model", str(tiny_model)) == 1
    out = capsys.readouterr().out
    assert "each alone, nothing shared: 2 of 2 documents differ: mmlu" in out
    assert "not invariant: an answer of this model depends on what is asked beside it" in out


def test_refusals() -> None:
    with pytest.raises(EvalkitError, match="did you mean 'mmlu'"):
        command("--tasks", "mmul")
    with pytest.raises(EvalkitError, match="no task given"):
        command("--tasks", ",")
    with pytest.raises(EvalkitError, match="unknown engine"):
        command("--tasks", "mmlu", "--engine", "vllm")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["mmlu", "gsm8k"])
def test_the_demo_model_is_invariant(task: str) -> None:
    if local_path(MODELS["demo"]) is None:
        pytest.skip("the demo model is not installed")
    assert verify(RunConfig((task,), data="sample", limit=8), Reporter(quiet=True)).is_invariant
