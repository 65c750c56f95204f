"""evalkit bench: what it counts, the floors it prints (against hand-made ones), what it refuses; on tiny random models."""

import json
import re
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_runs import fake_run
from quantized_folders import GPTQ, set_quantization

from evalkit.bench import engines, roofline
from evalkit.bench.bench import bench, sparse_and_dense
from evalkit.bench.config import BenchConfig
from evalkit.bench.record import ratio, read_bench
from evalkit.bench.roofline import Device, Shape, floor_seconds
from evalkit.cli import _Parser
from evalkit.cli.bench import add
from evalkit.comparison.gate import decide
from evalkit.comparison.gate_config import GateConfig
from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.lm.native import NativeLM
from evalkit.lm.native_tokens import TokenModel
from evalkit.lm.shape import shape_of, shape_of_spec
from evalkit.progress import Reporter
from moe_lm.backends.reference import ReferenceBackend
from moe_lm.model import Decoder

pytestmark = pytest.mark.usefixtures("one_thread")

MOE = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "norm_topk_prob": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "eos_token_id": 299,
}
H100 = Device(bandwidth=3.0e12, flops=790e12, free_memory=78 << 30)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A tiny mixture of experts and a tiny dense model, with random weights."""
    folder = tmp_path_factory.mktemp("configs")
    dense = {
        key: value
        for key, value in MOE.items()
        if "expert" not in key and "moe" not in key and key not in ("norm_topk_prob", "decoder_sparse_step", "mlp_only_layers")
    }
    dense |= {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    for name, config in (("moe", MOE), ("dense", dense)):
        (folder / f"{name}.json").write_text(json.dumps(config))
    return f"random:{folder / 'moe.json'}", f"random:{folder / 'dense.json'}"


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real measurements, on less memory and smaller matrices."""
    whole_bandwidth, whole_flops = roofline.bandwidth, roofline.product_flops
    monkeypatch.setattr(roofline, "bandwidth", lambda device, size: whole_bandwidth(device, 1 << 22))
    monkeypatch.setattr(roofline, "product_flops", lambda device, dtype, side: whole_flops(device, dtype, 128))


# --- the floors, against figures made by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "milliseconds"), [(1, 1.65), (8, 5.08), (32, 10.5)])
def test_decode_steps_of_qwen_moe_at_context_1000(batch: int, milliseconds: float) -> None:
    """From the bytes of weights and caches on a device of 3.0 TB/s, by hand."""
    shape = shape_of_spec("random:qwen1.5-moe-a2.7b", 2)
    assert shape
    assert shape.weights * 2 == pytest.approx(28.63e9, rel=1e-3)
    assert shape.kv_per_token * 2 == 196_608
    assert shape.experts_visited(8) == pytest.approx(25.5, abs=0.1)
    step = (shape.bytes_read(batch) + batch * 1000 * shape.kv_per_token * 2) / 3.0e12
    assert 1000 * step == pytest.approx(milliseconds, rel=0.02)


def test_the_blogs_protocol_on_one_h100() -> None:
    """6.42 and 2.98 requests a second, a ratio of 2.16: arithmetic made apart from this code."""
    rates = {}
    for name in ("qwen1.5-moe-a2.7b", "qwen1.5-7b"):
        shape = shape_of_spec(f"random:{name}", 2)
        assert shape
        rates[name] = 1000 / floor_seconds(shape, H100, 1000, 1000, 1000)
    assert rates["qwen1.5-moe-a2.7b"] == pytest.approx(6.42, rel=0.03)
    assert rates["qwen1.5-7b"] == pytest.approx(2.98, rel=0.03)
    assert rates["qwen1.5-moe-a2.7b"] / rates["qwen1.5-7b"] == pytest.approx(2.16, rel=0.03)


