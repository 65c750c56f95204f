"""The compiled kernels: equal to float64 within float32's rounding, and no row's bits depend on who comes with it."""

import platform
import subprocess

import pytest
import torch
import torch.nn.functional as F

from moe_lm.backends.cpu import compiled
from moe_lm.backends.cpu.compiled import PAGE, PANEL, Packed, Places
from moe_lm.backends.experts import choose, reference, route
from moe_lm.errors import ModelError

pytestmark = pytest.mark.skipif(not compiled.available(), reason="the compiled kernels need Linux and a C++ compiler")

SHAPES = [(1, 1, 1), (3, 31, 7), (12, 32, 256), (13, 33, 257), (48, 96, 300), (50, 600, 40), (241, 70, 600), (500, 290, 64)]


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def relative_error(found, exact):
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_a_product(rows, outputs, inputs, dtype, threads):
    x, weight, bias = random(rows, inputs), random(outputs, inputs, seed=1, dtype=dtype), random(outputs, seed=2)
    found = Packed.of(weight[None], bias)(x)
    assert relative_error(found, x.double() @ weight.double().t() + bias.double()) < 1e-6
    assert torch.equal(Packed.of(weight[None], bias)(x.bfloat16()), Packed.of(weight[None], bias)(x.bfloat16().float()).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_row_is_the_same_bits_among_any_number_of_rows(dtype, threads):
    for outputs, inputs in ((70, 600), (256, 896)):
        packed, x = Packed.of(random(1, outputs, inputs, seed=1, dtype=dtype)), random(300, inputs)
        alone = torch.cat([packed(row[None]) for row in x])
        for begin, end in [(0, 300), (0, 240), (1, 50), (7, 19), (8, 21), (290, 292)]:
            assert torch.equal(packed(x[begin:end]), alone[begin:end])


@pytest.mark.parametrize(("activation", "exact"), [("silu", F.silu), ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"))])
@pytest.mark.parametrize("width", [5, compiled.HALF, compiled.HALF + 1, 100])
def test_a_gated_product(activation, exact, width):
    gate, up, x = random(1, width, 48), random(1, width, 48, seed=1), 3 * random(30, 48, seed=2)
    found = Packed.gated(gate, up, activation)(x)
    assert relative_error(found, exact(x.double() @ gate[0].double().t()) * (x.double() @ up[0].double().t())) < 1e-6
    assert Packed.gated(gate, up, activation)(x * 1e3).isfinite().all()  # e^x at its ends


def test_a_product_is_added_to_what_is_there(threads):
    packed, x, base, factors = Packed.of(random(1, 70, 600)), random(50, 600, seed=1), random(50, 70, seed=2), random(50, seed=3)
    onto = base.clone()
    assert packed(x, into=onto, add=True) is onto
    assert torch.equal(onto, base + packed(x))
    onto = base.clone()
    packed(x, into=onto, add=True, factors_M=factors)
    assert relative_error(onto, base.double() + factors.double()[:, None] * packed(x).double()) < 1e-6


def test_an_embedding_is_found_in_the_packed_head():
    weight = random(PANEL * 2 + 5, 24)
    ids = torch.tensor([0, PANEL - 1, PANEL, 2 * PANEL + 4, 3])
    assert torch.equal(Packed.of(weight[None]).rows(ids), weight[ids])


ROUTINGS = {
    "random": lambda T, E, K: torch.stack([torch.randperm(E, generator=torch.Generator().manual_seed(t))[:K] for t in range(T)]),
    "all on one expert": lambda T, E, K: torch.arange(E - K, E).expand(T, K).contiguous(),
}


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("T", "E", "K"), [(1, 7, 2), (40, 7, 3), (9, 1, 1), (600, 5, 2)])
def test_experts(T, E, K, dtype, routing):
    D, H = 48, 20
    x, weights, ids = random(T, D, dtype=dtype), random(T, K, seed=1).abs(), ROUTINGS[routing](T, E, K)
    gate_up, down = random(E, 2 * H, D, seed=2, dtype=dtype), random(E, D, H, seed=3, dtype=dtype)
    seat = Packed.gated(*gate_up.chunk(2, dim=1), "silu"), Packed.of(down)
    found = compiled.routed_experts(x, weights, ids, *seat)
    exact = reference(x.double(), weights.double(), ids, gate_up.double(), down.double())
    assert relative_error(found, exact) < (1e-6 if dtype == torch.float32 else 4e-3)
    assert torch.equal(
        torch.cat([compiled.routed_experts(x[t : t + 1], weights[t : t + 1], ids[t : t + 1], *seat) for t in (0, T - 1)]), found[[0, -1]]
    )


@pytest.mark.parametrize("routing", ["random", "all on one expert", "on the first experts"])
def test_experts_some_at_a_time(monkeypatch, routing):
    """In groups of experts, whose last ones may be empty: the same bits."""
    T, E, K, D, H = 50, 9, 3, 40, 24
    ids = torch.arange(K).expand(T, K) if routing == "on the first experts" else ROUTINGS[routing](T, E, K)
    x, weights = random(T, D), random(T, K, seed=1).abs()
    seat = Packed.gated(random(E, H, D, seed=2), random(E, H, D, seed=3), "silu"), Packed.of(random(E, D, H, seed=4))
    whole = compiled.routed_experts(x, weights, ids, *seat)
    for group in (1, 16, 60):
        monkeypatch.setattr(compiled, "GROUP", group)
        assert torch.equal(compiled.routed_experts(x, weights, ids, *seat), whole)
    assert compiled.routed_experts(x[:0], weights[:0], ids[:0], *seat).shape == (0, D)


def test_ties_go_to_the_lowest_expert():
    weights, ids = route(torch.zeros(3, 5), 2, norm_topk_prob=True)
    assert ids.tolist() == [[0, 1]] * 3
    down = random(5, 8, 4)
    seat = Packed.gated(random(5, 4, 8, seed=1), random(5, 4, 8, seed=2), "silu"), Packed.of(down)
    x = random(3, 8, seed=3)
    assert torch.equal(compiled.routed_experts(x, weights, ids, *seat), compiled.routed_experts(x, weights, ids.flip(1), *seat))


ATTENTIONS = [
    (9, 3, 64, None),
    (14, 2, 64, None),
    (4, 4, 8, 7),
    (8, 2, 256, 200),
    (8, 1, 40, PAGE),
    (6, 6, 128, 1),
    (64, 1, 96, None),
    (4, 2, 200, 7),
]


@pytest.mark.parametrize(("H", "J", "d", "window"), ATTENTIONS)
def test_attention_over_pages(H, J, d, window, threads):
    """Three sequences on scattered pages, two of them on the same first page: all at once, and only the last tokens of each."""
    lengths = [PAGE + 5, 1, 2 * PAGE + 57]
    positions = torch.cat([torch.arange(length) for length in lengths]).int()
    sequences = torch.arange(3).repeat_interleave(torch.tensor(lengths)).int()
    table = torch.tensor([[4, 2, 0], [6, 0, 0], [4, 1, 5]], dtype=torch.int32)
    q, k, v = (random(len(positions), heads, d, seed=seed) for seed, heads in enumerate((H, J, J)))
    for kv in (k, v):  # what is on one page is the same
        kv[-lengths[2] :][:PAGE] = kv[:PAGE]
    k_pages, v_pages = (torch.zeros(7, J, *compiled.page_shape(which, d)) for which in "kv")
    places = Places(positions, sequences, table)
    compiled.append(k, v, places, k_pages, v_pages)
    found = compiled.attend(q, places, k_pages, v_pages, window)
    for i in range(3):
        mine = sequences == i
        exact = exact_attention(q[mine], k[mine], v[mine], window)
        assert relative_error(found[mine], exact) < 1e-6
    last = positions >= torch.tensor(lengths)[sequences.long()] - 3
    some = compiled.attend(q[last], Places(positions[last], sequences[last], table), k_pages, v_pages, window)
    assert torch.equal(some, found[last])
    each = [
        compiled.attend(q[t : t + 1], Places(positions[t : t + 1], sequences[t : t + 1], table), k_pages, v_pages, window)
        for t in (0, 140, -1 % len(q))
    ]
    assert torch.equal(torch.cat(each), found[[0, 140, -1]])


def exact_attention(q, k, v, window):
    T, H, _ = q.shape
    visible = torch.ones(T, T, dtype=torch.bool).tril()
    if window:
        visible = visible.triu(1 - window)
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(H // len(k), dim=0) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(0, 1)


@pytest.fixture
def fresh_build(monkeypatch, tmp_path):
    """As in a process that has built nothing yet, on a machine that has kept nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for function in (compiled.available, compiled.library):
        function.cache_clear()
    yield tmp_path
    for function in (compiled.available, compiled.library):
        function.cache_clear()


def test_the_build_is_kept(fresh_build, monkeypatch):
    compiled.library()
    (built,) = (fresh_build / "evalkit" / "kernels").iterdir()
    compiled.library.cache_clear()
    monkeypatch.setattr(compiled, "_build", lambda *_: pytest.fail("built again"))
    compiled.library()
    assert built.suffix == ".so"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the narrower vectors are AVX2's")
def test_narrower_vectors_give_the_same_bits(fresh_build, monkeypatch):
    def answers():
        table = torch.tensor([[2, 0, 3]], dtype=torch.int32)
        places = Places(torch.arange(300).int(), torch.zeros(300).int(), table)
        k_pages, v_pages = (torch.zeros(4, 2, *compiled.page_shape(which, 40)) for which in "kv")
        compiled.append(random(300, 2, 40), random(300, 2, 40, seed=1), places, k_pages, v_pages)
        x = random(50, 300)
        return [
            Packed.of(random(1, 70, 300, seed=1))(x),
            Packed.of(random(1, 70, 300, seed=1))(x, into=random(50, 70, seed=6), add=True, factors_M=random(50, seed=7)),
            Packed.gated(random(1, 40, 300, seed=2), random(1, 40, 300, seed=3), "silu")(x),
            compiled.normalise(x, random(300, seed=4), 1e-5, 0.0),
            compiled.attend(random(300, 6, 40, seed=5), places, k_pages, v_pages, None),
        ]

    native = answers()
    flags = tuple(flag.replace("-march=native", "-march=x86-64-v3") for flag in compiled.FLAGS)
    monkeypatch.setattr(compiled, "FLAGS", flags)
    compiled.library.cache_clear()
    for found, expected in zip(answers(), native, strict=True):
        assert torch.equal(found, expected)


def test_without_a_compiler_torch_takes_the_seat(fresh_build, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert choose("auto", "cpu") == "torch"
    with pytest.raises(ModelError, match=r"needs a C\+\+ compiler .* or use --kernel torch"):
        choose("cpu", "cpu")


def test_a_compiler_that_fails_is_quoted(fresh_build, monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho 'x.cpp:1: error: unknown option' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(ModelError, match=r"broken can't build compiled.cpp: x.cpp:1: error: unknown option"):
        choose("cpu", "cpu")
    assert choose("auto", "cpu") == "torch"


def test_other_precisions_are_torchs():
    assert choose("auto", "cpu", torch.float64) == "torch"
    with pytest.raises(ModelError, match="takes float32 and bfloat16"):
        choose("cpu", "cpu", torch.float16)


def test_the_source_has_no_warnings(tmp_path):
    command = [
        compiled.compiler(),
        *compiled.FLAGS,
        "-Wall",
        "-Wextra",
        "-Wno-psabi",
        "-Werror",
        str(compiled.SOURCE),
        "-o",
        str(tmp_path / "x.so"),
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""


@pytest.mark.parametrize(("width", "offset"), [(48, 0.0), (100, 1.0), (7, 0.0), (896, 0.0)])
def test_a_norm(width, offset, threads):
    x, weight = random(50, width), random(width, seed=1)
    found = compiled.normalise(x, weight, 1e-5, offset)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * (offset + weight.double())
    assert relative_error(found, exact) < 1e-6
    assert torch.equal(torch.cat([compiled.normalise(row[None], weight, 1e-5, offset) for row in x]), found)


@pytest.mark.parametrize("d", [2, 8, 20, 64])
def test_a_rotation(d, threads):
    """Two heads turn, the third does not."""
    angles = random(40, d // 2, seed=1)
    x = random(40, 3 * d)
    found = x.clone()
    compiled.rotate(found, angles.cos(), angles.sin(), heads=2)
    lower, upper = x.double().view(40, 3, 2, d // 2).unbind(2)
    cos, sin = angles.cos().double()[:, None], angles.sin().double()[:, None]
    exact = torch.cat((lower * cos - upper * sin, upper * cos + lower * sin), dim=-1)
    assert relative_error(found.view(40, 3, d)[:, :2], exact[:, :2]) < 1e-6
    assert torch.equal(found[:, 2 * d :], x[:, 2 * d :])
    some = x[7:12].clone()
    compiled.rotate(some, angles[7:12].cos(), angles[7:12].sin(), heads=2)
    assert torch.equal(some, found[7:12])
