"""The model families that moe_lm runs, a file each: docs/adding-a-model-family.md says how to add one."""

from typing import Any

from moe_lm.errors import Unsupported
from moe_lm.families.base import Family
from moe_lm.families.deepseek import DEEPSEEK
from moe_lm.families.gemma import GEMMA
from moe_lm.families.gemma3 import GEMMA3
from moe_lm.families.llama import LLAMA
from moe_lm.families.mistral import MISTRAL
from moe_lm.families.mixtral import MIXTRAL
from moe_lm.families.multimodal import MULTIMODAL
from moe_lm.families.olmoe import OLMOE
from moe_lm.families.qwen2 import QWEN2
from moe_lm.families.qwen2_moe import QWEN2_MOE
from moe_lm.families.qwen3 import QWEN3
from moe_lm.families.qwen3_moe import QWEN3_MOE
from moe_lm.files import shown

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAMA,
        MISTRAL,
        MIXTRAL,
        QWEN2,
        QWEN2_MOE,
        QWEN3,
        QWEN3_MOE,
        OLMOE,
        GEMMA,
        GEMMA3,
        DEEPSEEK,
    )
}


def family_of(model_type: Any) -> Family:
    """The family of a config.json's `model_type`; raises Unsupported with the known names for any other."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise Unsupported(f"model_type {shown(model_type)} is not supported; moe_lm runs: {', '.join((*FAMILIES, *MULTIMODAL))}")
    return FAMILIES[model_type]


def family_of_gguf(architecture: str, num_experts: int, sliding_window: bool = False) -> Family:
    """The family of a GGUF file: several share an architecture, and differ in having experts or a sliding window.

    Raises ModelError where there is none.
    """
    found = [f for f in FAMILIES.values() if f.gguf_architecture == architecture and bool(num_experts) == (f.moe is not None)]
    if not found:
        known = ", ".join(dict.fromkeys(family.gguf_architecture for family in FAMILIES.values() if family.gguf_architecture))
        raise Unsupported(f"GGUF architecture {shown(architecture)} with {num_experts} experts is not supported; moe_lm reads: {known}")
    return next((family for family in found if sliding_window and family.sliding_window), found[0])
