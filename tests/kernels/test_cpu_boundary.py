"""What does not fit is refused before C++ reads or writes memory, whichever argument it is."""

import pytest
import torch
from cpu_cases import NUM_PAGES, TABLE, needs_kernels, random, three_sequences

from moe_lm.backends.cpu import fused
from moe_lm.backends.cpu.fused import LayerArgument, MatrixArgument, NormArgument
from moe_lm.backends.cpu.launch import (
    TokenPlaces,
    append_kv,
    combine,
    gemm,
    logsumexp,
    page_shape,
    paged_attention,
    rms_norm,
    rope_,
    rotation,
    route,
    sigmoid,
)
from moe_lm.backends.cpu.moe import routed_experts
from moe_lm.backends.cpu.pack import PANEL, PackedMatrix
from moe_lm.backends.cpu.pack_quantized import PACKED_KINDS, STRIPE

pytestmark = needs_kernels

T, J, H, D = 447, 2, 4, 40  # tokens as in three_sequences


def good_gemm():
    return {
        "x_MK": random(6, 16),
        "matrix": PackedMatrix.of(random(3, 10, 16)),
        "offsets": torch.tensor([0, 2, 2, 5]),
        "order_R": torch.tensor([0, 5, 3, 3, 1]),
        "out": torch.zeros(5, 10),
        "accumulate": True,
        "row_scales_M": random(5),
    }


def good_norm():
    return {"x_TD": random(5, 20), "weight_D": random(20), "eps": 1e-5}


def good_rope():
    return {"x_TW": random(5, 24), "cos_Tr": random(5, 4), "sin_Tr": random(5, 4), "heads": 3}


def pages():
    return {f"{which}_pages": torch.zeros(NUM_PAGES, J, *page_shape(which, D)) for which in "kv"}


def good_append():
    return {"k_TJd": random(T, J, D), "v_TJd": random(T, J, D), "places": three_sequences(), **pages()}


def good_attention():
    return {"q_THd": random(T, H, D), "places": three_sequences(), **pages(), "window": 9}


def good_combine():
    return {
        "y_RD": random(6, 8),
        "rows_TK": torch.arange(6).view(3, 2),
        "weights_TK": random(3, 2),
        "begin": 0,
        "out_TD": torch.zeros(3, 8),
    }


def good_experts():
    return {
        "x_TD": random(4, 8),
        "topk_weights_TK": random(4, 2),
        "topk_ids_TK": torch.tensor([[0, 1], [2, 1], [0, 2], [2, 0]]),
        "gate_up": PackedMatrix.gated(random(3, 6, 8), random(3, 6, 8), "silu"),
        "down": PackedMatrix.of(random(3, 8, 6)),
    }


WEIGHTS = {  # kept here: the argument has their addresses
    "qkv": PackedMatrix.of(random(1, (H + 2 * J) * D, 32)),
    "o": PackedMatrix.of(random(1, 32, H * D)),
    "gate_up": PackedMatrix.gated(random(1, 48, 32), random(1, 48, 32), "silu"),
    "down": PackedMatrix.of(random(1, 32, 48)),
}
ONES = torch.ones(H * D)


def layer(**changes):
    norms = {name: NormArgument(ONES.data_ptr(), 32, 1e-5, 0.0) for name in ("input", "ffn")}
    matrices = {name: MatrixArgument.of(matrix, False) for name, matrix in WEIGHTS.items()}
    return LayerArgument(**{**norms, **matrices, "H": H, "J": J, "d": D, "window": 0, "scale": 1.0} | changes)


