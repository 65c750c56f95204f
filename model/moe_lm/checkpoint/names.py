"""Where each parameter of `moe_lm.model.Decoder` stands in a checkpoint: one table for GGUF, one for Hugging Face.

A parameter's pieces are a list (experts) of lists (rows, gate above up) of checkpoint tensors; most have one piece.
"""

import re
from collections.abc import Callable

from moe_lm.config import ModelConfig

Pieces = list[list[str]]

_HF = {
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
    "input_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.o_proj",
    "ffn.gate_proj": "mlp.gate_proj",
    "ffn.up_proj": "mlp.up_proj",
    "ffn.down_proj": "mlp.down_proj",
    "ffn.router": "mlp.gate",
    "ffn.shared_expert.gate_proj": "mlp.shared_expert.gate_proj",
    "ffn.shared_expert.up_proj": "mlp.shared_expert.up_proj",
    "ffn.shared_expert.down_proj": "mlp.shared_expert.down_proj",
    "ffn.shared_expert_gate": "mlp.shared_expert_gate",
}

_GGUF = {
    "embed.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_norm": "attn_norm",
    "post_attention_norm": "ffn_norm",
    "attention.q_proj": "attn_q",
    "attention.k_proj": "attn_k",
    "attention.v_proj": "attn_v",
    "attention.o_proj": "attn_output",
    "ffn.gate_proj": "ffn_gate",
    "ffn.up_proj": "ffn_up",
    "ffn.down_proj": "ffn_down",
    "ffn.router": "ffn_gate_inp",
    "ffn.shared_expert.gate_proj": "ffn_gate_shexp",
    "ffn.shared_expert.up_proj": "ffn_up_shexp",
    "ffn.shared_expert.down_proj": "ffn_down_shexp",
    "ffn.shared_expert_gate": "ffn_gate_inp_shexp",
}

# what a family calls differently from the table above
_HF_OF_FAMILY: dict[str, dict[str, str]] = {
    "mixtral": {"ffn.router": "block_sparse_moe.gate"},
    "deepseek": {f"ffn.shared_expert.{kind}": f"mlp.shared_experts.{kind}" for kind in ("gate_proj", "up_proj", "down_proj")},
}
_HF_EXPERTS = {"mixtral": ("block_sparse_moe.experts", "w1", "w3", "w2")}  # folder, gate, up, down

_IN_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


def hf_pieces(parameter: str, config: ModelConfig) -> Pieces:
    """Hugging Face stores experts one by one, gate and up apart."""
    folder, gate, up, down = _HF_EXPERTS.get(config.family, ("mlp.experts", "gate_proj", "up_proj", "down_proj"))
    num_experts = config.moe.num_experts if config.moe else 0

    def experts(layer: str, kinds: tuple[str, ...]) -> Pieces:
        return [[f"model.layers.{layer}.{folder}.{e}.{kind}.weight" for kind in kinds] for e in range(num_experts)]

    return _pieces(parameter, _HF | _HF_OF_FAMILY.get(config.family, {}), "model.layers.", experts, (gate, up), (down,))


def gguf_pieces(parameter: str, config: ModelConfig, merged: bool = True) -> Pieces:
    """GGUF stores each layer's experts merged into one tensor: a single piece, already [E, ..]; its first Mixtrals one by one."""
    num_experts = config.moe.num_experts if config.moe else 0

    def experts(layer: str, kinds: tuple[str, ...]) -> Pieces:
        if merged:
            return [[f"blk.{layer}.{kind}_exps.weight" for kind in kinds]]
        return [[f"blk.{layer}.{kind}.{e}.weight" for kind in kinds] for e in range(num_experts)]

    return _pieces(parameter, _GGUF, "blk.", experts, ("ffn_gate", "ffn_up"), ("ffn_down",))


def _pieces(
    parameter: str,
    table: dict[str, str],
    prefix: str,
    experts: Callable[[str, tuple[str, ...]], Pieces],
    gate_up: tuple[str, ...],
    down: tuple[str, ...],
) -> Pieces:
    if parameter in table:
        return [[table[parameter]]]
    match = _IN_LAYER.fullmatch(parameter)
    assert match, parameter
    layer, name = match.groups()
    if name == "ffn.experts.gate_up_EGD":
        return experts(layer, gate_up)
    if name == "ffn.experts.down_EDF":
        return experts(layer, down)
    module, kind = name.rsplit(".", 1)
    return [[f"{prefix}{layer}.{table[module]}.{kind}"]]
