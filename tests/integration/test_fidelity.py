"""evalkit fidelity on tiny models: what identical and changed copies cost, what is refused, kept and resumed."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from tiny_models import logits

from evalkit import cli
from evalkit.config import ModelSpec
from evalkit.data.sources import open_source
from evalkit.errors import EvalkitError, Interrupted
from evalkit.fidelity import measure
from evalkit.fidelity.config import FidelityConfig
from evalkit.fidelity.document import to_document
from evalkit.fidelity.fidelity import fidelity
from evalkit.fidelity.record import Fidelity
from evalkit.fidelity.screen import write
from evalkit.lm.base import LM
from evalkit.lm.distributions import NextToken, TokenRequest
from evalkit.lm.native import NativeLM
from evalkit.progress import Reporter
from evalkit.runner.plan import plan
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods
from evalkit.tasks.registry import resolve
from moe_lm.checkpoint.read import load
from moe_lm.checkpoint.write import save

pytestmark = pytest.mark.usefixtures("one_thread")
QUIET = Reporter(quiet=True)


class Short(NativeLM):
    """The native engine with short answers."""

    def generate_tokens(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated, list[int]]]:
        return super().generate_tokens([replace(request, max_new_tokens=12) for request in requests])


@pytest.fixture(scope="module")
def noisy(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with every weight changed a little."""
    return changed(tiny_model, tmp_path_factory.mktemp("noisy") / "noisy", 0.02)


def changed(source: Path, folder: Path, noise: float) -> Path:
    loaded = load(source)
    rng = torch.Generator().manual_seed(1)
    for parameter in loaded.model.parameters():
        parameter.add_(noise * parameter.abs().mean() * torch.randn(parameter.shape, generator=rng))
    save(loaded.model, loaded.tokenizer, folder)
    return folder


def config(reference: Path, *copies: object, tasks: Sequence[str] = ("mmlu@cloze",), limit: int = 4, **settings: Any) -> FidelityConfig:
    return FidelityConfig(str(reference), tuple(map(str, copies)), tuple(tasks), data="sample", limit=limit, **settings)


def requests_of(asked: FidelityConfig) -> list[Any]:
    """What its one task asks."""
    found = plan(resolve(asked.tasks[0]), open_source(asked.data), asked.limit)
    return [request for requests in found.requests for request in requests]


def measured(asked: FidelityConfig, engine: type[NativeLM] = Short) -> Fidelity:
    return fidelity(asked, QUIET, engine.open)


def test_an_identical_copy_costs_nothing(tiny_model: Path, noisy: Path) -> None:
    found = measured(config(tiny_model, tiny_model, noisy, tasks=("mmlu@cloze", "gsm8k@lm-eval")))
    same, other = found.copies
    for name in ("mmlu", "gsm8k"):
        task = same.tasks[name]
        assert (task.divergence.mean.value, task.divergence.max, task.divergence.same_top.value) == (0.0, 0.0, 1.0)
        assert (task.perplexity.ratio.value, task.perplexity.reference) == (1.0, task.perplexity.copy)
        (answers,) = task.answers
        assert (answers.right_to_wrong, answers.wrong_to_right, answers.other, answers.flipped) == (0, 0, 0, ())
        assert answers.difference is not None
        assert answers.difference.value == 0
        # the copy that is none costs something: the zeros above could have been other numbers
        assert 0 < other.tasks[name].divergence.median <= other.tasks[name].divergence.p90 <= other.tasks[name].divergence.max
        assert other.tasks[name].perplexity.ratio.value != 1
        assert other.tasks[name].divergence.positions == task.divergence.positions > 4
    assert found.status == "complete"
    assert same.model.info.fingerprint == found.reference.info.fingerprint != other.model.info.fingerprint


