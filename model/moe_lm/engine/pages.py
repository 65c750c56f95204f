"""Keys and values: a pool of pages, and the sequences stored on them.

A page is found through a hash chain: the key of the preceding pages, and its own tokens. A prompt reuses every whole page that it
shares with an earlier one, and copies the shared part of one more; so a shared prefix is computed once, to the token. Only pages of
prompts are reused: without layout invariance a decode step may round differently from a prefill, and an answer must not depend on
what was cached.

A sequence takes pages as it grows, and gives the last ones up where others need them more (see `moe_lm.engine.generator`): what was on
them is computed again. Pages of ended sequences are kept for their prompts, a bounded number of them, so that memory does not grow with
the number of requests.
"""

import heapq
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from moe_lm.backends.base import PAGE, Backend, KVPages
from moe_lm.engine.memory import free_memory, size
from moe_lm.engine.prefix_tree import num_shared
from moe_lm.errors import ModelError

START = b""  # the key before the first page
MOST_KEPT = 512  # pages of ended sequences


@dataclass(frozen=True, slots=True)
class Known:
    """The whole pages that a prompt shares, the key before each and after all, a page to copy from, and the number of tokens on them."""

    keys: list[bytes]
    pages: list[int]
    partial: int | None
    length: int


class PagePool:
    """Which sequences use which pages of a memory. Pages of ended sequences are kept until their room is needed, at most `num_kept`."""

    def __init__(self, backend: Backend, num_pages: int):
        self.memory, self.num_pages = KVPages(backend, num_pages), num_pages
        self.num_kept = min(MOST_KEPT, -(-num_pages // 4))
        self._free = list(range(num_pages))  # a heap, so that pages in use are close together
        self._idle: dict[int, None] = {}  # without a sequence, but reusable; the longest idle first
        self._users = [0] * num_pages
        self._blank = set(range(num_pages))
        self._content: dict[int, tuple[bytes, tuple[int, ...]]] = {}  # page -> (key of the preceding pages, tokens)
        self._followers: defaultdict[bytes, list[int]] = defaultdict(list)

    @property
    def num_tokens(self) -> int:
        """How many tokens' keys and values it holds."""
        return self.num_pages * PAGE

    @property
    def in_use(self) -> int:
        return self.num_pages - self.available

    @property
    def available(self) -> int:
        """Pages that no running sequence has."""
        return len(self._free) + len(self._idle)

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

    def admit(self, known: Known) -> "PagedCache":
        """A cache that begins with the pages just found."""
        for page in known.pages:
            self._idle.pop(page, None)
            self._users[page] += 1
        cache = PagedCache(self, known)
        if known.partial is not None:
            idle = known.partial in self._idle
            self._idle.pop(known.partial, None)  # so that it is not taken for its own copy
            copied = cache.grow(known.length)
            if copied:
                self.memory.copy(known.partial, cache.pages[-1])
                cache.length = known.length
            if idle:
                self._idle[known.partial] = None
        return cache

    def fork(self, parent: "PagedCache | None", capacity: int) -> "PagedCache":
        """A cache with room for `capacity` tokens that begins with its parent's. Raises ModelError if there is no room."""
        length = parent.length if parent else 0
        pages, whole = parent.pages if parent else [], length // PAGE
        keys = parent.keys[: whole + 1] if parent else [START]
        cache = self.admit(Known(keys, pages[:whole], pages[whole] if length % PAGE else None, length))
        if cache.length < length or not cache.grow(capacity):
            cache.close()
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

    def take(self) -> int | None:
        """A page; None if running sequences have all of them."""
        if not self._free:
            if not self._idle:
                return None
            self._forget_one()
        page = heapq.heappop(self._free)
        if page in self._blank:
            self._blank.remove(page)
            self.memory.clear(page)
        self._users[page] = 1
        return page

    def keep_more(self) -> None:
        """Keep up to half of all pages: those who ask will ask for the same beginnings again."""
        self.num_kept = max(self.num_kept, self.num_pages // 2)

    def give_back(self, pages: Sequence[int]) -> None:
        for page in reversed(pages):  # the end of a chain is forgotten first
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._content:
                self._idle[page] = None
            else:
                heapq.heappush(self._free, page)
        while len(self._idle) > self.num_kept:
            self._forget_one()

    def trim(self) -> None:
        """Give the memory of free pages back to the operating system."""
        for page in self._free:
            if page not in self._blank:
                self.memory.discard(page)
                self._blank.add(page)

    def _forget_one(self) -> None:
        """Free the page that has been idle longest."""
        page = next(iter(self._idle))
        del self._idle[page]
        before, _ = self._content.pop(page)
        self._followers[before].remove(page)
        if not self._followers[before]:
            del self._followers[before]
        heapq.heappush(self._free, page)


class PagedCache:
    """One sequence's keys and values in the pool. Close it when the sequence ends."""

    def __init__(self, pool: PagePool, known: Known):
        self.pool, self.pages = pool, known.pages
        self.length = len(known.pages) * PAGE
        self.keys = known.keys  # key before each page known so far

    @property
    def room(self) -> int:
        """How many tokens its pages hold."""
        return len(self.pages) * PAGE

    @property
    def reusable(self) -> int:
        """How many of its tokens, at least, lie on whole pages that others can find."""
        return (len(self.keys) - 1) * PAGE

    def grow(self, length: int) -> bool:
        """Take pages for this many tokens; False if the pool has no more."""
        while self.room < length:
            page = self.pool.take()
            if page is None:
                return False
            self.pages.append(page)
        return True

    def shrink(self) -> None:
        """Give the last page back, with what is on it."""
        self.pool.give_back([self.pages.pop()])
        self.length = min(self.length, self.room)
        del self.keys[len(self.pages) + 1 :]

    def remember(self, prompt: Sequence[int]) -> None:
        """Make the computed part of the prompt reusable."""
        length = min(self.length, len(prompt))
        for i in range(len(self.keys) - 1, -(-length // PAGE)):
            tokens = tuple(prompt[i * PAGE : min(length, (i + 1) * PAGE)])
            self.pool.remember(self.pages[i], self.keys[i], tokens)
            if len(tokens) == PAGE:
                self.keys.append(_key(self.keys[i], tokens))

    def close(self) -> None:
        self.pool.give_back(self.pages)
        self.pages = []


def _key(before: bytes, tokens: Sequence[int]) -> bytes:
    return sha256(before + array("q", tokens).tobytes()).digest()


def pool_for(backend: Backend, num_bytes: int | None = None) -> PagePool:
    """A pool of as many pages as fit in `num_bytes`, by default half of the free memory. Raises ModelError if they do not fit.

    One extra page absorbs padded writes.
    """
    free = free_memory(str(backend.device))
    if num_bytes is not None and num_bytes > free:
        raise ModelError(f"{size(num_bytes)} for keys and values do not fit: {size(free)} of memory are free; give less")
    if num_bytes is not None and num_bytes < 2 * backend.page_bytes:
        raise ModelError(
            f"{size(num_bytes)} for keys and values hold no page of {PAGE} tokens; give at least {size(2 * backend.page_bytes)}"
        )
    room = free // 2 if num_bytes is None else num_bytes
    return PagePool(backend, max(1, room // backend.page_bytes - 1))
