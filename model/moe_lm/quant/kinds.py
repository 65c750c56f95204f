"""What products read as it is stored: GGUF types, and groups of 4-bit codes (`moe_lm.quant.grouped`)."""

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

# where in a block its float16 numbers lie: a scale, and in some a minimum
FLOATS = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
KINDS = tuple(FLOATS)
GROUPS = {"GROUP_32": 32, "GROUP_64": 64, "GROUP_128": 128}  # inputs of a group, or of a part of a larger one


def group_kind(size: int) -> str | None:
    """The kind that groups of so many inputs are stored as, whole or in parts; None if there is none."""
    return next((kind for kind in reversed(GROUPS) if size % GROUPS[kind] == 0), None)


def bytes_a_weight(kind: str) -> float:
    """Of KINDS or GROUPS, as products read them: a group has a scale in float32 and a zero point of one byte."""
    if kind in GROUPS:
        return 0.5 + 5 / GROUPS[kind]
    weights, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return nbytes / weights
