"""Upcycling keeps the function: the sparse twin of a dense model gives the same logits, whatever its router says."""

import pytest
import torch
import transformers
from tiny_models import logits, on, relative_diff, tiny_config, tiny_decoder, tokens, word_tokenizer

from moe_lm.checkpoint.read import load
from moe_lm.checkpoint.write import save
from moe_lm.config import MoEConfig
from moe_lm.count import count
from moe_lm.engine.generator import GenerateRequest, Generator
from moe_lm.errors import ModelError
from moe_lm.model import route
from moe_lm.upcycle.preserve import Upcycle, preserve

TINY = Upcycle(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=20)
PROMPTS = ("The capital of France is", "def add(a, b):\n    return", "Water boils at 100 degrees because", "今日は")


def visited(model, run):
    """Which experts each layer's tokens go to while `run` runs."""
    seen = [set() for _ in model.layers]
    hooks = []
    for layer, experts in zip(model.layers, seen, strict=True):

        def record(router, inputs, logits, moe=layer.ffn.moe, experts=experts):
            experts.update(route(logits, moe.num_experts_per_tok, moe.norm_topk_prob)[1].flatten().tolist())

        hooks.append(layer.ffn.router.register_forward_hook(record))
    run()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.fixture(params=["llama", "llama-tied", "qwen2", "qwen2-tied"])
def dense(request):
    family, _, tied = request.param.partition("-")
    return tiny_decoder(tiny_config(family, tied=bool(tied)))


@pytest.mark.parametrize(("num_experts", "k"), [(5, 2), (8, 1), (3, 3), (1, 1), (16, 4), (60, 4)])
def test_same_logits(dense, num_experts, k):
    sequences = [tokens(n, seed=n) for n in (1, 40, 100)]
    expected = logits(dense, *sequences)
    sparse = preserve(dense, Upcycle(num_experts, k, 20))
    for found, wanted in zip(logits(sparse, *sequences), expected, strict=True):
        assert relative_diff(found, wanted) <= 1e-5


def test_tokens_visit_several_experts(dense):
    sparse = preserve(dense, TINY)
    seen = visited(sparse, lambda: logits(sparse, tokens(200, seed=1)))
    assert all(experts == set(range(5)) for experts in seen)


def test_the_seed_chooses_the_router(dense):
    def routers(seed):
        return [layer.ffn.router.weight for layer in preserve(dense, Upcycle(5, 2, 20, seed)).layers]

    assert all(torch.equal(a, b) for a, b in zip(routers(0), routers(0), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(routers(0), routers(1), strict=True))
    assert not torch.equal(*routers(0))  # nor does every layer get the same one


def test_the_dense_model_is_unchanged(dense):
    before = {name: p.clone() for name, p in dense.named_parameters()}
    config, sequence = dense.config, tokens(30, seed=2)
    wanted = logits(dense, sequence)
    sparse = preserve(dense, TINY)
    logits(sparse, sequence)
    after = dict(dense.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert dense.config == config
    assert torch.equal(logits(dense, sequence), wanted)


def test_config_and_parameter_count(dense):
    sparse = preserve(dense, TINY)
    assert sparse.config.family == "qwen2_moe"
    assert sparse.config.moe == MoEConfig(5, 2, 20, dense.config.intermediate_size - 20, True)
    assert count(sparse.config).total == sum(p.numel() for p in sparse.parameters())
    assert count(dense.config).total == sum(p.numel() for p in dense.parameters())


def test_transformers_loads_it(dense, tmp_path):
    sparse = preserve(dense, TINY)
    save(sparse, word_tokenizer(), tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(theirs).__name__ == "Qwen2MoeForCausalLM"
    sequence = tokens(50, seed=3)
    with torch.inference_mode():
        assert relative_diff(theirs(torch.tensor([sequence])).logits[0], logits(dense, sequence)) <= 1e-5
    assert torch.equal(logits(load(tmp_path).model, sequence), logits(sparse, sequence))


def test_refuses_a_mixture_of_experts():
    with pytest.raises(ModelError, match="dense"):
        preserve(tiny_decoder(tiny_config("qwen2_moe")), TINY)


@pytest.mark.parametrize(
    ("family", "options", "lacks"),
    [
        ("gemma", {}, "GeGLU"),
        ("mistral", {"sliding_window": 16}, "a sliding window"),
        ("qwen3", {}, "norms of queries and keys"),  # Qwen3-MoE has them, but no shared expert, which every recipe here fills
        ("llama", {"query_pre_attn_scalar": 16}, "attention scores scaled otherwise"),
    ],
)
def test_refuses_what_qwen2_moe_cannot_express(family, options, lacks):
    with pytest.raises(ModelError, match=f"a {family} model cannot become Qwen2-MoE, which lacks {lacks}; try llama or qwen2"):
        preserve(tiny_decoder(tiny_config(family, **options)), TINY)


def test_reports_every_layer(dense):
    done = []
    preserve(dense, TINY, done.append)
    assert done == [1, 2]


@pytest.mark.parametrize("width", [48, 49])
def test_refuses_experts_as_wide_as_the_dense_ffn(width):
    with pytest.raises(ModelError, match="moe_intermediate_size"):
        preserve(tiny_decoder(tiny_config()), Upcycle(5, 2, width))


def check_twin(checkpoint, recipe, count):
    """The same logits after every prompt, and the same `count` greedy tokens after the first two, through ends of text."""
    dense, encode = checkpoint.model, checkpoint.tokenizer.encode
    before = {name: p.sum(dtype=torch.float64) for name, p in dense.named_parameters()}
    prompts = [encode(prompt) for prompt in PROMPTS]
    wanted = logits(dense, *prompts)
    sparse = preserve(dense, recipe)
    found = []
    seen = visited(sparse, lambda: found.extend(logits(sparse, *prompts)))
    diff = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
    print(f"SmolLM2 against its twin of {recipe.num_experts} experts, top-{recipe.num_experts_per_tok}: max |logit diff| {diff:.2g}")
    assert diff <= 2e-4
    assert min(map(len, seen)) > recipe.num_experts_per_tok

    def greedy(model):
        generator = Generator(on("cpu", model), checkpoint.tokenizer.decode, stop_ids=frozenset())
        answers = dict(generator.generate([GenerateRequest(prompt, max_new_tokens=count) for prompt in prompts[:2]]))
        return [answers[i].tokens for i in range(2)]

    assert [len(tokens) for tokens in greedy(dense)] == [count] * 2
    assert greedy(sparse) == greedy(dense)
    assert all(p.sum(dtype=torch.float64) == before[name] for name, p in dense.named_parameters())


def test_smollm2(smollm2):
    check_twin(smollm2, Upcycle(), 30)


@pytest.mark.slow
@pytest.mark.parametrize(("num_experts", "k"), [(8, 2), (16, 4), (60, 4)])
def test_smollm2_at_other_sizes(smollm2, num_experts, k):
    check_twin(smollm2, Upcycle(num_experts, k), 50)