def test_every_scored_position_is_measured(tiny_model: Path, noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against each model's logits of whole sequences, one sequence at a time, in float64; for batches of any size."""
    asked = config(tiny_model, noisy, limit=3)
    reference, copy = Short.open(asked.model(str(tiny_model))), Short.open(asked.model(str(noisy)))
    kl: list[float] = []
    nll: list[float] = []
    plan = requests_of(asked)
    for request in plan:
        tokens = reference.token_request(request)
        done = set()
        for continuation in tokens.continuations:
            ids = [*tokens.context, *continuation]
            p, q = (special.log_softmax(logits(lm.backend, ids[:-1]).double().numpy(), -1) for lm in (reference, copy))
            for j, token in enumerate(continuation):
                at = len(tokens.context) - 1 + j
                nll.append(-p[at, token])
                if continuation[:j] not in done:
                    done.add(continuation[:j])
                    kl.append((np.exp(p[at]) * (p[at] - q[at])).sum())
    for batch, positions in ((128, 4096), (1, 4096), (128, 7)):
        monkeypatch.setattr(measure, "BATCH", batch)
        monkeypatch.setattr(measure, "BATCH_POSITIONS", positions)
        task = measured(asked).copies[0].tasks["mmlu"]
        assert task.divergence.positions == len(kl)
        assert task.divergence.mean.value == pytest.approx(np.mean(kl), rel=1e-4)
        assert task.divergence.max == pytest.approx(max(kl), rel=1e-3)
        assert (task.perplexity.tokens, task.perplexity.reference) == (len(nll), pytest.approx(np.exp(np.mean(nll)), rel=1e-5))


def test_scores_are_those_of_a_run(tiny_model: Path, noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The difference is that of `evalkit compare` on two runs, to the last digit."""
    arguments = ["--tasks", "mmlu@cloze", "--data", "sample", "--limit", "28", "--quiet"]
    for name, model in (("a", tiny_model), ("b", noisy)):
        assert cli.main(["run", "--model", str(model), "--out", str(tmp_path), "--name", name, *arguments]) == 0
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    compared = json.loads((tmp_path / "c" / "compare.json").read_text())["tasks"]["mmlu"]
    capsys.readouterr()
    assert cli.main(["fidelity", str(tiny_model), str(noisy), *arguments, "--json"]) == 0
    (answers,) = json.loads(capsys.readouterr().out)["copies"][0]["tasks"]["mmlu"]["answers"]
    assert {key: compared[key] for key in answers["difference"]} == answers["difference"]
    assert (answers["right_to_wrong"], answers["wrong_to_right"]) == (compared["lost"], compared["gained"])
    assert answers["n"] == 28


def test_the_likelihoods_are_the_engines_own(tiny_model: Path) -> None:
    lm = NativeLM.load(ModelSpec(str(tiny_model)))
    requests = [Loglikelihood("The answer is", (" A", " B", " a longer one", " a")), Loglikelihood("So", (" it is",))]
    tokens = [lm.token_request(request) for request in requests]
    rows = lm.distributions(tokens)
    for request, each, (_, expected) in zip(requests, tokens, sorted(lm.loglikelihood(requests)), strict=True):
        found = measure.Logprobs.of(each)
        for group in each.scored.values():
            found.add(next(rows), group)
        assert found.response(each) == expected, request
    assert next(rows, None) is None


def test_generated_answers_are_the_references_for_both(tiny_model: Path, noisy: Path) -> None:
    asked = config(tiny_model, noisy, tasks=("gsm8k@lm-eval",), limit=3)
    task = measured(asked).copies[0].tasks["gsm8k"]
    lm = Short.open(ModelSpec(str(tiny_model)))
    lengths = [len(tokens) for _, _, tokens in lm.generate_tokens(requests_of(asked))]
    assert task.perplexity.tokens == task.divergence.positions == sum(lengths)
    # the reference chose each of them: no token is likelier to it
    assert task.perplexity.ratio.value > 1


@pytest.mark.parametrize("tasks", [("mt_bench",), ("belebele:es", "flores"), ("humaneval",)])
def test_tasks_of_every_kind(tiny_model: Path, tasks: tuple[str, ...], tmp_path: Path) -> None:
    chat = shutil.copytree(tiny_model, tmp_path / "chat")
    (chat / "chat_template.jinja").write_text("{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}")
    other, out = changed(chat, tmp_path / "other", 0.02), str(tmp_path / "out")
    found = measured(config(chat, chat, other, tasks=tasks, limit=2, out=out, allow_unsafe_code=True))
    for task in found.copies[1].tasks.values():
        assert task.divergence.mean.value > 0
        for answers in task.answers:
            assert answers.n == (4 if answers.name == "flores/flores" else 2)  # a cell for each direction
            assert (answers.difference is None) == (answers.why_no_score != "")
    for task in found.copies[0].tasks.values():
        assert not any(answers.flipped for answers in task.answers)
    text = "\n".join(map(str, to_document(found).blocks))
    assert ("a judge rates its answers" in text) == (tasks == ("mt_bench",))


def test_precisions_of_their_own(tiny_model: Path) -> None:
    found = measured(config(tiny_model, f"{tiny_model},dtype=bfloat16", f"{tiny_model},dtype=float32,device=cpu"))
    half, same = found.copies
    assert [copy.model.name for copy in found.copies] == ["tiny, bfloat16", "tiny, float32, cpu"]
    assert half.model.info.dtype == "bfloat16"
    assert half.tasks["mmlu"].divergence.mean.value > 0 == same.tasks["mmlu"].divergence.mean.value
    assert {copy.model.file_bytes for copy in found.copies} == {found.reference.file_bytes}
    assert found.reference.file_bytes is not None
    assert found.reference.file_bytes > (tiny_model / "model.safetensors").stat().st_size


def test_what_is_measured_is_kept(tiny_model: Path, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = str(tmp_path / "out")
    first = measured(config(tiny_model, noisy, out=out))
    asked = list[str]()

    class Counting(Short):
        def distributions(self, requests: Sequence[TokenRequest]) -> Iterator[NextToken]:
            asked.append(self.spec)
            return super().distributions(requests)

    again = measured(config(tiny_model, noisy, out=out), Counting)
    assert (asked, again.copies) == ([], first.copies)
    more = measured(config(tiny_model, tiny_model, noisy, out=out), Counting)
    assert set(asked) == {str(tiny_model)}  # as copy and as reference
    assert more.copies[1] == first.copies[0]
    with pytest.raises(EvalkitError, match=r"was measured on mmlu@cloze \(4 documents of sample .*--fresh to replace it"):
        measured(config(tiny_model, noisy, out=out, limit=3))
    with pytest.raises(EvalkitError, match=r"has another reference, tiny .*--fresh"):
        measured(config(noisy, tiny_model, out=out))
    assert measured(config(noisy, tiny_model, out=out, fresh=True)).reference.name == "noisy"
    (tmp_path / "out" / "fidelity.json").write_text("{}")
    with pytest.raises(EvalkitError, match="is not of schema 1"):
        measured(config(tiny_model, noisy, out=out))


def test_an_interruption_keeps_the_copies_before_it(tiny_model: Path, noisy: Path, tmp_path: Path) -> None:
    class Interrupting(Short):
        def distributions(self, requests: Sequence[TokenRequest]) -> Iterator[NextToken]:
            if self.dtype == "bfloat16":
                raise KeyboardInterrupt
            return super().distributions(requests)

    copies = (noisy, f"{noisy},dtype=bfloat16")
    with pytest.raises(Interrupted, match=r"interrupted; what is done is kept in .*, and the same command goes on") as caught:
        measured(config(tiny_model, *copies, out=str(tmp_path)), Interrupting)
    assert caught.value.exit_code == 4
    kept = json.loads((tmp_path / "fidelity.json").read_text())
    assert (kept["status"], len(kept["copies"])) == ("incomplete", 1)
    assert measured(config(tiny_model, *copies, out=str(tmp_path))).status == "complete"
    with pytest.raises(Interrupted, match="nothing is kept without --out"):
        measured(config(tiny_model, *copies), Interrupting)


def test_copies_that_the_command_does_not_name_or_has_not_come_to_are_kept(tiny_model: Path, noisy: Path, tmp_path: Path) -> None:
    class Interrupting(Short):
        def distributions(self, requests: Sequence[TokenRequest]) -> Iterator[NextToken]:
            if self.spec == str(last):
                raise KeyboardInterrupt
            return super().distributions(requests)

    out, new, last = str(tmp_path / "out"), changed(tiny_model, tmp_path / "new", 0.03), changed(tiny_model, tmp_path / "last", 0.04)
    first = measured(config(tiny_model, noisy, tiny_model, out=out))
    with pytest.raises(Interrupted):
        measured(config(tiny_model, new, last, noisy, out=out), Interrupting)
    kept = json.loads((tmp_path / "out" / "fidelity.json").read_text())
    assert [copy["model"]["name"] for copy in kept["copies"]] == ["new", "noisy", "tiny"]
    found = measured(config(tiny_model, new, out=out))
    assert (found.status, found.copies[1:]) == ("complete", first.copies)
    # other weights under the same name take its place
    changed(tiny_model, shutil.rmtree(new) or new, 0.05)
    again = measured(config(tiny_model, new, out=out))
    assert [copy.model.name for copy in again.copies] == ["new", "noisy", "tiny"]
    assert again.copies[0].model.info.fingerprint != found.copies[0].model.info.fingerprint


def test_programs_of_copies_stay_in_the_folder_of_the_command(tiny_model: Path, tmp_path: Path) -> None:
    """Two copies with the same file name are told apart by their paths, and one may be called as the reference's folder is."""
    chat = shutil.copytree(tiny_model, tmp_path / "chat")
    (chat / "chat_template.jinja").write_text("{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}")
    copies = [changed(chat, tmp_path / name, noise) for name, noise in (("a/reference", 0.02), ("b/reference", 0.03))]
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    measured(config(chat, *copies, tasks=("humaneval",), limit=1, out=str(out), allow_unsafe_code=True))
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(out) for path in made)
    assert len([path for path in made if path.suffix == ".jsonl"]) == 3


def test_another_tokenizer_is_no_copy(tiny_model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))

    class Untouched(Short):
        def prepare(self, on_load: Any = None) -> None:
            pytest.fail("weights are read before the tokens are compared")

    with pytest.raises(EvalkitError, match=r"other is no copy of tiny: mmlu document \S+: their tokens differ from token \d+ on: \["):
        measured(config(tiny_model, other), Untouched)


