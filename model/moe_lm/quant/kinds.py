"""The GGUF types that products read as they are stored."""

# where in a block its float16 numbers lie: a scale, and in some a minimum
FLOATS = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
KINDS = tuple(FLOATS)
