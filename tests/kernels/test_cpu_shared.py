"""Packed weights held once by several processes: the same bits, in memory that they share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_models import blank_caches, on, run_all, tiny_config, tiny_decoder, tokens

from moe_lm.backends.cpu.shared import kept, sharing

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are Linux's")


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("weights")
    yield fd
    os.close(fd)


def mapped() -> int:
    """Places in this process's memory that the file is mapped to."""
    return sum("memfd:weights" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_a_second_reader_finds_what_the_first_one_wrote(file: int) -> None:
    first, second = (torch.arange(5000, dtype=torch.float32) for _ in range(2))
    with sharing(file):
        one = kept(first)
    size = os.fstat(file).st_size
    with sharing(file):
        two = kept(second)
    assert one.data_ptr() not in (first.data_ptr(), two.data_ptr(), second.data_ptr())
    assert torch.equal(one, first)
    assert torch.equal(two, second)
    assert os.fstat(file).st_size == size
    assert mapped() == 2
    assert kept(first) is first  # nothing is shared now


def test_other_weights_are_never_taken(file: int) -> None:
    with sharing(file):
        kept(torch.zeros(100))
    for other in (torch.ones(100), torch.zeros(101)):
        with sharing(file):
            assert kept(other) is other


def test_what_a_killed_process_has_not_finished_is_written_again(file: int) -> None:
    with sharing(file):
        kept(torch.zeros(100))
    os.pwrite(file, bytes(8), 0)  # the size is written last
    with sharing(file):
        assert torch.equal(kept(torch.ones(100)), torch.ones(100))
    with sharing(file):
        assert kept(twin := torch.ones(100)) is not twin


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_gives_the_same_bits(file: int, tied: bool) -> None:
    model, prompt = tiny_decoder(tiny_config("qwen2_moe", tied=tied)), tokens(40, 1)
    plain = on("cpu", model)
    for _ in range(2):
        with sharing(file):
            shared = on("cpu", model)
        results = [run_all(each, list(zip([prompt], blank_caches(each, prompt), strict=True))) for each in (plain, shared)]
        assert torch.equal(results[0][0], results[1][0])
    assert mapped() > 10
