"""The same row in any company: what `moe_lm.backends.tiles` claims of this machine's BLAS."""

import pytest
import torch

from moe_lm.backends.tiles import MAX_ROWS, ROWS, columns, linear, pad_rows, sigmoid

# (outputs, inputs): SmolLM2's and Qwen 0.5B's layers and a slice of the head, Qwen1.5-MoE's expert, router, shared expert's gate
SHAPES = [(576, 576), (192, 576), (1536, 576), (576, 1536), (896, 896), (128, 896), (4864, 896), (896, 4864), (9496, 896)]
SHAPES += [(2816, 2048), (2048, 1408), (60, 2048), (1, 2048), (64, 576), (576, 64), (100, 24), (7, 100), (16, 64)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_row_is_the_same_bits_among_any_number_of_rows(outputs, inputs, dtype, threads):
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=rng).to(dtype)
    x = torch.randn(MAX_ROWS + 2 * ROWS, inputs, generator=rng).to(dtype)
    alone = torch.cat([linear(rows, weight) for rows in x.split(ROWS)])
    assert torch.allclose(alone.double(), x.double() @ weight.double().t(), rtol=2e-2, atol=1e-4 if dtype == torch.float32 else 2e-1)
    for number in range(2 * ROWS, len(x) + 1, ROWS):
        assert torch.equal(torch.cat([linear(rows, weight) for rows in x.split(number)]), alone), number


@pytest.mark.parametrize(("outputs", "inputs"), [(576, 1536), (896, 4864), (2048, 1408)])
def test_so_is_a_column_between_two_products(outputs, inputs, threads):
    rng = torch.Generator().manual_seed(1)
    weight, x = torch.randn(outputs, inputs, generator=rng), torch.randn(inputs, MAX_ROWS, generator=rng)
    alone = torch.cat([columns(weight, part.contiguous()) for part in x.split(ROWS, 1)], 1)
    for number in range(2 * ROWS, MAX_ROWS + 1, ROWS):
        assert torch.equal(torch.cat([columns(weight, part.contiguous()) for part in x.split(number, 1)], 1), alone), number


@pytest.mark.parametrize(("outputs", "inputs"), [(2816, 2048), (2048, 1408), (128, 576), (1024, 1536), (100, 24)])
def test_in_shares_of_few_rows_a_product_may_have_more_columns(outputs, inputs, threads):
    rng = torch.Generator().manual_seed(2)
    weight, x = torch.randn(outputs, inputs, generator=rng), torch.randn(inputs, 320, generator=rng)
    alone = torch.cat([columns(weight, part.contiguous()) for part in x.split(ROWS, 1)], 1)
    for number in (48, 144, 320):
        for share_rows in (16, 128):
            assert torch.equal(columns(weight, x[:, :number].contiguous(), share_rows), alone[:, :number]), (number, share_rows)


def test_the_number_of_threads_changes_nothing():
    weight, x = torch.randn(4864, 896), torch.randn(48, 896)
    before, found = torch.get_num_threads(), []
    for number in (1, 2, 4):
        torch.set_num_threads(number)
        found.append(linear(x, weight))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_gate_is_the_same_bits_among_any_number_of_rows():
    x = torch.randn(MAX_ROWS, 1)
    for number in (16, 48, 80):
        assert torch.equal(torch.cat([sigmoid(rows) for rows in x.split(number)]), sigmoid(x)), number


def test_padding_is_zeros_below_up_to_a_multiple():
    padded = pad_rows(torch.ones(ROWS + 1, 3))
    assert padded.shape == (2 * ROWS, 3)
    assert padded[ROWS + 1 :].eq(0).all()
    assert pad_rows(padded) is padded
