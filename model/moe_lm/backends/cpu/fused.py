"""A decoder layer in float32 as two calls of C++, `attend` and `feed`: what lies between its kernels would take as long as some of them.

The structures are those of csrc/kernels.h, and hold addresses: whoever makes one keeps its tensors. T tokens; D hidden, H query heads,
J key/value heads, d head_dim, W = H * d.
"""

import ctypes

import torch
from torch import Tensor

from moe_lm.backends.cpu.check import check
from moe_lm.backends.cpu.launch import TokenPlaces, check_pages, table_of
from moe_lm.backends.cpu.library import call
from moe_lm.backends.cpu.pack import ACTIVATIONS, PackedMatrix
from moe_lm.backends.cpu.pack_quantized import PackedBlocks


class MatrixArgument(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weights", "parts", "places", "bias")),
        *((name, ctypes.c_int32) for name in ("bfloat16", "part_count", "K", "outputs", "activation", "int8")),
    )

    @classmethod
    def of(cls, matrix: PackedMatrix | PackedBlocks, int8: bool) -> "MatrixArgument":
        """The first matrix. `int8` as in `gemm`."""
        found = cls(
            bias=_address(matrix.bias), K=matrix.inputs, outputs=matrix.outputs, activation=ACTIVATIONS[matrix.activation], int8=int8
        )
        if isinstance(matrix, PackedBlocks):
            found.parts, found.part_count, found.places = _address(matrix.addresses), len(matrix.parts), _address(matrix.places)
        else:
            found.weights, found.bfloat16 = _address(matrix.weights), matrix.weights.dtype == torch.bfloat16
        return found


class NormArgument(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("size", ctypes.c_int32), ("eps", ctypes.c_float), ("offset", ctypes.c_float))


class LayerArgument(ctypes.Structure):
    """Without `gate_up` and `down`, `attend` alone takes it. `check` it once: C++ and the two launchers rely on its sizes."""

    _fields_ = (
        *((name, NormArgument) for name in ("input", "q", "k", "attention_post", "ffn", "ffn_post")),
        *((name, MatrixArgument) for name in ("qkv", "o", "gate_up", "down")),
        *((name, ctypes.c_int32) for name in ("H", "J", "d", "window")),
        ("scale", ctypes.c_float),
    )

    def check(self) -> None:
        """Raise ValueError for sizes that do not fit each other."""
        D, H, J, d, ffn = self.qkv.K, self.H, self.J, self.d, bool(self.gate_up.outputs or self.down.outputs)
        sizes = {
            "heads a key and value head": (H % J if J else -1, 0),
            "d % 2": (d % 2, 0),
            "outputs of qkv": (self.qkv.outputs, (H + 2 * J) * d),
            "inputs of o": (self.o.K, H * d),
            "outputs of o": (self.o.outputs, D),
            "inputs of gate_up": (self.gate_up.K, D if ffn else 0),
            "inputs of down": (self.down.K, self.gate_up.outputs),
            "outputs of down": (self.down.outputs, D if ffn else 0),
            "activations but gate_up's": (self.qkv.activation or self.o.activation or self.down.activation, 0),
            **{f"size of the norm {name}": (getattr(self, name).size, D) for name in ("input", "ffn")},
            **{f"size of the norm {name}": (size, D) for name in ("attention_post", "ffn_post") if (size := getattr(self, name).size)},
            **{
                f"rest of the norm {name}": (heads * d % size, 0)
                for name, heads in (("q", H), ("k", J))
                if (size := getattr(self, name).size)
            },
        }
        if wrong := {name: pair for name, pair in sizes.items() if pair[0] != pair[1]}:
            name, (found, wanted) = next(iter(wrong.items()))
            raise ValueError(f"a layer of {H} heads of {d}, {J} of keys and values, hidden {D}: {name} {found}; wanted: {wanted}")


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def attend(
    layer: LayerArgument, x_TD: Tensor, cos_Tr: Tensor, sin_Tr: Tensor, places: TokenPlaces, k_pages: Tensor, v_pages: Tensor
) -> Tensor:
    """What the tokens read: norm, queries, keys and values, rotary embedding, keys and values onto their pages, attention. [T, W]

    Raises ValueError for arguments that do not fit, and for a position, sequence or page that is out of range.
    """
    T = places.positions.shape[0]
    check("x", x_TD, (T, layer.qkv.K), torch.float32)
    check("cos", cos_Tr, (T, layer.d // 2), torch.float32)
    check("sin", sin_Tr, (T, layer.d // 2), torch.float32)
    check_pages(k_pages, v_pages, layer.J, layer.d)
    out_TW = torch.empty(T, layer.H * layer.d)
    where = table_of(places, k_pages)
    call("attend", ctypes.addressof(layer), x_TD, T, cos_Tr, sin_Tr, *where, k_pages, v_pages, out_TW)
    return out_TW


def feed(layer: LayerArgument, attended_TW: Tensor, x_TD: Tensor) -> None:
    """Add to x what the output projection makes of `attended`, then what the FFN makes of that. Raises ValueError as `attend` does."""
    check("attended", attended_TW, (x_TD.shape[0], layer.o.K), torch.float32)
    check("x", x_TD, (None, layer.o.outputs), torch.float32)
    if not layer.down.outputs:
        raise ValueError("the layer has no gate_up and down: its FFN is a mixture of experts")
    call("feed", ctypes.addressof(layer), attended_TW, x_TD.shape[0], x_TD)
