"""In which passes are the nodes of a prefix tree run? What scoring and prompt scores share.

A pass takes exactly `token_budget` tokens as long as there are so many: a sequence may be cut anywhere (see `moe_lm.batch`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_lm.batch import KVCache, Leaf, Past
from moe_lm.model import Decoder
from moe_lm.prefix_tree import Node

Caches = dict[int, KVCache]  # id(node) -> keys and values of all tokens up to node.end


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens begin..end-1 of a node, to be run after `past`."""

    node: Node
    begin: int
    end: int
    past: Past

    @property
    def tokens(self) -> Sequence[int]:
        return self.node.tokens[self.begin : self.end]


def _take(ready: list[tuple[Node, int]], token_budget: int) -> list[tuple[Node, int, int]]:
    """Pop (node, begin) from a stack until `token_budget` tokens are taken; returns (node, begin, end) and puts a cut node's rest back."""
    taken = []
    while ready and token_budget:
        node, begin = ready.pop()
        end = min(len(node.tokens), begin + token_budget)
        taken.append((node, begin, end))
        token_budget -= end - begin
        if end < len(node.tokens):
            ready.append((node, end))
    return taken


def walk(model: Decoder, roots: list[Node], token_budget: int) -> Iterator[list[Piece]]:
    """Yield pass after pass, parents before children, depth first; the caller runs each before it asks for the next.

    Inner nodes keep their keys and values for as long as a child is to come.
    """
    ready = [(root, 0) for root in reversed(roots)]
    roots.clear()  # what hangs on a root is freed with it
    caches: Caches = {}
    open_children: dict[int, int] = {}
    while ready:
        taken = _take(ready, token_budget)
        yield [Piece(node, begin, end, _past(model, node, begin, end, caches)) for node, begin, end in taken]
        for node, _, end in reversed(taken):
            if end < len(node.tokens):
                continue
            ready += [(child, 0) for child in reversed(node.children)]
            open_children[id(node)] = len(node.children)
            _close(node, open_children, caches)


def _past(model: Decoder, node: Node, begin: int, end: int, caches: Caches) -> Past:
    if id(node) in caches:
        return caches[id(node)]
    parent = caches[id(node.parent)] if node.parent else None
    if node.is_leaf and (begin, end) == (0, len(node.tokens)):
        return Leaf(parent)
    room = max((len(child.tokens) for child in node.children if child.is_leaf), default=0)
    caches[id(node)] = KVCache.like(model, node.end + room, parent)
    return caches[id(node)]


def _close(node: Node, open_children: dict[int, int], caches: Caches) -> None:
    """Drop the cache of a node that has run with all its children, and see whether its parent's can go too."""
    while not open_children[id(node)]:
        caches.pop(id(node), None)
        if node.parent is None:
            return
        node = node.parent
        open_children[id(node)] -= 1
