"""The published upcycling recipes: where every expert's parameters come from, how many are drawn anew, the blog's own case.

F = 48 is the tiny FFN's hidden size; experts of 20 are neither a divisor of it nor one of a half, so they straddle copies.
"""

import time
from dataclasses import replace

import pytest
import torch
import transformers
from tiny_models import logits, relative_diff, tiny_config, tiny_decoder, tokens, word_tokenizer

from moe_lm import known
from moe_lm.checkpoint.read import load
from moe_lm.checkpoint.write import save
from moe_lm.config import ModelConfig, MoEConfig, from_hf, to_hf
from moe_lm.count import count
from moe_lm.errors import ModelError
from moe_lm.model import FFN, MoE
from moe_lm.upcycle.fine_grained import INITIALIZER_RANGE, FineGrained, fine_grained
from moe_lm.upcycle.preserve import sparse_config

F = 48
QWEN = FineGrained("qwen", 5, 2, shared=3, moe_intermediate_size=20)
DROP = replace(QWEN, method="drop")
BOTH = pytest.mark.parametrize("recipe", [QWEN, DROP], ids=["qwen", "drop"])
QWEN_1_8B = ModelConfig(
    family="qwen2",
    vocab_size=151936,
    hidden_size=2048,
    num_hidden_layers=24,
    num_attention_heads=16,
    num_key_value_heads=16,
    head_dim=128,
    intermediate_size=5504,
    max_seq_len=8192,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    qkv_bias=True,
)


@pytest.fixture(scope="module")
def dense():
    return tiny_decoder(tiny_config("qwen2"))


def matrices(ffn: FFN) -> list[torch.Tensor]:
    """Gate, up and down of a dense FFN or a shared expert, intermediate index first: [F, D] each."""
    return [ffn.gate_proj.weight, ffn.up_proj.weight, ffn.down_proj.weight.T]


def experts(moe: MoE) -> list[list[torch.Tensor]]:
    """Gate, up and down of every routed expert, then of the shared one: [f, D] each."""
    pairs = zip(moe.experts.gate_up_EGD, moe.experts.down_EDF, strict=True)
    return [[*gate_up.chunk(2), down.T] for gate_up, down in pairs] + [matrices(moe.shared_expert)]


def indices(expert, ffn):
    """The source index of every row of an expert, the same in gate, up and down; fails where there is none."""
    found = []
    for rows in zip(*expert, strict=True):
        (i,) = {int((source == row).all(1).nonzero()) for row, source in zip(rows, matrices(ffn), strict=True)}
        found.append(i)
    return found


def origins(recipe, dense):
    """[layer][expert] -> source indices, of the recipe without noise."""
    sparse = fine_grained(dense, replace(recipe, noise=0.0))
    pairs = list(zip(sparse.layers, dense.layers, strict=True))
    return [[indices(expert, old.ffn) for expert in experts(new.ffn)] for new, old in pairs]


@BOTH
def test_shapes_and_count(dense, recipe):
    sparse = fine_grained(dense, recipe)
    assert sparse.config == replace(dense.config, family="qwen2_moe", moe=MoEConfig(5, 2, 20, 60, recipe is DROP))
    for layer in sparse.layers:
        assert isinstance(layer.ffn, MoE)
        assert [[tuple(m.shape) for m in expert] for expert in experts(layer.ffn)] == [[(20, 32)] * 3] * 5 + [[(60, 32)] * 3]
        assert torch.count_nonzero(layer.ffn.shared_expert_gate.weight) == 0
    assert count(sparse.config).total == sum(p.numel() for p in sparse.parameters())


def test_qwen_cuts_one_run_of_shuffled_copies(dense):
    """5 experts of 20 are 100 of 3 x 48 indices: two whole copies and 4 of the third; the remainder is dropped."""
    for *routed, shared in origins(QWEN, dense):
        run = [i for expert in routed for i in expert]
        assert sorted(run[:F]) == sorted(run[F : 2 * F]) == list(range(F))
        assert len(run) == 100
        assert run[:F] != sorted(run[:F])
        assert run[:F] != run[F : 2 * F]
        assert sorted(shared[:F]) == list(range(F))  # 60 wide: it straddles two copies, too
        assert len(set(shared[F:])) == 12


def test_drop_gives_each_expert_a_copy_of_its_own(dense):
    for *routed, shared in origins(DROP, dense):
        assert all(len(set(expert)) == 20 for expert in routed)
        assert len({tuple(expert) for expert in routed}) == 5
        assert sorted(shared[:F]) == list(range(F))
    whole = replace(DROP, moe_intermediate_size=F, shared=1)  # the paper's own case
    assert all(sorted(expert) == list(range(F)) for layer in origins(whole, dense) for expert in layer)


