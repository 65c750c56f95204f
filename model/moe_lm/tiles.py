"""Matrix products whose rows don't depend on how many other rows came with them.

A BLAS picks its kernel, and with it the order of its sums, by the shape of the product: the same token scored alone and in a
batch of 300 would differ in the last bits, and an answer letter or a greedy token with it. Two things keep the order here.
The weights' rows are dealt out to the threads as one batched product, so that no sum is cut between two threads; and a product has at
most `MAX_ROWS` rows, above which MKL cuts its sums into other pieces. Rows come in multiples of `ROWS`, as bfloat16's odd numbers of
rows take another path. All this is measured, not promised by MKL: tests/model/test_tiles.py holds it to that.

On a GPU the launch of many small products costs more; there the whole input is one product, and invariance is not promised.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 16
MAX_ROWS = 128
MIN_SHARE = 8  # a thread with fewer of the weights' rows takes a path for vectors


def pad_rows(x: Tensor) -> Tensor:
    """`x` with zero rows below, up to a multiple of `ROWS`."""
    short = -len(x) % ROWS
    return F.pad(x, (0, 0) * (x.ndim - 1) + (0, short)) if short else x


def sigmoid(x_T1: Tensor) -> Tensor:
    """Of one number a row. torch takes them 32 at a time and the rest one by one, which rounds otherwise: no row may be a rest."""
    return torch.sigmoid(F.pad(x_T1, (0, 0, 0, -len(x_T1) % 32)))[: len(x_T1)]


def row_tiles(x_TD: Tensor) -> tuple[Tensor, ...]:
    """The rows of one product each, of T rows that are a multiple of `ROWS`."""
    return x_TD.split(MAX_ROWS) if x_TD.device.type == "cpu" else (x_TD,)


def columns(weight_OD: Tensor, x_DN: Tensor) -> Tensor:
    """One product, a column an input: [O, D] x [D, N] -> [O, N]; N is a multiple of `ROWS`, and at most `MAX_ROWS`."""
    if x_DN.device.type != "cpu":
        return weight_OD @ x_DN
    rows, threads = len(weight_OD), torch.get_num_threads()
    shares = _shares(rows, threads)
    if not shares:
        weight_OD, shares = F.pad(weight_OD, (0, 0, 0, -rows % (threads * MIN_SHARE))), threads
    return torch.bmm(weight_OD.unflatten(0, (shares, -1)), x_DN.expand(shares, -1, -1)).flatten(0, 1)[:rows]


@lru_cache
def _shares(rows: int, threads: int) -> int:
    """Into how many equal shares the rows are cut, one or more a thread; 0 where they can't be."""
    return next((n for n in range(threads, rows // MIN_SHARE + 1) if rows % n == 0), 0)


def linear(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear` over T rows, a multiple of `ROWS`. [T, D] x [O, D] -> [T, O]."""
    if x_TD.device.type != "cpu":
        return F.linear(x_TD, weight_OD, bias_O)
    out_TO = x_TD.new_empty(len(x_TD), len(weight_OD))
    for x, out in zip(row_tiles(x_TD), row_tiles(out_TO), strict=True):
        out.copy_(columns(weight_OD, x.t()).t())
    return out_TO if bias_O is None else out_TO.add_(bias_O)
