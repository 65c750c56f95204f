"""Tiny models as GGUF files, as llama.cpp's converter writes them, by the gguf library's own writer."""

from dataclasses import replace

import gguf
import numpy as np
from tiny_models import tiny_config, tiny_decoder

from moe_lm.families import FAMILIES
from moe_lm.families.names import pieces
from moe_lm.quant.kinds import FLOATS, KINDS

ARCHITECTURES = {name: family.gguf_architecture for name, family in FAMILIES.items() if family.gguf_architecture}
TYPES = gguf.GGMLQuantizationType


def vocabulary(size):
    """A byte-level vocabulary: 256 bytes' letters, one merge, special tokens."""
    letters = [chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + i) for i in range(256 - len(letters))]
    return [*letters, "ab", *(f"<word{i}>" for i in range(size - 257))]


def permuted(weight, heads):
    """What llama.cpp's converter does to llama's q and k rows."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_tensors(model):
    """{GGUF name: float32 array} of a moe_lm decoder, as llama.cpp's converter writes them."""
    config, found = model.config, {}
    for name, parameter in model.named_parameters():
        (rows,) = pieces(name, FAMILIES[config.family].gguf_names, num_experts=1)
        for piece, part in zip(rows, np.split(parameter.numpy(), len(rows), axis=-2 if len(rows) > 1 else 0), strict=True):
            if config.norm_offset and piece.endswith("norm.weight"):
                part = part + np.float32(config.norm_offset)
            if FAMILIES[config.family].gguf_interleaved_rope and piece.endswith(("attn_q.weight", "attn_k.weight")):
                part = permuted(part, config.num_attention_heads if "attn_q" in piece else config.num_key_value_heads)
            found[piece] = part[0] if piece.endswith("ffn_gate_inp_shexp.weight") else part  # GGUF drops the dimension of size one
    return found


def random_blocks(kind, shape, seed=0):
    """A tensor as it is stored in one of `moe_lm.quant.weight.KINDS`, its weights of about the size of a tiny model's.

    The gguf library can't quantise to all of them. The blocks' scales are about 1/8 over the largest integer that they are multiplied by.
    """
    weights, nbytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // weights, nbytes), dtype=np.uint8)
    largest = {"Q8_0": 127, "Q4_0": 8, "Q4_1": 15, "Q5_0": 16, "Q5_1": 31, "Q4_K": 63 * 15, "Q5_K": 63 * 31, "Q6_K": 127 * 32}[kind.name]
    for at in FLOATS[kind.name]:
        scales = rng.uniform(0.05, 0.2, blocks.shape[:-1]) / (largest if at != 2 else 63 if kind.name.endswith("K") else -1)
        blocks[..., at : at + 2] = scales.astype(np.float16)[..., None].view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def add_key(writer, key, value):
    """Any key, with the GGUF type that its value's Python type stands for."""
    kinds = {bool: writer.add_bool, str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, list: writer.add_array}
    kinds[type(value)](key, value)


def write(path, config, tensors, types=None, keys=None, first=True, **changed):
    """A GGUF file; `types` maps names to types other than F32, `changed` and `keys` (after the architecture) replace metadata.

    None leaves a key out. Keys that begin with "general.", "split." or "tokenizer." stand alone; `first` false writes a later part of a
    split file, which has no others.
    """
    arch = ARCHITECTURES[config.family]
    writer = gguf.GGUFWriter(path, changed.get("arch", arch))
    numbers = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_seq_len,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
    }
    if config.moe:
        numbers |= {"expert_count": config.moe.num_experts, "expert_used_count": config.moe.num_experts_per_tok}
    if arch in ("qwen2moe", "qwen3moe", "deepseek"):
        numbers["expert_feed_forward_length"] = config.moe.moe_intermediate_size
    if arch in ("qwen2moe", "olmoe", "deepseek"):  # of Qwen3-MoE llama.cpp takes it for granted
        numbers["expert_weights_norm"] = config.moe.norm_topk_prob
    if arch == "qwen2moe":
        numbers["expert_shared_feed_forward_length"] = config.moe.shared_expert_intermediate_size
    if arch == "deepseek":
        numbers["expert_shared_count"] = config.moe.shared_expert_intermediate_size // config.moe.moe_intermediate_size
        numbers["leading_dense_block_count"] = len(config.moe.dense_layers)
        numbers["expert_weights_scale"] = changed.get("scale", 1.0)
    if config.sliding_window:
        numbers["attention.sliding_window"] = config.sliding_window
    if config.rope_local_base_freq:
        numbers |= {"attention.sliding_window_pattern": 2, "rope.freq_base_swa": config.rope_local_base_freq}
    numbers |= {"attention.layer_norm_rms_epsilon": config.rms_norm_eps, "rope.freq_base": config.rope_theta}
    numbers |= {key: value for key, value in changed.items() if key in numbers} | (keys or {})
    for key, value in numbers.items():
        alone = key.startswith(("general.", "split.", "tokenizer."))
        if value is not None and (first or alone):
            add_key(writer, key if alone else f"{arch}.{key}", value)
    if first:
        _add_vocabulary(writer, config.vocab_size, changed)
    for name, array in tensors.items():
        kind = (types or {}).get(name, TYPES.F32)
        is_stored = kind == TYPES.I32 or array.dtype == np.uint8  # such as `random_blocks`
        stored = array if is_stored else gguf.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer, size, changed):
    tokens = vocabulary(size)
    writer.add_tokenizer_model(changed.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(changed.get("pre", "qwen2"))
    writer.add_token_list(tokens)
    if "token_types" not in changed:
        writer.add_token_types([1] * 257 + [3] * (len(tokens) - 257))
    writer.add_token_merges(changed.get("merges", ["a b"]))


# every row is a whole number of the K kinds' blocks
WIDE = {"vocab_size": 260, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 256}


def wide_config(family, **changes):
    config = tiny_config(family, **WIDE | changes)
    if not config.moe:
        return config
    shared = 256 if config.moe.shared_expert_intermediate_size else 0
    return replace(config, moe=replace(config.moe, moe_intermediate_size=256, shared_expert_intermediate_size=shared))


def quantized_file(path, family, tied=False, kind=None, seed=0, **changes):
    """A model whose matrices are all quantised, its norms, biases and routers aside: in one kind, or in all of them by turns."""
    config = wide_config(family, tied=tied, **changes)
    tensors, types = gguf_tensors(tiny_decoder(config)), {}
    for i, (name, array) in enumerate(tensors.items()):
        if array.ndim > 1 and "ffn_gate_inp" not in name:
            types[name] = kind or TYPES[KINDS[(i + seed) % len(KINDS)]]
            tensors[name] = random_blocks(types[name], array.shape, seed=seed + i)
    return write(path, config, tensors, types)