def test_a_floor_counted_by_hand() -> None:
    """A dense model of 10 weights in the body and 5 in the head, a byte each; two cached numbers a token; bandwidth 1."""
    shape = Shape(1, 1, embedding=5, head=5, always=10, expert=0, experts=0, top_k=0, sparse_layers=0, kv_per_token=2, attention_width=0)
    assert shape.weights == 20
    # prefill reads 15 weights; then 3 steps an answer, each after 4 + 1.5 tokens on average: a step reads 15 and 11 an answer
    for room, at_once in ((2 * 11, 2), (9 * 11, 3), (0, 1)):
        device = Device(bandwidth=1.0, flops=1e12, free_memory=20 + room)
        expected = 15 + 3 * (3 / at_once) * (15 + 11 * at_once)
        assert floor_seconds(shape, device, 4, 4, 3) == pytest.approx(expected, rel=1e-6)
    # cached numbers of four bytes beside weights of half a byte: a step reads 7.5 and 44 an answer
    narrow = replace(shape, width=0.5, cached=4)
    assert floor_seconds(narrow, Device(1.0, 1e12, 10 + 2 * 44), 4, 4, 3) == pytest.approx(7.5 + 3 * 1.5 * (7.5 + 88), rel=1e-6)
    # a device with little arithmetic: 15 weights and a token take 30, less for the head of 11 of 12 prompt tokens
    slow = Device(bandwidth=1e12, flops=1.0, free_memory=1000)
    assert floor_seconds(shape, slow, 4, 4, 3) == pytest.approx(3 * (4 * 20 + 10) + 3 * 3 * 30, rel=1e-6)


def test_a_window_bounds_what_a_token_reads() -> None:
    shape = Shape(1, 1, 5, 5, 10, 0, 0, 0, 0, 2, 1, window=3)
    assert (shape.seen(2), shape.seen(100)) == (2, 3)
    some_layers = replace(shape, full_attention=0.25)
    assert (some_layers.seen(2), some_layers.seen(100)) == (2, 0.25 * 100 + 0.75 * 3)


def decoder(lm: NativeLM) -> Decoder:
    """The weights as they were read, which plain torch leaves as they are."""
    assert isinstance(lm.backend, ReferenceBackend)
    return lm.backend.model


def test_shapes_count_every_weight(specs: Sequence[str]) -> None:
    for spec in specs:
        model = decoder(NativeLM.load(ModelSpec(spec, kernel="reference")))
        shape = shape_of(model.config, 4, 4)
        assert shape.weights == sum(p.numel() for p in model.parameters())


# --- random weights -------------------------------------------------------------------------------------------------------


def test_random_weights_are_the_same_each_time_and_of_unit_size(specs: Sequence[str]) -> None:
    import torch

    one, two = (NativeLM.load(ModelSpec(specs[0], kernel="reference")) for _ in range(2))
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != NativeLM.load(ModelSpec(specs[1], kernel="reference")).fingerprint
    for a, b in zip(decoder(one).parameters(), decoder(two).parameters(), strict=True):
        assert torch.equal(a, b)
    weight = decoder(one).embed.weight
    assert isinstance(weight, torch.Tensor)
    assert weight.std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert one.describe()["family"] == "qwen2_moe"
    text = "Größe: ok"
    assert one.tokenizer.decode(one.tokenizer.encode(text)) == text
    assert one.tokenizer.decode([299, 270]) != ""


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("random:qwen1.5-moe", "no configuration is named 'qwen1.5-moe'; known: "),
        ("random:/nowhere/config.json", "no configuration is named"),
    ],
)
def test_unknown_configurations(spec: str, message: str) -> None:
    with pytest.raises(EvalkitError, match=message):
        NativeLM.load(ModelSpec(spec))


# --- the bench -------------------------------------------------------------------------------------------------------------


def tiny(models: Sequence[str], out: Path, **changes: Any) -> BenchConfig:
    return BenchConfig(tuple(models), out=str(out), **{"prompt_tokens": 40, "output_tokens": 6, "num_requests": 5} | changes)


