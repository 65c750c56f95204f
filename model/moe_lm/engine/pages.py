"""Keys and values: a pool of pages, and the sequences stored on them.

A page is found through a hash chain: the key of the preceding pages, and its own tokens. A prompt reuses every whole page that it
shares with an earlier one, and copies the shared part of one more; so a shared prefix is computed once, to the token. Only pages of
prompts are reused: without layout invariance a decode step may round differently from a prefill, and an answer must not depend on
what was cached.

A sequence is admitted when the pool can hold all pages that it may need, and takes them as it grows. So no sequence waits for a page
while it has others: there are no deadlocks, and nothing is evicted and recomputed.
"""

import heapq
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from moe_lm.backends.base import PAGE, Backend, KVPages
from moe_lm.engine.memory import free_memory
from moe_lm.engine.prefix_tree import num_shared
from moe_lm.errors import ModelError

START = b""  # the key before the first page


@dataclass(frozen=True, slots=True)
class Known:
    """The whole pages that a prompt shares, the key before each and after all, a page to copy from, and the number of tokens on them."""

    keys: list[bytes]
    pages: list[int]
    partial: int | None
    length: int


class PagePool:
    """Which sequences use which pages of a memory. Pages of ended sequences are kept until their room is needed."""

    def __init__(self, backend: Backend, num_pages: int):
        self.memory, self.num_pages = KVPages(backend, num_pages), num_pages
        self._free = list(range(num_pages))  # a heap, so that pages in use are close together
        self._idle: dict[int, None] = {}  # without a sequence, but reusable; the longest idle first
        self._promised = 0
        self._users = [0] * num_pages
        self._blank = set(range(num_pages))
        self._content: dict[int, tuple[bytes, tuple[int, ...]]] = {}  # page -> (key of the preceding pages, tokens)
        self._followers: defaultdict[bytes, list[int]] = defaultdict(list)

    @property
    def in_use(self) -> int:
        return self.num_pages - len(self._free) - len(self._idle)

    @property
    def available(self) -> int:
        """Pages that no running sequence has or has reserved."""
        return len(self._free) + len(self._idle) - self._promised

    def find(self, tokens: Sequence[int]) -> Known:
        """The pages that already have a prompt's first tokens."""
        keys, pages = [START], list[int]()
        while True:
            at = len(pages) * PAGE
            wanted = tuple(tokens[at : at + PAGE])
            found = [(num_shared(wanted, self._content[page][1]), -page) for page in self._followers.get(keys[-1], ())]
            length, page = max(found, default=(0, 0))
            if length < PAGE:
                return Known(keys, pages, -page if length else None, at + length)
            pages.append(-page)
            keys.append(_key(keys[-1], wanted))

    def admit(self, known: Known, capacity: int) -> "PagedCache | None":
        """A cache for `capacity` tokens that begins with the pages just found; None if there is no room."""
        needed = -(-capacity // PAGE) - len(known.pages)
        room = self.available - sum(page in self._idle for page in known.pages)
        if needed > room:
            return None
        for page in known.pages:
            self._idle.pop(page, None)
            self._users[page] += 1
        cache = PagedCache(self, known, needed)
        self._promised += needed
        # an idle page to copy from is given up if its room is needed
        if known.partial is not None and not (known.partial in self._idle and needed == room):
            idle = known.partial in self._idle
            self._idle.pop(known.partial, None)  # so that it is not taken for its own copy
            cache.grow(known.length)
            self.memory.copy(known.partial, cache.pages[-1])
            if idle:
                self._idle[known.partial] = None
            cache.length = known.length
        return cache

    def fork(self, parent: "PagedCache | None", capacity: int) -> "PagedCache":
        """A cache for `capacity` tokens that begins with its parent's. Raises ModelError if there is no room."""
        length = parent.length if parent else 0
        pages = parent.pages if parent else []
        known = Known([], pages[: length // PAGE], pages[length // PAGE] if length % PAGE else None, length)
        cache = self.admit(known, capacity)
        if cache is None:
            raise ModelError(
                f"no room for the keys and values of {capacity} tokens more: {self.in_use} of {self.num_pages} pages of {PAGE} tokens are "
                "in use; free memory, or take a smaller model"
            )
        return cache

    def remember(self, page: int, before: bytes, tokens: tuple[int, ...]) -> None:
        """Record that a prefill has computed these tokens, the first ones of the page."""
        if page not in self._content:
            self._followers[before].append(page)
        self._content[page] = before, tokens

    def take(self) -> int:
        """Take a reserved page."""
        self._promised -= 1
        if self._free:
            page = heapq.heappop(self._free)
        else:
            page = next(iter(self._idle))
            del self._idle[page]
            before, _ = self._content.pop(page)
            self._followers[before].remove(page)
            if not self._followers[before]:
                del self._followers[before]
        if page in self._blank:
            self._blank.remove(page)
            self.memory.clear(page)
        self._users[page] = 1
        return page

    def give_back(self, pages: Sequence[int], promised: int) -> None:
        self._promised -= promised
        for page in reversed(pages):  # the end of a chain is evicted first
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._content:
                self._idle[page] = None
            else:
                heapq.heappush(self._free, page)


class PagedCache:
    """One sequence's keys and values in the pool. Close it when the sequence ends."""

    def __init__(self, pool: PagePool, known: Known, promised: int):
        self.pool, self.pages = pool, known.pages
        self.promised = promised  # reserved pages not taken yet
        self.length = len(known.pages) * PAGE
        self.keys = known.keys  # key before each page known so far

    def grow(self, length: int) -> None:
        """Take pages for this many tokens."""
        while len(self.pages) * PAGE < length:
            self.pages.append(self.pool.take())
            self.promised -= 1

    def remember(self, prompt: Sequence[int]) -> None:
        """Make the computed part of the prompt reusable."""
        length = min(self.length, len(prompt))
        for i in range(len(self.keys) - 1, -(-length // PAGE)):
            tokens = tuple(prompt[i * PAGE : min(length, (i + 1) * PAGE)])
            self.pool.remember(self.pages[i], self.keys[i], tokens)
            if len(tokens) == PAGE:
                self.keys.append(_key(self.keys[i], tokens))

    def close(self) -> None:
        self.pool.give_back(self.pages, self.promised)
        self.pages, self.promised = [], 0


def _key(before: bytes, tokens: Sequence[int]) -> bytes:
    return sha256(before + array("q", tokens).tobytes()).digest()


def pool_for(backend: Backend, cache_bytes: int | None = None) -> PagePool:
    """A pool of as many pages as fit in `cache_bytes`, by default half of the free memory."""
    room = free_memory(str(backend.device)) // 2 if cache_bytes is None else cache_bytes
    return PagePool(backend, max(1, room // backend.page_bytes))
