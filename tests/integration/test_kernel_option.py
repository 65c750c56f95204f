"""--kernel: the back-end is chosen by device, can be named, is recorded, and is part of the fingerprint."""

import json
from pathlib import Path

import pytest

from evalkit.cli import _parser, main
from evalkit.config import KERNELS, ModelSpec, RunConfig
from evalkit.errors import EvalkitError
from evalkit.lm.native import NativeLM
from moe_lm import backends

pytestmark = pytest.mark.usefixtures("one_thread")


# a Qwen2-MoE of two layers and five experts
TINY = {
    "model_type": "qwen2_moe",
    "vocab_size": 260,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 24,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "norm_topk_prob": False,
    "max_position_embeddings": 8192,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny mixture of experts with random weights, as --model names it."""
    file = tmp_path_factory.mktemp("sparse") / "config.json"
    file.write_text(json.dumps(TINY))
    return f"random:{file}"


@pytest.fixture(autouse=True)
def _compiled_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels' tests choose Triton's interpreter for the whole process."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_the_names_are_the_back_ends() -> None:
    assert ("auto", *backends.KERNELS) == KERNELS


@pytest.mark.parametrize(
    "command", ["run --tasks mmlu", "verify --tasks mmlu", "bench", "serve", "generate --prompt x"], ids=lambda command: command.split()[0]
)
def test_every_command_that_loads_a_model_has_it(command: str) -> None:
    arguments = _parser().parse_args([*command.split(), "--kernel", "reference"])
    assert arguments.kernel == "reference"


def test_it_is_part_of_who_answers(sparse: str, tiny_model: Path) -> None:
    for model in (sparse, str(tiny_model)):
        kernels = ("auto", "cpu", "reference")
        lms = [NativeLM.open(ModelSpec(model, device="cpu", kernel=kernel)) for kernel in kernels]
        assert [lm.describe()["kernel"] for lm in lms] == ["cpu", "cpu", "reference"]
        assert [lm.describe()["layout_invariant"] for lm in lms] == [True, True, False]
        assert lms[0].fingerprint == lms[1].fingerprint != lms[2].fingerprint


@pytest.mark.parametrize(("given", "recorded"), [([], "cpu"), (["--kernel", "reference"], "reference")])
def test_a_run_computes_with_it_and_records_it(sparse: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given, recorded) -> None:
    used, build = [], backends.build
    monkeypatch.setattr("moe_lm.backends.build", lambda model, kernel, int8: used.append(kernel) or build(model, kernel, int8))
    common = ["run", "--tasks", "mmlu", "--model", sparse, "--data", "sample", "--limit", "1", "--device", "cpu", "--quiet"]
    assert main([*common, "--out", str(tmp_path), "--name", "tiny", *given]) == 0
    assert used == [recorded]
    assert json.loads((tmp_path / "tiny" / "run.json").read_text("utf-8"))["model"]["kernel"] == recorded


def test_without_kernels_plain_torch_says_that_it_promises_less(
    sparse: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("moe_lm.backends.cpu.library.reason_missing", lambda: "there is no compiler; install one")
    command = ["run", "--tasks", "mmlu", "--model", sparse, "--data", "sample", "--limit", "1", "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path), "--name", "tiny"]) == 0
    model = json.loads((tmp_path / "tiny" / "run.json").read_text("utf-8"))["model"]
    assert (model["kernel"], model["layout_invariant"]) == ("reference", False)
    printed = capsys.readouterr()
    assert "plain torch computes, slower and without layout invariance: there is no compiler; install one" in printed.err
    assert "no layout invariance (kernel reference)" in printed.out
    assert main(["verify", *command[1:]]) in (0, 1)
    assert "no layout invariance is promised by kernel reference" in capsys.readouterr().out
    assert main([*command, "--kernel", "cpu"]) == 2
    assert "--kernel cpu: there is no compiler; install one; or use --kernel reference" in capsys.readouterr().err


def test_triton_without_a_gpu_is_refused_in_one_line(sparse: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--tasks", "mmlu", "--model", sparse, "--data", "sample", "--device", "cpu", "--kernel", "triton"]
    assert main([*command, "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--kernel triton needs a GPU, and the device is cpu; use --kernel cpu" in line


def test_only_the_native_engine_has_a_choice() -> None:
    with pytest.raises(EvalkitError, match="kernel is 'cpu', and the engine lm_eval:hf"):
        RunConfig(("mmlu",), engine="lm_eval:hf", kernel="cpu")
    with pytest.raises(EvalkitError, match=r"unknown kernel 'tritn'.* did you mean 'triton'"):
        RunConfig(("mmlu",), kernel="tritn")
