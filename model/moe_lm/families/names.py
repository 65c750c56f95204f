"""How checkpoints name the parameters of `moe_lm.model.Decoder`: one table for Hugging Face folders, one for GGUF files.

A table maps a module of the decoder to its tensor without ".weight" or ".bias"; {layer} is the number of the layer. An expert's
three matrices stand in one tensor each with {expert} in its name, or, without it, in one tensor for all experts, [E, ..]. A parameter,
too, may be in a table: with the whole name of its tensor.
A family with names of its own takes one of these tables with changes.
"""

import re
from collections.abc import Mapping

Pieces = list[list[str]]  # the tensors of a parameter: for each expert (or once) the tensors that lie above each other

HF_NAMES: Mapping[str, str] = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "lm_head": "lm_head",
    "input_norm": "model.layers.{layer}.input_layernorm",
    "ffn_norm": "model.layers.{layer}.post_attention_layernorm",
    "attention.q_proj": "model.layers.{layer}.self_attn.q_proj",
    "attention.k_proj": "model.layers.{layer}.self_attn.k_proj",
    "attention.v_proj": "model.layers.{layer}.self_attn.v_proj",
    "attention.o_proj": "model.layers.{layer}.self_attn.o_proj",
    "attention.q_norm": "model.layers.{layer}.self_attn.q_norm",
    "attention.k_norm": "model.layers.{layer}.self_attn.k_norm",
    "ffn.gate_proj": "model.layers.{layer}.mlp.gate_proj",
    "ffn.up_proj": "model.layers.{layer}.mlp.up_proj",
    "ffn.down_proj": "model.layers.{layer}.mlp.down_proj",
    "ffn.router": "model.layers.{layer}.mlp.gate",
    "ffn.experts.gate_proj": "model.layers.{layer}.mlp.experts.{expert}.gate_proj",
    "ffn.experts.up_proj": "model.layers.{layer}.mlp.experts.{expert}.up_proj",
    "ffn.experts.down_proj": "model.layers.{layer}.mlp.experts.{expert}.down_proj",
    "ffn.shared_expert.gate_proj": "model.layers.{layer}.mlp.shared_expert.gate_proj",
    "ffn.shared_expert.up_proj": "model.layers.{layer}.mlp.shared_expert.up_proj",
    "ffn.shared_expert.down_proj": "model.layers.{layer}.mlp.shared_expert.down_proj",
    "ffn.shared_expert_gate": "model.layers.{layer}.mlp.shared_expert_gate",
}

GGUF_NAMES: Mapping[str, str] = {
    "embed": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_norm": "blk.{layer}.attn_norm",
    "attention_post_norm": "blk.{layer}.post_attention_norm",
    "ffn_norm": "blk.{layer}.ffn_norm",
    "ffn_post_norm": "blk.{layer}.post_ffw_norm",
    "attention.q_proj": "blk.{layer}.attn_q",
    "attention.k_proj": "blk.{layer}.attn_k",
    "attention.v_proj": "blk.{layer}.attn_v",
    "attention.o_proj": "blk.{layer}.attn_output",
    "attention.q_norm": "blk.{layer}.attn_q_norm",
    "attention.k_norm": "blk.{layer}.attn_k_norm",
    "ffn.gate_proj": "blk.{layer}.ffn_gate",
    "ffn.up_proj": "blk.{layer}.ffn_up",
    "ffn.down_proj": "blk.{layer}.ffn_down",
    "ffn.router": "blk.{layer}.ffn_gate_inp",
    "ffn.experts.gate_proj": "blk.{layer}.ffn_gate_exps",
    "ffn.experts.up_proj": "blk.{layer}.ffn_up_exps",
    "ffn.experts.down_proj": "blk.{layer}.ffn_down_exps",
    "ffn.shared_expert.gate_proj": "blk.{layer}.ffn_gate_shexp",
    "ffn.shared_expert.up_proj": "blk.{layer}.ffn_up_shexp",
    "ffn.shared_expert.down_proj": "blk.{layer}.ffn_down_shexp",
    "ffn.shared_expert_gate": "blk.{layer}.ffn_gate_inp_shexp",
}

# llama.cpp's first Mixtral files held the experts one by one
GGUF_SEPARATE_EXPERTS: Mapping[str, str] = {
    "ffn.experts.gate_proj": "blk.{layer}.ffn_gate.{expert}",
    "ffn.experts.up_proj": "blk.{layer}.ffn_up.{expert}",
    "ffn.experts.down_proj": "blk.{layer}.ffn_down.{expert}",
}

# transformers 5 holds all experts of a layer in two tensors, and writes them so if asked to (save_original_format=False)
HF_STACKED_EXPERTS: Mapping[str, str] = {
    "ffn.router": "model.layers.{layer}.mlp.gate",
    "ffn.experts.gate_up_EGD": "model.layers.{layer}.mlp.experts.gate_up_proj",
    "ffn.experts.down_EDF": "model.layers.{layer}.mlp.experts.down_proj",
}

_STACKED = {"ffn.experts.gate_up_EGD": ("gate_proj", "up_proj"), "ffn.experts.down_EDF": ("down_proj",)}
_PARAMETER = re.compile(r"(?:layers\.(\d+)\.)?(.+)\.(\w+)")


def pieces(parameter: str, names: Mapping[str, str], num_experts: int) -> Pieces:
    """The checkpoint's tensors that make up a parameter of the decoder; most parameters are one tensor.

    The experts' parameters are stacked, [E, ..], gate rows above up rows. Raises KeyError for a parameter that is not in the table.
    """
    match = _PARAMETER.fullmatch(parameter)
    assert match, parameter
    layer, module, kind = match.groups()
    if f"{module}.{kind}" in names:
        return [[names[f"{module}.{kind}"].format(layer=layer)]]
    if kinds := _STACKED.get(f"{module}.{kind}"):
        matrices = [names[f"{module}.{kind}"] for kind in kinds]
        separate = "{expert}" in matrices[0]
        return [[f"{name.format(layer=layer, expert=e)}.weight" for name in matrices] for e in range(num_experts if separate else 1)]
    return [[f"{names[module].format(layer=layer)}.{kind}"]]
