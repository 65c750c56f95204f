"""Random weights for a configuration: for speed, which does not depend on what the weights are. The same for one seed anywhere.

The tokenizer knows bytes: token ids 0 to 255 are one each, those above have a name each ("<|300|>") and come from no text.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import tokenizers
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

from moe_lm.checkpoint.read import Checkpoint
from moe_lm.checkpoint.weights import Fill, Parameters, Progress, filled, streamed
from moe_lm.config import ModelConfig
from moe_lm.count import count
from moe_lm.errors import ModelError
from moe_lm.files import one_line
from moe_lm.model import Decoder
from moe_lm.quant.grouped import GroupedWeight
from moe_lm.quant.kinds import FLOATS, GROUPS, bytes_a_weight
from moe_lm.quant.weight import Quantized, QuantizedWeight
from moe_lm.tokenizer.tokenizer import Tokenizer

MAX_VOCABULARY = 4_000_000  # fifteen times the largest of today's
BLOCK = (1 << 22) + 15  # a prime: rows of any usual length begin elsewhere in the block each time


def random_checkpoint(config: ModelConfig, seed: int = 0) -> Checkpoint:
    """A model of `config`, its activations of about unit size. Raises ModelError for a vocabulary that holds no 256 bytes."""
    if config.vocab_size > MAX_VOCABULARY:
        raise ModelError(f"random weights come with a name for each token; vocab_size {config.vocab_size} is more than {MAX_VOCABULARY:,}")
    if config.vocab_size < 256:
        raise ModelError(f"random weights come with a tokenizer of bytes; vocab_size {config.vocab_size} is less than 256")
    digest = hashlib.sha256(f"random {seed} {BLOCK} {config!r}".encode()).hexdigest()
    return Checkpoint(config, _byte_tokenizer(config), digest, partial(_drawn, config, seed), partial(_stream, config, seed))


def in_random_blocks(checkpoint: Checkpoint, kind: str) -> Checkpoint:
    """The same with weights of a kind that products read, of any size: to measure how fast it is."""
    config = checkpoint.config

    def read(dtype: torch.dtype, device: str, progress: Progress | None, quantized: bool = False) -> Decoder:
        blocks = partial(_random_blocks, kind) if quantized else lambda name, shape: ()
        return filled(config, dtype, device, _filler(config, 0, dtype, device), progress, blocks)

    return replace(checkpoint, read=read, find_width=lambda: bytes_a_weight(kind), find_quantized=lambda: True)


def _random_blocks(kind: str, name: str, shape: torch.Size) -> Sequence[Quantized]:
    """For a parameter whose rows are whole blocks; none for another."""
    matrices = 2 if name.endswith("gate_up_EGD") else 1
    if len(shape) < 2:
        return []
    if kind in GROUPS:
        return _random_groups(GROUPS[kind], matrices, shape)
    weights, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if shape[-1] % weights:
        return []
    blocks = torch.randint(256, (matrices, math.prod(shape[:-2]), shape[-2] // matrices, shape[-1] // weights, nbytes), dtype=torch.uint8)
    for at in FLOATS[kind]:
        blocks[..., at : at + 2] = torch.tensor([2.0**-10], dtype=torch.float16).view(torch.uint8)
    return [QuantizedWeight(kind, each.flatten(2), shape[-1]) for each in blocks]


def _random_groups(size: int, matrices: int, shape: torch.Size) -> Sequence[Quantized]:
    *experts, outputs, inputs = shape
    if inputs % size:
        return []
    rows = math.prod(experts), outputs // matrices
    codes = torch.randint(256, (matrices, *rows, inputs // 2), dtype=torch.uint8)
    scales, zeros = torch.full((*rows, inputs // size), 2.0**-10), torch.full((*rows, inputs // size), 8, dtype=torch.uint8)
    return [GroupedWeight(each, scales, zeros, inputs, size) for each in codes]


def _drawn(config: ModelConfig, seed: int, dtype: torch.dtype, device: str, progress: Progress | None, quantized: bool = False) -> Decoder:
    try:
        return _draw(config, seed, dtype, device, progress)
    except (RuntimeError, MemoryError) as error:  # torch has no class of errors for CPU memory
        size = count(config).total * dtype.itemsize
        raise ModelError(f"the weights take {size / 2**30:,.1f} GiB, which {device} cannot allocate ({one_line(str(error))})") from None


def _draw(config: ModelConfig, seed: int, dtype: torch.dtype, device: str, progress: Progress | None) -> Decoder:
    return filled(config, dtype, device, _filler(config, seed, dtype, device), progress)


def _stream(config: ModelConfig, seed: int) -> Parameters:
    return streamed(config, _filler(config, seed, torch.float32, "cpu"))


def _filler(config: ModelConfig, seed: int, dtype: torch.dtype, device: str) -> Fill:
    """One block of normal numbers is laid end to end through all the weights: drawing each would take minutes for 14 billion."""
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(seed)).to(device)
    offset = 0

    def fill(name: str, value: Tensor) -> None:
        nonlocal offset
        if "norm" in name:
            value.fill_(1.0 - config.norm_offset)
        else:
            scale = value.shape[-1] ** -0.5 if value.ndim > 1 else 0.02
            offset = _fill(value, (block * scale).to(dtype), offset)

    return fill


def _fill(value: Tensor, block: Tensor, offset: int) -> int:
    """Copy the block, over and over, from `offset` on; returns where the next tensor goes on."""
    flat, done = value.view(-1), 0
    while done < len(flat):
        n = min(len(flat) - done, len(block) - offset)
        flat[done : done + n] = block[offset : offset + n]
        done, offset = done + n, (offset + n) % len(block)
    return offset


def _byte_tokenizer(config: ModelConfig) -> Tokenizer:
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = {i: f"<|{i}|>" for i in range(len(letters), config.vocab_size)}
    fast = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={c: i for i, c in enumerate(letters)} | {n: i for i, n in names.items()}, merges=[])
    )
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = tokenizers.decoders.ByteLevel()
    ends = config.eos_token_ids or (config.vocab_size - 1,)
    return Tokenizer(fast, None, ends, None)
