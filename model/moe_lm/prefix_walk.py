"""Running the nodes of a prefix tree: what the scorer and the generator share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from moe_lm.batch import KVCache, Leaf, Past, forward
from moe_lm.model import Decoder
from moe_lm.prefix_tree import Node

T = TypeVar("T")
Caches = dict[int, KVCache]  # id(node) -> keys and values of all tokens up to node.end


def consume(items: list[T]) -> Iterator[T]:
    """Iterate and forget: what hangs on an item is freed before the next one."""
    items.reverse()
    while items:
        yield items.pop()


def packs(items: Iterable[T], token_budget: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut into lists of at most `token_budget` tokens; a longer item stands alone."""
    pack: list[T] = []
    total = 0
    for item in items:
        if pack and total + size(item) > token_budget:
            yield pack
            pack, total = [], 0
        pack.append(item)
        total += size(item)
    if pack:
        yield pack


def run_nodes(model: Decoder, nodes: Iterable[Node], caches: Caches, token_budget: int) -> Iterator[list[tuple[Node, Tensor]]]:
    """Yield pass by pass its nodes with their hidden states [len(node.tokens), D]. Inner nodes leave keys and values in `caches`."""
    for pack in packs(nodes, token_budget, lambda node: len(node.tokens)):
        new = [(node.tokens, _past(model, node, caches, token_budget)) for node in pack]
        yield list(zip(pack, prefill(model, new, token_budget), strict=True))


def _past(model: Decoder, node: Node, caches: Caches, token_budget: int) -> Past:
    parent = caches[id(node.parent)] if node.parent else None
    if node.is_leaf and len(node.tokens) <= token_budget:
        return Leaf(parent)
    leaves = max((len(child.tokens) for child in node.children if child.is_leaf), default=0)
    caches[id(node)] = KVCache.like(model, node.end + leaves, parent)
    return caches[id(node)]


def prefill(model: Decoder, new: Sequence[tuple[Sequence[int], Past]], token_budget: int) -> list[Tensor]:
    """`forward`, and for a single sequence of more than `token_budget` new tokens several of them."""
    if len(new) > 1:
        return forward(model, new)
    ((tokens, past),) = new
    pieces = [tokens[i : i + token_budget] for i in range(0, len(tokens), token_budget)]
    return [torch.cat([forward(model, [(piece, past)])[0] for piece in pieces])]
