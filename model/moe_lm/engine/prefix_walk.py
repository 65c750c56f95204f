"""The passes in which the nodes of a prefix tree are run, for scoring and for prompt scores.

A pass takes exactly `token_budget` tokens while there are that many: a sequence may be cut anywhere (see `moe_lm.engine.batch`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_lm.engine.pages import PagedCache, PagePool
from moe_lm.engine.prefix_tree import Node

Caches = dict[int, PagedCache]  # id(node) -> keys and values of all tokens up to node.end


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens begin..end-1 of a node, to be run after `past`."""

    node: Node
    begin: int
    end: int
    past: PagedCache

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


def walk(pool: PagePool, roots: list[Node], token_budget: int) -> Iterator[list[Piece]]:
    """Yield pass after pass, parents before children, depth first; the caller runs each before it asks for the next.

    Nodes keep their keys and values until all children have run. Raises ModelError if the pool has no room for one more.
    """
    ready = [(root, 0) for root in reversed(roots)]
    roots.clear()  # everything below a root is freed with it
    caches: Caches = {}
    open_children: dict[int, int] = {}
    try:
        while ready:
            taken = _take(ready, token_budget)
            yield [Piece(node, begin, end, _past(pool, node, caches)) for node, begin, end in taken]
            for node, _, end in reversed(taken):
                if end < len(node.tokens):
                    continue
                ready += [(child, 0) for child in reversed(node.children)]
                open_children[id(node)] = len(node.children)
                _close(node, open_children, caches)
    finally:  # the caller may stop before the end
        for cache in caches.values():
            cache.close()


def _past(pool: PagePool, node: Node, caches: Caches) -> PagedCache:
    if id(node) not in caches:
        caches[id(node)] = pool.fork(caches[id(node.parent)] if node.parent else None, node.end)
    return caches[id(node)]


def _close(node: Node, open_children: dict[int, int], caches: Caches) -> None:
    """Drop the cache of a node that has run with all its children, and see whether its parent's can go too."""
    while not open_children[id(node)]:
        caches.pop(id(node)).close()
        if node.parent is None:
            return
        node = node.parent
        open_children[id(node)] -= 1
