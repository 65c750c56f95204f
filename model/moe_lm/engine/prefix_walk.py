"""The passes in which the nodes of a prefix tree are run, for scoring.

A pass takes exactly `token_budget` tokens while there are that many: a sequence may be cut anywhere (see `moe_lm.engine.batch`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from moe_lm.engine.pages import Known, PagedCache, PagePool
from moe_lm.engine.prefix_tree import Node
from moe_lm.errors import ModelError

Caches = dict[int, PagedCache]  # id(node) -> keys and values of all tokens up to node.end
Find = Callable[[Node], Known]  # what the pool knows of a node's tokens and of those before it, from another walk


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

    @property
    def is_last(self) -> bool:
        """Is the node run with it?"""
        return self.end == len(self.node.tokens)


def walk(pool: PagePool, roots: list[Node], token_budget: int, find: Find | None = None) -> Iterator[list[Piece]]:
    """Yield pass after pass, parents before children, depth first; the caller runs each before it asks for the next.

    Nodes keep their keys and values until all children have run. With `find`, tokens that it knows are not run again, and the siblings of
    which it knows most come first, before their pages are taken for others. Raises ModelError if the pool has no room for a single one.
    """
    ready: list[Node] = []
    caches: Caches = {}
    open_children: dict[int, int] = {}

    def queue(nodes: Iterable[Node]) -> None:
        ready.extend(reversed(sorted(nodes, key=lambda node: -find(node).length) if find else [*nodes]))

    def finish(node: Node) -> None:
        queue(node.children)
        open_children[id(node)] = len(node.children)
        _close(node, open_children, caches)

    queue(roots)
    roots.clear()  # everything below a root is freed with it
    try:
        while ready:
            pieces: list[Piece] = []
            room = token_budget
            while ready and room:
                node = ready.pop()
                if id(node) not in caches:
                    try:
                        caches[id(node)] = _past(pool, node, caches, find)
                    except ModelError:
                        if not pieces:
                            raise
                        ready.append(node)  # those before it may make room
                        break
                past = caches[id(node)]
                begin = past.length - node.start
                if begin == len(node.tokens):  # all of it is known
                    finish(node)
                    continue
                end = min(len(node.tokens), begin + room)
                pieces.append(Piece(node, begin, end, past))
                room -= end - begin
            if pieces and not pieces[-1].is_last:
                ready.append(pieces[-1].node)
            if pieces:
                yield pieces
            for piece in reversed(pieces):
                if piece.is_last:
                    finish(piece.node)
    finally:  # the caller may stop before the end
        for cache in caches.values():
            cache.close()


def _past(pool: PagePool, node: Node, caches: Caches, find: Find | None) -> PagedCache:
    """A cache with room for the whole node: its parent's tokens are on it, or more that the pool knows."""
    if find and (known := find(node)).length > node.start:
        cache = pool.admit(known)
        if cache.length == known.length and cache.grow(node.end):
            return cache
        cache.close()
    return pool.fork(caches[id(node.parent)] if node.parent else None, node.end)


def _close(node: Node, open_children: dict[int, int], caches: Caches) -> None:
    """Drop the cache of a node that has run with all its children, and see whether its parent's can go too."""
    while not open_children[id(node)]:
        caches.pop(id(node)).close()
        if node.parent is None:
            return
        node = node.parent
        open_children[id(node)] -= 1
