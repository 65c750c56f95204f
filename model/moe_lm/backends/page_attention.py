"""Decode attention: the newest token of every sequence to all the pages that it lies on.

N sequences, J key/value heads, H = J * G query heads, d head_dim; P tokens a page, R rows of pages, C columns (queries, padded).

Each page is attended to apart, as keys by queries, and the pages of a sequence are added up in their order. A page's product has one
query a column, and a column is the same bits whatever number of columns stands beside it (tests/model/test_page_attention.py holds
MKL to that). So a page that many sequences share, a few-shot prompt's, is read once for all of them, and the answer does not
depend on who shares it. This is for a CPU without a C++ compiler; on a GPU `moe_lm.backends.cuda.decode` takes the step.

Floor: every page's keys and values once a step, 8 J d bytes a token and layer in float32.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_lm.backends.tiles import PREFILL_ROWS, ROWS, pad_rows
from moe_lm.engine.pages import PAGE, PagedCache, PagePool
from moe_lm.model import Decoder

COLUMNS = 8  # a product's number of queries is a multiple of this
MAX_COLUMNS = 128
ONES = torch.ones(COLUMNS, PAGE)
MAX_GAP = 4  # pages of others that are multiplied too rather than begin another product


@dataclass(frozen=True, slots=True)
class _Shared:
    """Neighbouring pages in the pool, their places in the sequences `who`, and where a window hides some of them, their bias."""

    who: list[int]
    pages: slice
    places: slice
    bias_r1PN: Tensor | None  # noqa: N815


@torch.inference_mode()
def decode_step(model: Decoder, new: Sequence[tuple[int, PagedCache]]) -> Tensor:
    """Run one new token of every sequence after its cache. Returns the final hidden states [N, D]."""
    assert len(new) <= PREFILL_ROWS - ROWS, "more rows would be taken for a prefill's (see moe_lm.tiles)"
    caches = [cache for _, cache in new]
    for cache in caches:
        cache.grow(cache.length + 1)
    plan = PageAttention(new[0][1].pool, caches, model.config.sliding_window)
    tokens_N = torch.tensor([token for token, _ in new])
    positions_N = torch.tensor([cache.length for cache in caches])

    def attend(layer: int, q_THd: Tensor, k_TJd: Tensor, v_TJd: Tensor) -> Tensor:
        N = len(new)
        return torch.cat((plan.attend(layer, q_THd[:N], k_TJd[:N], v_TJd[:N]), torch.zeros_like(q_THd[N:])))

    hidden_ND = model(pad_rows(tokens_N), pad_rows(positions_N), attend, pad_rows(torch.arange(len(new))))[: len(new)]
    for cache in caches:
        cache.length += 1
    return hidden_ND


class PageAttention:
    """One decode step's plan: which pages, for whom. `caches` have room for one token more."""

    def __init__(self, pool: PagePool, caches: Sequence[PagedCache], window: int | None):
        self.pool, self.window = pool, window
        self.lengths = [cache.length + 1 for cache in caches]
        self.new_pages_N = torch.tensor([cache.pages[cache.length // PAGE] for cache in caches])
        self.new_rows_N = torch.tensor([cache.length % PAGE for cache in caches])
        self.most = max(-(-length // PAGE) for length in self.lengths)
        users: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for i, cache in enumerate(caches):
            first = max(0, self.lengths[i] - window) // PAGE if window else 0
            for at in range(first, -(-self.lengths[i] // PAGE)):
                users[cache.pages[at], at].append(i)
        self._own([(page, at, who[0]) for (page, at), who in users.items() if len(who) == 1])
        shared: defaultdict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for place, who in users.items():
            if len(who) > 1:
                shared[tuple(who)].append(place)
        self.shared = [self._shared(list(who), run) for who, places in shared.items() for run in _runs(places, 0)]

    def _shared(self, who: list[int], run: list[tuple[int, int]]) -> _Shared:
        """Pages of several sequences: (page, its place in each of them)."""
        page, at = run[0]
        pages, places = slice(page, page + len(run)), slice(at, at + len(run))
        if not self.window:
            return _Shared(who, pages, places, None)
        bias_rNP = self._bias(torch.arange(places.start, places.stop)[:, None], torch.tensor([self.lengths[i] for i in who]))
        return _Shared(who, pages, places, bias_rNP.transpose(1, 2)[:, None])

    def _own(self, own: list[tuple[int, int, int]]) -> None:
        """Pages of one sequence each: (page, its place in the sequence, the sequence)."""
        self.runs = [(run[0][0], run[-1][0] + 1) for run in _runs([(page, at) for page, at, _ in own], MAX_GAP)]
        rows = [page for begin, end in self.runs for page in range(begin, end)]
        owners = {page: (at, who) for page, at, who in own}
        found = [(row, *owners[page]) for row, page in enumerate(rows) if page in owners]
        self.own_rows, self.own_at, self.own_who = torch.tensor(found, dtype=torch.int64).view(-1, 3).unbind(1)
        self.query_R = torch.zeros(len(rows), dtype=torch.int64).index_put_((self.own_rows,), self.own_who)
        at_R = torch.zeros(len(rows), dtype=torch.int64).index_put_((self.own_rows,), self.own_at)
        self.bias_R1P1 = self._bias(at_R, torch.tensor(self.lengths)[self.query_R])[:, None, :, None]

    def _bias(self, at: Tensor, lengths: Tensor) -> Tensor:
        """What is added to the scores of a page's keys: 0 for those that a sequence of this length may see, else -inf. [.., P]"""
        position = at[..., None] * PAGE + torch.arange(PAGE)
        hidden = position >= lengths[..., None]
        if self.window:
            hidden |= position < lengths[..., None] - self.window
        return torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)

    def attend(self, layer: int, q_NHd: Tensor, k_NJd: Tensor, v_NJd: Tensor) -> Tensor:
        """Put the new keys and values on their pages; returns what their queries find, [N, H, d]."""
        k_PJNd, v_PJNd = self.pool.k[layer], self.pool.v[layer]
        k_PJNd[self.new_pages_N, :, self.new_rows_N] = k_NJd
        v_PJNd[self.new_pages_N, :, self.new_rows_N] = v_NJd
        (N, H, d), J = q_NHd.shape, k_NJd.shape[1]
        q_NJGd = (q_NHd.float() * d**-0.5).unflatten(1, (J, H // J))
        parts = _Parts(self.most, N, J, H // J, d)
        if self.runs:
            self._attend_own(k_PJNd, v_PJNd, q_NJGd, parts)
        most = MAX_COLUMNS // (H // J)
        for shared in self.shared:
            for begin in range(0, len(shared.who), most):
                _attend_shared(k_PJNd[shared.pages], v_PJNd[shared.pages], q_NJGd, shared, slice(begin, begin + most), parts)
        return parts.sum().flatten(1, 2).to(q_NHd.dtype)

    def _attend_own(self, k_PJNd: Tensor, v_PJNd: Tensor, q_NJGd: Tensor, parts: "_Parts") -> None:
        q_RJdC = _columns(q_NJGd.transpose(2, 3))[self.query_R]
        k = [k_PJNd[begin:end] for begin, end in self.runs]
        v = [v_PJNd[begin:end] for begin, end in self.runs]
        most, total, out = _attend(k, v, q_RJdC, self.bias_R1P1)
        G = q_NJGd.shape[2]
        rows, where = self.own_rows, (self.own_at, self.own_who)
        parts.max[where], parts.total[where] = most[rows, :, :G], total[rows, :, :G]
        parts.out[where] = out[rows, :, :, :G].transpose(2, 3)


class _Parts:
    """What each sequence found on each of its pages: the largest score, the sum of weights below it, and the weighted values."""

    def __init__(self, pages: int, N: int, J: int, G: int, d: int):
        self.max = torch.full((pages, N, J, G), -torch.inf)
        self.total = torch.zeros(pages, N, J, G)
        self.out = torch.zeros(pages, N, J, G, d)

    def sum(self) -> Tensor:
        """Page after page, so that pages which only a longer neighbour has add zeros at the end. [N, J, G, d]"""
        weights = (self.max - self.max.amax(0)).exp_()
        total, out = torch.zeros_like(self.total[0]), torch.zeros_like(self.out[0])
        for weight, some, found in zip(weights, self.total, self.out, strict=True):
            total += weight * some
            out += weight[..., None] * found
        return out / total[..., None]


def _attend_shared(k_rJPd: Tensor, v_rJPd: Tensor, q_NJGd: Tensor, shared: _Shared, some: slice, parts: _Parts) -> None:
    """Some of those who share these pages."""
    who, G = shared.who[some], q_NJGd.shape[2]
    q_JdC = _columns(q_NJGd[who].permute(1, 3, 0, 2).flatten(2))
    bias = None if shared.bias_r1PN is None else _columns(shared.bias_r1PN[..., some].repeat_interleave(G, dim=-1))
    most, total, out = _attend([k_rJPd], [v_rJPd], q_JdC.expand(len(k_rJPd), -1, -1, -1), bias)
    split = (len(who), G)
    for into, found in ((parts.max, most), (parts.total, total)):
        into[shared.places, who] = found[..., : len(who) * G].unflatten(-1, split).transpose(1, 2)
    parts.out[shared.places, who] = out[..., : len(who) * G].unflatten(-1, split).permute(0, 3, 1, 4, 2)


def _attend(k: list[Tensor], v: list[Tensor], q_RJdC: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Attention to runs of pages [r, J, P, d], R in all: the largest score and the sum [R, J, C], the weighted values [R, J, d, C]."""
    (R, J, d, C), sizes = q_RJdC.shape, [len(some) * some.shape[1] for some in k]
    scores = torch.empty(R * J, PAGE, C)
    for some, q, out in zip(k, q_RJdC.reshape(R * J, d, C).split(sizes), scores.split(sizes), strict=True):
        torch.bmm(some.flatten(0, 1).float(), q, out=out)
    if bias is not None:
        scores.unflatten(0, (R, J)).add_(bias)
    most = scores.amax(1, keepdim=True)
    weights = scores.sub_(most).exp_()
    # a product with ones: torch's sum over keys takes another order for another number of columns
    total = torch.bmm(ONES.expand(R * J, -1, -1), weights)[:, 0]
    values = torch.empty(R * J, d, C)
    for some, w, out in zip(v, weights.split(sizes), values.split(sizes), strict=True):
        torch.bmm(some.flatten(0, 1).float().transpose(1, 2), w, out=out)
    return most.view(R, J, C), total.view(R, J, C), values.view(R, J, d, C)


def _columns(q: Tensor) -> Tensor:
    """With zero columns at the end, up to a multiple of COLUMNS."""
    short = -q.shape[-1] % COLUMNS
    return torch.nn.functional.pad(q, (0, short)) if short else q.contiguous()


def _runs(places: list[tuple[int, int]], gap: int) -> list[list[tuple[int, int]]]:
    """(page, place) in runs of neighbouring pages, with at most `gap` others between two; without a gap, of neighbouring places too."""
    runs: list[list[tuple[int, int]]] = []
    for page, at in sorted(places):
        last = runs[-1][-1] if runs else None
        if last and page - last[0] <= gap + 1 and (gap or at == last[1] + 1):
            runs[-1].append((page, at))
        else:
            runs.append([(page, at)])
    return runs