def test_records(specs: Sequence[str], tmp_path: Path) -> None:
    config = tiny(specs, tmp_path)
    records = bench(config, Reporter(quiet=True))
    for spec, record in zip(specs, records, strict=True):
        assert read_bench(config.folder(spec) / "bench.json") == record
        assert (record.schema, record.kind, record.engine, record.dtype) == (1, "bench", "native", "float32")
        assert (record.prompt_tokens, record.output_tokens, record.num_requests) == (40, 6, 5)
        assert record.requests_per_second == pytest.approx(5 / record.seconds)
        assert record.total_tokens_per_second == pytest.approx(5 * 46 / record.seconds)
        assert record.output_tokens_per_second == pytest.approx(5 * 6 / record.seconds)
        assert record.short_answers == 0
        floor = record.roofline
        assert floor
        assert 0 < floor.share < 1
        assert floor.share == pytest.approx(floor.floor_seconds / record.seconds)
        assert floor.bandwidth_gb_s > 0.1
        assert floor.gflop_s > 0.1
        assert record.model.spec == spec
        assert record.device == record.environment.cpu
    sparse, dense = records
    assert sparse_and_dense(records) == sparse_and_dense(records[::-1]) == (sparse, dense)
    assert sparse_and_dense(records[:1]) is None
    assert ratio(sparse, dense) == pytest.approx(dense.seconds / sparse.seconds)


def test_repeats_take_turns(specs: Sequence[str], tmp_path: Path) -> None:
    """A B, B A, A B: what `evalkit gate --bench` asks for, and it takes the records."""
    config = tiny(specs, tmp_path / "bench", repeats=3, num_requests=2)
    base, cand = bench(config, Reporter(quiet=True))
    assert [len(record.timings) for record in (base, cand)] == [3, 3]
    begun = sorted([(timing.started, "a") for timing in base.timings] + [(timing.started, "b") for timing in cand.timings])
    assert "".join(name for _, name in begun) == "abbaab"
    for record, spec in ((base, specs[0]), (cand, specs[1])):
        assert read_bench(config.folder(spec) / "bench.json") == record
        assert record.seconds == statistics.median(timing.seconds for timing in record.timings)
        if sys.platform == "linux":
            assert all((timing.peak_memory or 0) > 10_000_000 for timing in record.timings)  # Python and torch alone have more
    runs = [str(fake_run(tmp_path / name, name, mmlu=[1.0, 0.0] * 200)) for name in "ab"]
    for run, record in zip(runs, (base, cand), strict=True):
        text = (Path(run) / "run.json").read_text()
        for name, value in (("fingerprint", record.model.fingerprint), ("dtype", record.dtype)):
            text = re.sub(rf'"{name}": "[^"]*"', f'"{name}": "{value}"', text)
        (Path(run) / "run.json").write_text(text)
    (tmp_path / "gate.toml").write_text('[throughput]\ndrop = 0.5\n[[rule]]\ntask = "mmlu"\nmargin = 0.1\n')
    paths = tuple(str(config.folder(spec)) for spec in specs)
    (check,) = decide(GateConfig(tuple(runs), policy=str(tmp_path / "gate.toml"), bench=paths)).checks
    assert (check.word, check.reason.partition(";")[0]) == ("cannot detect", "3 repeats cannot show a loss at 0.05, it takes 5")