def test_experts_without_noise_add_up_to_the_copies(dense):
    """8 experts of 12 are two copies of the FFN, so their sum is twice its output."""
    sparse = fine_grained(dense, replace(QWEN, num_experts=8, moe_intermediate_size=12, noise=0.0))
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    for new, old in zip(sparse.layers, dense.layers, strict=True):
        total = sum((torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down for gate, up, down in experts(new.ffn)[:-1])
        assert relative_diff(total, 2 * old.ffn(x)) <= 1e-5


@pytest.mark.parametrize("noise", [0.0, 0.25, 0.5, 1.0])
def test_qwen_redraws_a_share_of_the_parameters(dense, noise):
    clean, noisy = (fine_grained(dense, replace(QWEN, noise=n)).layers[0].ffn for n in (0.0, noise))
    # the draws between two cuts differ in number with nothing but the shapes, so both have the same origins
    old, new = (torch.cat([m.flatten() for expert in experts(moe) for m in expert]) for moe in (clean, noisy))
    changed = old != new
    assert abs(float(changed.float().mean()) - noise) <= 5 * (noise * (1 - noise) / len(old)) ** 0.5
    if noise:
        assert float(new[changed].mean().abs()) <= 5 * INITIALIZER_RANGE / int(changed.sum()) ** 0.5
        assert float(new[changed].std()) == pytest.approx(INITIALIZER_RANGE, rel=0.05)


@pytest.mark.parametrize(("noise", "rows"), [(0.25, 5), (0.5, 10), (0.99, 19)])
def test_drop_redraws_whole_indices_of_each_matrix_alone(dense, noise, rows):
    sources = [set(map(tuple, m.tolist())) for m in matrices(dense.layers[0].ffn)]
    redrawn = []
    for expert in experts(fine_grained(dense, replace(DROP, noise=noise)).layers[0].ffn)[:-1]:
        new = [[tuple(row) not in source for row in m.tolist()] for m, source in zip(expert, sources, strict=True)]
        assert [sum(rows) for rows in new] == [rows] * 3
        redrawn.append(new)
    assert not all(gate == up == down for gate, up, down in redrawn)


def test_drop_draws_with_the_replaced_mean_and_standard_deviation(dense):
    """Means of 3, -1 and 0.5 and spreads of 0.1, 2 and 0.3 come out again, though every index is redrawn."""
    shifted = tiny_decoder(dense.config)
    for m, mean, std in zip(matrices(shifted.layers[0].ffn), (3, -1, 0.5), (0.1, 2, 0.3), strict=True):
        m.copy_((m - m.mean()) / m.std() * std + mean)
    wide = replace(DROP, moe_intermediate_size=F, noise=1.0)
    for expert in experts(fine_grained(shifted, wide).layers[0].ffn):
        for m, mean, std in zip(expert, (3, -1, 0.5), (0.1, 2, 0.3), strict=True):
            assert float(m.mean()) == pytest.approx(mean, abs=5 * std / m.numel() ** 0.5)
            assert float(m.std()) == pytest.approx(std, rel=5 / (2 * m.numel()) ** 0.5)


@BOTH
def test_no_two_experts_are_equal(dense, recipe):
    for noise in (0.0, 0.5):
        sparse = fine_grained(dense, replace(recipe, noise=noise))
        for moe in (layer.ffn for layer in sparse.layers):
            assert len({tuple(expert.flatten().tolist()) for expert in moe.experts.gate_up_EGD}) == 5
            assert len({tuple(expert.flatten().tolist()) for expert in moe.experts.down_EDF}) == 5
    assert not torch.equal(*(layer.ffn.router.weight for layer in sparse.layers))


@BOTH
def test_the_seed_decides(dense, recipe):
    first, again, other = (fine_grained(dense, replace(recipe, seed=seed)).state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if ".ffn." in name and "shared_expert_gate" not in name]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)
    assert all(torch.equal(first[name], other[name]) for name in first.keys() - set(drawn))


@BOTH
def test_the_dense_model_is_unchanged(dense, recipe):
    before = {name: p.clone() for name, p in dense.named_parameters()}
    fine_grained(dense, recipe)
    assert all(torch.equal(p, before[name]) for name, p in dense.named_parameters())