def test_engines_without_whole_distributions_are_refused(tiny_model: Path) -> None:
    class Scores(LM):
        fingerprint = "sha256:0"

        def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
            raise NotImplementedError

        def loglikelihood_rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
            raise NotImplementedError

        def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
            raise NotImplementedError

        def describe(self) -> dict[str, Any]:
            return {}

    def open_model(model: ModelSpec) -> LM:
        return Scores() if model.engine == "native" else pytest.fail("it is opened before it is refused")

    for other, engine in ((f"{tiny_model},engine=openai:http://x", "openai:http://x"), ("gone.gguf,engine=lm_eval:hf", "lm_eval:hf")):
        message = f"engine {engine} does not give its whole distributions.*then evalkit compare"
        with pytest.raises(EvalkitError, match=message) as caught:
            fidelity(config(tiny_model, other), QUIET, open_model)
        assert caught.value.exit_code == 2
    with pytest.raises(EvalkitError, match="engine native does not give its whole distributions"):
        fidelity(config(tiny_model, f"{tiny_model},dtype=bfloat16"), QUIET, open_model)


@pytest.mark.parametrize(
    ("copy", "said"),
    [
        ("tiny,dtyp=bfloat16", "unknown setting in 'tiny,dtyp=bfloat16': 'dtyp'; did you mean 'dtype'"),
        ("tiny,dtype=bf16", "unknown dtype 'bf16'; did you mean 'bfloat16'"),
        ("tiny,dtype=float32,dtype=bfloat16", "dtype is given twice"),
        (",dtype=float32", "names no model; give SPEC or SPEC,SETTING=VALUE"),
        ("tiny,engine=openai:http://x,kernel=cpu", "only the native engine has a choice of kernels"),
    ],
)
def test_what_a_model_may_not_be(copy: str, said: str) -> None:
    with pytest.raises(EvalkitError) as caught:
        FidelityConfig("tiny", (copy,), ("mmlu",))
    assert said in str(caught.value)


