"""The router's choice, gates, the rotation's cosines and log-sum-exp: right within float32's rounding, row by row."""

import pytest
import torch
from cpu_cases import needs_kernels, random

from moe_lm import model
from moe_lm.backends.cpu.launch import logsumexp, rotation, route, sigmoid

pytestmark = needs_kernels


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("E", "K"), [(1, 1), (5, 2), (16, 16), (60, 4), (130, 8)])
def test_route(E, K, normalise, threads):
    logits = 3 * random(50, E)
    weights, ids = route(logits, K, normalise)
    expected, expected_ids = model.route(logits.double(), K, normalise)
    assert torch.equal(ids, expected_ids)
    assert torch.allclose(weights, expected, rtol=2e-6, atol=0)
    assert torch.equal(torch.cat([route(row[None], K, normalise)[0] for row in logits]), weights)


def test_ties_go_to_the_lowest_expert():
    assert route(torch.zeros(3, 64), 4, True)[1].tolist() == [[0, 1, 2, 3]] * 3
    assert route(torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0, 3.0]]), 5, False)[1].tolist() == [[1, 3, 6, 2, 4]]
    assert torch.equal(route(torch.zeros(3, 64), 4, True)[0], torch.full((3, 4), 0.25))


def test_logits_far_apart():
    weights, ids = route(torch.tensor([[0.0, 500.0, -1e30, 499.0]]), 3, False)
    assert ids.tolist() == [[1, 3, 0]]
    assert torch.allclose(weights, torch.tensor([[0.7310586, 0.2689414, 0.0]]))


@pytest.mark.parametrize("count", [1, 15, 16, 33])
def test_sigmoid(count, threads):
    x = 20 * random(count)
    x[0] = 200.0
    assert torch.allclose(sigmoid(x), torch.sigmoid(x.double()).float(), rtol=1e-6, atol=1e-37)
    assert torch.equal(torch.cat([sigmoid(each[None]) for each in x]), sigmoid(x))


def test_rotation(threads):
    positions, inv_freq = torch.arange(0, 100_000, 997, dtype=torch.int32), model.inverse_frequencies(1e6, 48, None, torch.device("cpu"))
    cos, sin = rotation(positions, inv_freq)
    angles = torch.outer(positions.float(), inv_freq).double()
    assert (cos - angles.cos()).abs().max() < 2**-24
    assert (sin - angles.sin()).abs().max() < 2**-24


@pytest.mark.parametrize("width", [1, 7, 16, 63, 64, 1003, 50_257])
def test_logsumexp(width, threads):
    x = 5 * random(9, width)
    found = logsumexp(x)
    assert torch.allclose(found, x.double().logsumexp(-1).float(), rtol=1e-7, atol=1e-6)
    assert torch.equal(torch.cat([logsumexp(row[None]) for row in x]), found)


def test_a_row_with_nan_or_infinity_has_no_finite_sum():
    for value in (torch.nan, torch.inf):
        x = random(2, 100)
        x[1, 37] = value
        assert logsumexp(x).isfinite().tolist() == [True, False]