def test_every_prompt_is_random_and_all_tokens_are_made(specs: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    original = TokenModel.generate

    def recording(self: TokenModel, requests: Any) -> Any:
        for i, answer in original(self, requests):
            seen.append((requests[i], answer))
            yield i, answer

    monkeypatch.setattr(TokenModel, "generate", recording)
    engine = engines.open_engine(ModelSpec(specs[0]), 4)
    assert isinstance(engine.lm, NativeLM)
    generator = engine.lm.generator
    generator.vocabulary = replace(generator.vocabulary, stop_ids=frozenset(range(300)))  # the model can say nothing but the end
    engine.prepare(engines.Work(30, 5, 4, seed=1))
    done = engine.run(lambda now: None)
    assert done == engines.Done(120, 20, 0)
    assert len({tuple(request.prompt) for request, _ in seen}) == 5  # and the one that warms up
    assert all(len(answer.tokens) == 5 for request, answer in seen if request.max_new_tokens == 5)


def test_a_server_is_timed_too(specs: Sequence[str], tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="pip install 'evalkit-lm[serve]'")
    from served import listening

    from evalkit.serve.app import make_app

    lm = NativeLM.load(ModelSpec(specs[0]))
    with listening(make_app(lm, "tiny")) as url:
        (record,) = bench(tiny(["tiny"], tmp_path, engine=f"openai:{url}"), Reporter(quiet=True))
    assert record.total_tokens_per_second == pytest.approx(5 * 46 / record.seconds)
    assert (record.roofline, record.device, record.short_answers) == (None, "the server's", 0)


@pytest.mark.slow
def test_lm_evals_engine_is_timed_too(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="pip install 'evalkit-lm[lm-eval]'")
    from evalkit.lm.models import MODELS, local_path

    if local_path(MODELS["smollm2-135m"]) is None:
        pytest.skip("smollm2-135m is not installed")
    (record,) = bench(tiny(["smollm2-135m"], tmp_path, engine="lm_eval:hf", num_requests=2), Reporter(quiet=True))
    assert record.output_tokens_per_second == pytest.approx(2 * 6 / record.seconds)
    assert record.total_tokens_per_second == pytest.approx(2 * 46 / record.seconds, rel=0.1)


def command(*arguments: str) -> None:
    parser = _Parser()
    add(parser.add_subparsers())
    parsed = parser.parse_args(["bench", *arguments])
    parsed.command(parsed)


def test_the_table_stands_beside_the_published_figures(
    specs: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ("--prompt-tokens", "20", "--output-tokens", "3", "--num-requests", "2", "--out", str(tmp_path), "--quiet")
    command(*specs, *sizes)
    out = capsys.readouterr().out
    assert "20 tokens in, 3 out, 2 requests at once" in out
    assert "ratio: " in out
    assert "published: 1.74" not in out  # of other models
    assert "torch " in out
    # tiny models under the names of the blog's two
    configs = dict(zip(("random:qwen1.5-moe-a2.7b", "random:qwen1.5-7b"), specs, strict=True))
    whole = NativeLM.load
    monkeypatch.setattr(NativeLM, "load", lambda model, on_load=None: whole(ModelSpec(configs[model.name])))
    monkeypatch.setattr("evalkit.bench.bench._check_memory", lambda *_: None)
    command(*sizes)
    out = capsys.readouterr().out
    for figure in ("1.15", "2,298.89", "2.01", "4,010.27", "published: 1.74", "NVIDIA A100-80G, vLLM"):
        assert figure in out


def test_refusals(specs: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Reporter(quiet=True)
    with pytest.raises(EvalkitError, match="--num-requests is 0; give at least 1"):
        tiny(specs, tmp_path, num_requests=0)
    with pytest.raises(EvalkitError, match="a model is given twice"):
        tiny([specs[0], specs[0]], tmp_path)
    with pytest.raises(EvalkitError, match="exceed the model's max_seq_len of 512"):
        bench(tiny(specs[:1], tmp_path, prompt_tokens=600), quiet)
    with pytest.raises(EvalkitError, match="unknown engine 'replay:x'"):
        bench(tiny(specs[:1], tmp_path, engine="replay:x"), quiet)
    monkeypatch.setattr(roofline, "free_memory", lambda device: 20_000_000_000)
    with pytest.raises(
        EvalkitError,
        match=r"takes 57.3 GB in float32, weights and one request's cache, and cpu has 20.0 GB free; --dtype bfloat16 halves it",
    ):
        bench(tiny(["random:qwen1.5-moe-a2.7b"], tmp_path, device="cpu"), quiet)
    assert not list(tmp_path.iterdir())


def test_what_a_quantised_folder_takes_is_not_known_before_it_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(tiny_model, folder)
    assert shape_of_spec(str(folder), 4) is not None
    set_quantization(folder, GPTQ)
    assert shape_of_spec(str(folder), 4) is None


def test_free_memory_is_a_number_of_this_machine() -> None:
    assert 1 << 20 < roofline.free_memory("cpu") < 1 << 50