def test_commas_in_a_path_are_part_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "a,dtype=x"
    folder.mkdir()
    asked = FidelityConfig(str(folder), (f"{folder},dtype=float16", "b,c"), ("mmlu",))
    assert asked.model(str(folder)) == ModelSpec(str(folder))
    assert asked.model(f"{folder},dtype=float16") == ModelSpec(str(folder), dtype="float16")
    assert asked.model("b,c").spec == "b,c"
    with pytest.raises(EvalkitError, match="a copy is given twice: b,dtype=auto"):
        FidelityConfig("a", ("b", "b,dtype=auto"), ("mmlu",))


def test_the_command_says_what_was_measured_on_what(
    tiny_model: Path, noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--tasks", "mmlu@cloze", "--data", "sample", "--limit", "4", "--quiet", "--out", str(out)]
    assert cli.main(["fidelity", str(tiny_model), str(tiny_model), str(noisy), f"{noisy},dtype=bfloat16", *arguments]) == 0
    text = " ".join(capsys.readouterr().out.split())
    record = json.loads((out / "fidelity.json").read_text())
    positions = record["copies"][0]["tasks"]["mmlu"]["divergence"]["positions"]
    assert f"Measured on mmlu@cloze: 4 of 140 documents (sample ba28e2fb), {positions:,} token positions," in text
    for model in (record["reference"], *(copy["model"] for copy in record["copies"])):
        assert model["info"]["fingerprint"][:19] in text
        assert model["info"]["dtype"] in text
    assert "the same distribution at every position, and every answer is the same" in text
    assert "float32 (32.0 bits a weight)" in text or "float32" in text
    names = {path.name for path in out.iterdir()}
    assert {"fidelity.json", "fidelity.md", "fidelity.html", "kl-by-size.svg", "kl-by-size.png", "kl-by-size.pdf"} <= names
    markdown = (out / "fidelity.md").read_text()
    assert "![Mean KL divergence from tiny, in nats, against size." in markdown
    assert "var(--ink)" in (out / "fidelity.html").read_text()  # the plot follows the page's theme


def test_a_missing_model_is_bad_input(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fidelity", str(tiny_model), "./none.gguf", "--tasks", "mmlu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_plot_without_sizes(tiny_model: Path, tmp_path: Path) -> None:
    found = measured(config(tiny_model, tiny_model))
    unknown = replace(found, copies=tuple(replace(copy, model=replace(copy.model, file_bytes=None)) for copy in found.copies))
    assert [path.name for path in write(unknown, tmp_path)] == ["fidelity.html", "fidelity.md"]