@BOTH
@pytest.mark.parametrize("family", ["llama", "qwen2-tied"])
def test_transformers_loads_it(recipe, family, tmp_path):
    name, _, tied = family.partition("-")
    dense = tiny_decoder(tiny_config(name, tied=bool(tied)))
    sparse = fine_grained(dense, recipe)
    save(sparse, word_tokenizer(), tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(theirs).__name__ == "Qwen2MoeForCausalLM"
    sequence = tokens(50, seed=3)
    with torch.inference_mode():
        assert relative_diff(theirs(torch.tensor([sequence])).logits[0], logits(sparse, sequence)) <= 1e-5
    assert torch.equal(logits(load(tmp_path).model, sequence), logits(sparse, sequence))


def test_precision_of_the_source_is_kept(dense):
    half = tiny_decoder(dense.config).to(torch.bfloat16)
    for recipe in (QWEN, DROP):
        assert {p.dtype for p in fine_grained(half, recipe).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "copy"}, "qwen, drop"),
        ({"num_experts_per_tok": 6}, "1..5"),
        ({"moe_intermediate_size": 0}, "1..48"),
        ({"moe_intermediate_size": 49}, "1..48"),
        ({"shared": 0}, "at least 1"),
        ({"noise": 1.5}, "0..1"),
        ({"noise": -0.1}, "0..1"),
        ({"noise": float("nan")}, "0..1"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, "seed"),
    ],
)
def test_refuses(dense, change, message):
    with pytest.raises(ModelError, match=message) as error:
        fine_grained(dense, replace(QWEN, **change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [tiny_config("qwen2_moe"), tiny_config("gemma", activation="gelu_tanh"), tiny_config("mistral", sliding_window=16, qkv_bias=False)],
    ids=["sparse already", "gemma", "sliding window"],
)
@BOTH
def test_refuses_what_qwen2_moe_cannot_express(config, recipe):
    with pytest.raises(ModelError, match=r"dense|cannot become"):
        fine_grained(tiny_decoder(config), recipe)


@pytest.mark.parametrize(("size", "shared", "width"), [(5504, 4, 1408), (1536, 4, 384), (1536, 5, 320), (1536, 1, 1536), (48, 4, 48)])
def test_default_width(size, shared, width):
    assert FineGrained(shared=shared).moe(tiny_config(intermediate_size=size)).moe_intermediate_size == width


def test_qwen_1_8b_becomes_qwen1_5_moe_a2_7b():
    """The published config.json's sparse layers and the blog's 14.3 and 2.7 billion parameters, from the defaults alone."""
    config = sparse_config(QWEN_1_8B, FineGrained().moe(QWEN_1_8B))
    assert config.moe == MoEConfig(60, 4, 1408, 5632, norm_topk_prob=False) == known.config("qwen1.5-moe-a2.7b").moe
    assert (count(config).total, count(config).activated) == (14_315_784_192, 2_689_173_504)
    assert from_hf(to_hf(config)) == config


@pytest.mark.slow
def test_one_layer_of_qwen_1_8b():
    """Of 16 copies, 60 experts take all but 3584 indices. About 2 GB, and a minute on one core."""
    dense = tiny_decoder(replace(QWEN_1_8B, num_hidden_layers=1, vocab_size=8)).to(torch.bfloat16)
    start = time.perf_counter()
    moe = fine_grained(dense, FineGrained()).layers[0].ffn
    print(f"one layer of Qwen-1.8B: {time.perf_counter() - start:.1f} s")
    assert moe.experts.gate_up_EGD.shape == (60, 2 * 1408, 2048)
    assert moe.experts.down_EDF.shape == (60, 2048, 1408)
    assert [tuple(m.shape) for m in matrices(moe.shared_expert)] == [(5632, 2048)] * 3

    # an intermediate index is recognised by the first of its gate's parameters, where that came through: half of all do
    source = dense.layers[0].ffn.gate_proj.weight
    run = moe.experts.gate_up_EGD[:, :1408].flatten(0, 1)
    where = {tuple(row[:4].tolist()): i for i, row in enumerate(source)}
    kept = [(position, where[key]) for position, row in enumerate(run) if (key := tuple(row[:4].tolist())) in where]
    assert len(kept) / len(run) == pytest.approx(0.5**4, rel=0.1)  # all four of its first parameters kept
    assert len(run) == 16 * 5504 - 3584
    for copy in range(16):
        ids = [i for position, i in kept if position // 5504 == copy]
        assert len(set(ids)) == len(ids) > 0
    old = torch.stack([source[i] for _, i in kept])[:, 4:]
    new = torch.stack([run[position] for position, _ in kept])[:, 4:]
    assert float((old == new).float().mean()) == pytest.approx(0.5, abs=0.002)
