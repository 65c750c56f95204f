"""FP8: weights in float8_e4m3, with a scale for each block, each output, or all of them.

`weight` [O, K] and `weight_scale_inv` (DeepSeek's name, which transformers writes) or `weight_scale`. Either is what the weight is
multiplied by: [ceil(O/128), ceil(K/128)] with weight_block_size [128, 128], else [O, 1], [O] or a single number.
Written by transformers (fp8, fbgemm_fp8), DeepSeek, Qwen and AutoFP8.
"""

from dataclasses import dataclass

from moe_lm import kinds
from moe_lm.checkpoint.quantized.affine import Affine
from moe_lm.checkpoint.quantized.module import Module
from moe_lm.checkpoint.quantized.options import Raw, one_of, option
from moe_lm.checkpoint.quantized.scales import Block, by_output, check_scales

FLOAT8 = ("F8_E4M3",)
SCALES = ("weight_scale_inv", "weight_scale")
# scales of activations and of cached keys and values
ACTIVATIONS = frozenset(
    "input_scale input_scale_ub activation_scale output_scale k_scale v_scale q_scale input_zero_point input_global_scale".split()
)
BLOCK = kinds.Kind("two integers from 1", lambda value: isinstance(value, list) and len(value) == 2 and all(map(kinds.COUNT.holds, value)))


WEIGHTS_ONLY = "activations are not quantised, though quantization_config asks for it: they stay in the precision of the run"


@dataclass(frozen=True, slots=True)
class Float8:
    block: Block
    notices: tuple[str, ...]

    precision = "float8_e4m3"
    typical = None
    parts = frozenset(("weight", *SCALES))
    unused = ACTIVATIONS

    @classmethod
    def from_config(cls, raw: Raw) -> "Float8":
        """Raises ModelError for an option that is missing or wrong, Unsupported for one that is not implemented."""
        one_of(raw, "fmt", kinds.TEXT, ("e4m3", "float8_e4m3fn"), "e4m3")
        block = option(raw, "weight_block_size", BLOCK, [0, 0])
        return cls((block[0], block[1]) if all(block) else None, (WEIGHTS_ONLY,))

    def holds(self, module: Module) -> bool:
        """Is the module's weight quantised?"""
        weight = module.tensors.get("weight")
        return any(part in module.tensors for part in SCALES) or (weight is not None and weight.dtype in FLOAT8)

    def shape(self, module: Module) -> tuple[int, int]:
        """(O, K). Raises ModelError where the module's tensors do not fit together or the configuration."""
        outputs, inputs = module.dims("weight", FLOAT8)
        check_scales(module, self._scales(module), (outputs, inputs), self.block)
        return outputs, inputs

    def read(self, module: Module) -> Affine:
        outputs, inputs = self.shape(module)
        weight_OK = module.read("weight")
        scales_OG = by_output(module.read(self._scales(module)), outputs, self.block)
        return Affine(lambda begin, end: weight_OK[begin:end], scales_OG, None, inputs, self.block[1] if self.block else inputs, 0)

    def _scales(self, module: Module) -> str:
        found = [part for part in SCALES if part in module.tensors]
        if len(found) != 1:
            module.refuse("has both weight_scale_inv and weight_scale; which applies?" if found else f"has no {' or '.join(SCALES)}")
        return found[0]
