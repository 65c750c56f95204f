"""torch's own matrix products, made so that no row depends on how many others came with it: for a CPU without a C++ compiler.

(With one, `moe_lm.backends.cpu` takes the products.)

A BLAS picks its kernel, and with it the order of its sums, by the shape of the product: the same token scored alone and in a
batch of 300 would differ in the last bits, and an answer letter or a greedy token with it. So every product has one of two forms;
which of them depends on the phase, never on the neighbours.

A prefill's has `PREFILL_ROWS` rows, short inputs padded. A decode step, with as many rows as sequences run,
must read the weights once and can't pad: its weights' rows are dealt out to the threads as one batched product, so that no sum is cut
between two threads, and there are at most `MAX_ROWS` rows, above which MKL cuts its sums into other pieces. That such a product is the
same bits for any number of rows is measured, not promised by MKL: tests/model/test_tiles.py holds it to that. Its rows come in multiples
of `ROWS`, as bfloat16's odd numbers of rows take another path; it costs a prefill a tenth more than the first form.

On a GPU the launch of many small products costs more; there the whole input is one product, and invariance is not promised.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 32  # queries a call of a prefill's attention, and what its number of keys is rounded up to
PREFILL_ROWS = 256
ROWS = 16
MAX_ROWS = 128
MIN_SHARE = 8  # a thread with fewer of the weights' rows takes a path for vectors


def is_prefill(num_rows: int) -> bool:
    """Is an input of `num_rows` rows, padded by its caller, a prefill's? Else a decode step's."""
    return num_rows % PREFILL_ROWS == 0


def whole_blocks(length: int) -> int:
    return length + -length % BLOCK


def pad_rows(x: Tensor, multiple: int = ROWS) -> Tensor:
    """`x` with zero rows below, up to a multiple."""
    short = -len(x) % multiple
    return F.pad(x, (0, 0) * (x.ndim - 1) + (0, short)) if short else x


def sigmoid(x_T1: Tensor) -> Tensor:
    """Of one number a row. torch takes them 32 at a time and the rest one by one, which rounds otherwise: no row may be a rest."""
    return torch.sigmoid(F.pad(x_T1, (0, 0, 0, -len(x_T1) % 32)))[: len(x_T1)]


def row_tiles(x_TD: Tensor) -> tuple[Tensor, ...]:
    """The rows of one product each."""
    if x_TD.device.type != "cpu":
        return (x_TD,)
    return x_TD.split(PREFILL_ROWS if is_prefill(len(x_TD)) else MAX_ROWS)


def columns(weight_OD: Tensor, x_DN: Tensor, share_rows: int = 0) -> Tensor:
    """One product, a column an input: [O, D] x [D, N] -> [O, N]; N is a multiple of `ROWS`, and at most `MAX_ROWS`.

    `share_rows`: cut the weights' rows into shares of about so many, and not only into one a thread. In shares of at most 128 rows
    N may be greater (`moe_lm.backends.experts_torch` says how great).
    """
    if x_DN.device.type != "cpu":
        return weight_OD @ x_DN
    rows = len(weight_OD)
    least = max(torch.get_num_threads(), -(-rows // share_rows) if share_rows else 1)
    shares = _shares(rows, least)
    if not shares:
        weight_OD, shares = F.pad(weight_OD, (0, 0, 0, -rows % (least * MIN_SHARE))), least
    return torch.bmm(weight_OD.unflatten(0, (shares, -1)), x_DN.expand(shares, -1, -1)).flatten(0, 1)[:rows]


@lru_cache
def _shares(rows: int, least: int) -> int:
    """Into how many equal shares the rows are cut, at least so many; 0 where they can't be."""
    return next((n for n in range(least, rows // MIN_SHARE + 1) if rows % n == 0), 0)


def linear(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear` over a prefill's or a decode step's T rows."""
    if x_TD.device.type != "cpu":
        return F.linear(x_TD, weight_OD, bias_O)
    tile = PREFILL_ROWS if is_prefill(len(x_TD)) else 0
    out_TO = x_TD.new_empty(len(x_TD), len(weight_OD))
    for x, out in zip(x_TD.split(tile or MAX_ROWS), out_TO.split(tile or MAX_ROWS), strict=True):
        if tile:
            torch.mm(x, weight_OD.t(), out=out)
        else:
            out.copy_(columns(weight_OD, x.t()).t())
    return out_TO if bias_O is None else out_TO.add_(bias_O)