def good_attend():
    rotated = {"cos_Tr": random(T, D // 2), "sin_Tr": random(T, D // 2)}
    return {"layer": layer(), "x_TD": random(T, 32), **rotated, "places": three_sequences(), **pages()}


def places(**changes):
    good = three_sequences()
    return TokenPlaces(**{name: changes.get(name, getattr(good, name)) for name in ("positions", "sequences", "table")})


def changed(tensor, at, value):
    tensor = tensor.clone()
    tensor[at] = value
    return tensor


GOOD = {
    gemm: good_gemm,
    rms_norm: good_norm,
    rope_: good_rope,
    append_kv: good_append,
    paged_attention: good_attention,
    combine: good_combine,
    routed_experts: good_experts,
    route: lambda: {"router_logits_TE": random(4, 5), "num_experts_per_tok": 2, "norm_topk_prob": True},
    sigmoid: lambda: {"x_T": random(4)},
    rotation: lambda: {"positions_T": torch.arange(4, dtype=torch.int32), "inv_freq_r": random(6)},
    logsumexp: lambda: {"x_PV": random(4, 9)},
    fused.attend: good_attend,
    fused.feed: lambda: {"layer": layer(), "attended_TW": random(5, H * D), "x_TD": random(5, 32)},
}
META = {"device": "meta"}
POSITIONS, SEQUENCES = three_sequences().positions, three_sequences().sequences
BAD_PLACES = [
    ("places", lambda: places(positions=changed(POSITIONS, 3, -1)), "positions has a token"),
    ("places", lambda: places(positions=changed(POSITIONS, -1, 3 * 128)), "positions has a token"),
    ("places", lambda: places(sequences=changed(SEQUENCES, 0, 3)), "sequences has a sequence"),
    ("places", lambda: places(sequences=changed(SEQUENCES, 0, -1)), "sequences has a sequence"),
    ("places", lambda: places(table=changed(TABLE, (2, 1), NUM_PAGES)), "table has a page"),
    ("places", lambda: places(table=changed(TABLE, (2, 1), -1)), "table has a page"),
    ("k_pages", lambda: torch.zeros(NUM_PAGES, J, 2, D + 1, 64), r"k_pages is float32 \[7, 2, 2, 41, 64\]"),
    ("k_pages", lambda: torch.zeros(NUM_PAGES, J, 2, D, 64).double(), "k_pages is float64"),
    ("v_pages", lambda: torch.zeros(NUM_PAGES, J, 2, 128, 64), "v_pages"),
    ("v_pages", lambda: torch.zeros(NUM_PAGES - 1, J, *page_shape("v", D)), r"wanted: float32 \[7, 2, 1, 128, 64\]"),
    ("v_pages", lambda: torch.zeros(NUM_PAGES, J, *page_shape("v", D)[::-1]).transpose(2, 4), "with strides"),
]
BAD = {
    gemm: [
        ("x_MK", lambda: random(6, 8), r"x is float32 \[6, 8\] on cpu; wanted: float32 or bfloat16 \[any, 16\] on cpu"),
        ("x_MK", lambda: random(16), "x is"),
        ("x_MK", lambda: random(6, 16).double(), "x is float64"),
        ("x_MK", lambda: torch.empty(6, 16, **META), "on meta"),
        ("matrix", lambda: PackedMatrix.of(random(3, 10, 17)), "x is"),
        ("matrix", lambda: PackedMatrix.of(random(3, 11, 16)), "out is"),
        ("matrix", lambda: PackedMatrix.of(random(2, 10, 16)), "offsets is"),
        ("offsets", lambda: torch.tensor([0, 2, 2, 5]).int(), "offsets is int32"),
        ("offsets", lambda: torch.tensor([0, 2, 5]), "offsets is"),
        ("offsets", lambda: torch.tensor([0, 0, 2, 0, 2, 0, 5, 0])[::2], "with strides"),
        ("offsets", lambda: torch.tensor([0, 3, 2, 5]), "offsets do not rise from 0"),
        ("offsets", lambda: torch.tensor([0, 2, 9, 5]), "offsets do not rise from 0"),
        ("offsets", lambda: torch.tensor([-1, 2, 2, 5]), "offsets do not rise from 0"),
        ("offsets", lambda: torch.tensor([0, 2, 2, 6]), "to the number of rows"),
        ("order_R", lambda: torch.tensor([0, 6, 3, 3, 1]), "order has a row that x does not have"),
        ("order_R", lambda: torch.tensor([0, -1, 3, 3, 1]), "order has a row"),
        ("order_R", lambda: torch.tensor([0, 5, 3, 3, 1]).int(), "order is int32"),
        ("order_R", lambda: torch.tensor([0, 5, 3, 3]), "out is"),
        ("out", lambda: torch.zeros(5, 11), r"out is float32 \[5, 11\]"),
        ("out", lambda: torch.zeros(5, 10).bfloat16(), "out is bfloat16"),
        ("out", lambda: torch.zeros(10, 5).t(), "with strides"),
        ("row_scales_M", lambda: random(6), "row_scales is"),
        ("row_scales_M", lambda: torch.ones(5).int(), "row_scales is int32"),
        ("accumulate", lambda: False, "row_scales are for accumulate"),
    ],
    rms_norm: [
        ("x_TD", lambda: random(20), "x is"),
        ("x_TD", lambda: random(5, 20).bfloat16(), "x is bfloat16"),
        ("weight_D", lambda: random(19), r"weight is float32 \[19\] on cpu; wanted: float32 \[20\]"),
        ("weight_D", lambda: random(20).bfloat16(), "weight is bfloat16"),
        ("weight_D", lambda: random(40)[::2], "with strides"),
        ("weight_D", lambda: torch.empty(20, **META), "on meta"),
    ],
    rope_: [
        ("x_TW", lambda: random(5, 24).double(), "x is float64"),
        ("x_TW", lambda: random(5, 48)[:, :24], "with strides"),
        ("x_TW", lambda: random(4, 24), "cos is"),
        ("cos_Tr", lambda: random(5, 5), "sin is"),
        ("cos_Tr", lambda: random(5, 4).bfloat16(), "cos is bfloat16"),
        ("sin_Tr", lambda: random(4, 4), "sin is"),
        ("heads", lambda: 4, "heads is 4; wanted: 0 to 3"),
        ("heads", lambda: -1, "heads is -1"),
    ],
    append_kv: [
        ("k_TJd", lambda: random(T, J + 1, D), "v is"),
        ("k_TJd", lambda: random(T - 1, J, D), "k is"),
        ("k_TJd", lambda: random(T, J, D).half(), "k is float16"),
        ("v_TJd", lambda: random(T, J, D + 1), "v is"),
        ("v_TJd", lambda: torch.empty(T, J, D, **META), "on meta"),
        *BAD_PLACES,
    ],
    paged_attention: [
        ("q_THd", lambda: random(T, 3, D), "q has 3 heads, and the pages have 2"),
        ("q_THd", lambda: random(T, H, D + 1), "k_pages is"),
        ("q_THd", lambda: random(T + 1, H, D), "q is"),
        ("q_THd", lambda: random(T, H, D).double(), "q is float64"),
        ("window", lambda: 0, "window is 0"),
        ("window", lambda: -3, "window is -3"),
        *BAD_PLACES,
    ],
    combine: [
        ("y_RD", lambda: random(6, 9), "out is"),
        ("y_RD", lambda: random(6, 8).bfloat16(), "y is bfloat16"),
        ("y_RD", lambda: random(8, 6).t(), "with strides"),
        ("rows_TK", lambda: torch.arange(6).view(3, 2).int(), "rows is int32"),
        ("rows_TK", lambda: torch.arange(6).view(2, 3), "weights is"),
        ("weights_TK", lambda: random(3, 3), "weights is"),
        ("weights_TK", lambda: random(3, 2).double(), "weights is float64"),
        ("begin", lambda: -1, "begin is -1"),
        ("out_TD", lambda: torch.zeros(2, 8), "out is"),
        ("out_TD", lambda: torch.zeros(8, 3).t(), "with strides"),
    ],
    routed_experts: [
        ("x_TD", lambda: random(4, 9), "x is"),
        ("x_TD", lambda: random(5, 8), "topk_ids is"),
        ("topk_weights_TK", lambda: random(4, 3), "topk_weights is"),
        ("topk_ids_TK", lambda: torch.tensor([[0, 1], [3, 1], [0, 2], [2, 0]]), "the highest of topk_ids is 3; wanted: 0 to 2"),
        ("topk_ids_TK", lambda: torch.tensor([[0, 1], [-1, 1], [0, 2], [2, 0]]), "the lowest of topk_ids is -1"),
        ("topk_ids_TK", lambda: torch.zeros(4, 2).int(), "topk_ids is int32"),
        ("gate_up", lambda: PackedMatrix.gated(random(3, 6, 9), random(3, 6, 9), "silu"), "x is"),
        ("gate_up", lambda: PackedMatrix.gated(random(2, 6, 8), random(2, 6, 8), "silu"), "offsets is"),
        ("gate_up", lambda: PackedMatrix.gated(random(3, 5, 8), random(3, 5, 8), "silu"), "x is"),
        ("down", lambda: PackedMatrix.of(random(3, 8, 7)), "x is"),
    ],
    route: [
        ("router_logits_TE", lambda: random(5), "router_logits is"),
        ("router_logits_TE", lambda: random(4, 5).bfloat16(), "router_logits is bfloat16"),
        ("router_logits_TE", lambda: torch.empty(4, 5, **META), "on meta"),
        ("num_experts_per_tok", lambda: 0, "num_experts_per_tok is 0; wanted: 1 to 5"),
        ("num_experts_per_tok", lambda: 6, "num_experts_per_tok is 6"),
    ],
    sigmoid: [
        ("x_T", lambda: random(4, 1), "x is"),
        ("x_T", lambda: random(4).double(), "x is float64"),
    ],
    rotation: [
        ("positions_T", lambda: torch.arange(4), "positions is int64"),
        ("positions_T", lambda: torch.arange(8, dtype=torch.int32)[::2], "with strides"),
        ("inv_freq_r", lambda: random(6).double(), "inv_freq is float64"),
        ("inv_freq_r", lambda: random(2, 3), "inv_freq is"),
    ],
    logsumexp: [
        ("x_PV", lambda: random(9), "x is"),
        ("x_PV", lambda: random(4, 9).bfloat16(), "x is bfloat16"),
        ("x_PV", lambda: random(4, 0), "the width of x is 0"),
    ],
    fused.attend: [
        ("layer", lambda: layer(d=D + 2), "cos is"),
        ("layer", lambda: layer(J=4), "k_pages is"),
        ("x_TD", lambda: random(T, 33), "x is"),
        ("x_TD", lambda: random(T - 1, 32), "x is"),
        ("x_TD", lambda: random(T, 32).bfloat16(), "x is bfloat16"),
        ("x_TD", lambda: random(32, T).t(), "with strides"),
        ("cos_Tr", lambda: random(T, D), "cos is"),
        ("sin_Tr", lambda: random(T - 1, D // 2), "sin is"),
        *BAD_PLACES,
    ],
    fused.feed: [
        ("layer", lambda: layer(down=MatrixArgument()), "no gate_up and down"),
        ("attended_TW", lambda: random(5, H * D + 1), "attended is"),
        ("attended_TW", lambda: random(4, H * D), "attended is"),
        ("attended_TW", lambda: random(5, H * D).double(), "attended is float64"),
        ("x_TD", lambda: random(5, 33), "x is"),
        ("x_TD", lambda: random(32, 5).t(), "with strides"),
    ],
}


@pytest.mark.parametrize("launcher", GOOD, ids=lambda launcher: launcher.__name__)
def test_what_fits_is_computed(launcher):
    launcher(**GOOD[launcher]())


CASES = [
    pytest.param(launcher, *case, id=f"{launcher.__name__}-{case[0]}-{i}")
    for launcher, cases in BAD.items()
    for i, case in enumerate(cases)
]  # fmt: skip


@pytest.mark.parametrize(("launcher", "argument", "value", "message"), CASES)
def test_what_does_not_fit_is_refused(launcher, argument, value, message):
    arguments = GOOD[launcher]()
    before = {name: each.clone() for name, each in arguments.items() if isinstance(each, torch.Tensor)}
    with pytest.raises(ValueError, match=message):
        launcher(**arguments | {argument: value()})
    assert all(torch.equal(arguments[name], each) for name, each in before.items())


@pytest.mark.parametrize("launcher", BAD, ids=lambda launcher: launcher.__name__)
def test_every_argument_is_covered(launcher):
    """But the norm's epsilon, which may be any number, and a yes or no."""
    assert {argument for argument, _, _ in BAD[launcher]} == set(GOOD[launcher]()) - {"eps", "norm_topk_prob"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": torch.zeros(1, 2, 16, PANEL)}, "weights is"),
        ({"weights": torch.zeros(1, 1, 16, PANEL - 1)}, "weights is"),
        ({"weights": torch.zeros(1, 1, 16, PANEL).half()}, "weights is float16"),
        ({"weights": torch.zeros(1, 1, PANEL, 16).transpose(2, 3)}, "with strides"),
        ({"bias": torch.zeros(9)}, "bias is"),
        ({"bias": torch.zeros(10).bfloat16()}, "bias is bfloat16"),
        ({"outputs": PANEL + 1}, "weights is"),
        ({"activation": "relu"}, "activation is 'relu'; wanted: none, silu, gelu_tanh"),
    ],
)
def test_a_packed_matrix_is_whole(changes, message):
    good = {"weights": torch.zeros(1, 1, 16, PANEL), "outputs": 10, "bias": torch.zeros(10)}
    PackedMatrix(**good)
    with pytest.raises(ValueError, match=message):
        PackedMatrix(**good | changes)


LAYERS = [
    ({}, None),
    ({"gate_up": MatrixArgument(), "down": MatrixArgument()}, None),  # a mixture of experts
    ({name: NormArgument(ONES.data_ptr(), D, 1e-5, 0.0) for name in "qk"}, None),  # of each head
    ({"q": NormArgument(ONES.data_ptr(), H * D, 1e-5, 0.0), "k": NormArgument(ONES.data_ptr(), J * D, 1e-5, 0.0)}, None),
    ({"H": 3}, "heads a key and value head 1; wanted: 0"),
    ({"J": 0}, "heads a key and value head"),
    ({"d": D - 1}, "d % 2 1; wanted: 0"),
    ({"d": D - 2}, "outputs of qkv 320; wanted: 304"),
    ({"qkv": MatrixArgument.of(WEIGHTS["o"], False)}, "outputs of qkv"),
    ({"o": MatrixArgument.of(WEIGHTS["down"], False)}, "inputs of o 48; wanted: 160"),
    ({"gate_up": MatrixArgument.of(WEIGHTS["down"], False)}, "inputs of gate_up 48; wanted: 32"),
    ({"down": MatrixArgument.of(WEIGHTS["o"], False)}, "inputs of down 160; wanted: 48"),
    ({"down": MatrixArgument()}, "inputs of down 0; wanted: 48"),
    ({"input": NormArgument()}, "size of the norm input 0; wanted: 32"),
    ({"ffn": NormArgument(ONES.data_ptr(), 40, 1e-5, 0.0)}, "size of the norm ffn 40"),
    ({"ffn_post": NormArgument(ONES.data_ptr(), 40, 1e-5, 0.0)}, "size of the norm ffn_post 40"),
    ({"k": NormArgument(ONES.data_ptr(), H * D, 1e-5, 0.0)}, "rest of the norm k 80; wanted: 0"),
]


@pytest.mark.parametrize(("changes", "message"), LAYERS)
def test_a_layers_sizes_fit_each_other(changes, message):
    if message is None:
        layer(**changes).check()
        return
    with pytest.raises(ValueError, match=message):
        layer(**changes).check()


@pytest.mark.parametrize("token", [-1, 10, PANEL - 1, PANEL])
def test_an_embedding_out_of_range_is_refused(token):
    with pytest.raises(ValueError, match="ids is"):
        PackedMatrix.of(random(1, 10, 16)).rows(torch.tensor([3, token]))


def test_the_header_and_python_agree():
    from moe_lm.backends.cpu import build, launch, library, pack

    header = (build.SOURCE / "kernels.h").read_text()
    kinds = (build.SOURCE / "blocks.h").read_text().split("enum Kind : int {")[1].split("}")[0]
    assert [kind.strip() for kind in kinds.split(",")] == [*PACKED_KINDS, "KINDS"]
    assert f"constexpr int LANES = {STRIPE};" in (build.SOURCE / "simd.h").read_text()
    for name, value in {"PANEL": pack.PANEL, "PAGE": launch.PAGE, "SPAN": launch.SPAN}.items():
        assert f"constexpr int {name} = {value};" in header
    assert header.count("API int ") == len(library.SIGNATURES)
    for name, structure in {"Matrix": MatrixArgument, "Norm": NormArgument, "Layer": LayerArgument}.items():
        declared = header.split(f"struct {name} {{")[1].split("}")[0].replace("*", "").split(";")[:-1]
        fields = [field.strip() for line in declared for field in line.split(maxsplit=2 if "const" in line else 1)[-1].split(",")]
        assert fields == [field for field, _ in structure._fields_]
    faults = header.split("enum Fault : int {")[1].split("}")[0].split(",")
    assert [fault.strip().lower() for fault in faults[1:]] == [message.split()[0] for message in library.FAULTS.values()]
