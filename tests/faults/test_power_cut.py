"""A power cut at any instant: the journal opens, holds the first answers that were put, whole, and lacks at most those of SYNC_EVERY."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from power_cut import ANSWERS, SYNCED_EACH, Call, Disk, answer, read

from evalkit.errors import EvalkitError
from evalkit.runner.journal import Journal

CUTS = 80


@pytest.fixture(scope="module")
def calls(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """All that a process with a journal told the disk."""
    folder = tmp_path_factory.mktemp("power-cut")
    (folder / "run").mkdir()
    command = [sys.executable, Path(__file__).with_name("power_cut.py"), folder / "run", folder / "trace"]
    subprocess.run(command, check=True, env=os.environ | {"LD_PRELOAD": str(shim)})
    return list(read(folder / "trace", folder / "run"))


def violations(calls: list[Call], cuts: list[int], folder: Path, honest: bool = True) -> tuple[list[str], int]:
    """What is wrong after power cuts at these calls, and how many of the cuts lost an answer that had been put."""
    rng, disk, wrong, losses = random.Random(0), Disk(honest), [], 0
    acknowledged = durable = written = 0  # answers: put returned; on the disk; in the write-ahead log
    due = sorted(cuts)
    for number, call in enumerate(calls):
        disk.apply(call)
        if call.kind == "W" and call.name == "journal.sqlite-wal":
            written = acknowledged  # the one being put is there when its last frame is: known at its mark
        if call.kind == "S" and call.name == "journal.sqlite-wal":
            durable = written
        if call.kind == "M":
            acknowledged = call.offset
        while due and due[0] == number:
            due.pop(0)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            disk.cut(folder, rng)
            try:
                held = _held(folder / "journal.sqlite")
            except EvalkitError as error:
                wrong.append(f"call {number}: {error}")
                continue
            losses += held < acknowledged
            if held < durable:
                wrong.append(f"call {number}: {held} answers held, {durable} were synced")
            if held < acknowledged - SYNCED_EACH:
                wrong.append(f"call {number}: {held} answers held, {acknowledged} were put")
    return wrong, losses


def _held(path: Path) -> int:
    """How many answers the journal holds: the first so many that were put, each as it was."""
    journal = Journal(path)
    try:
        held = len(journal)
        for i in range(ANSWERS):
            key, response = answer(i)
            if journal.get(key) != (response if i < held else None):
                raise EvalkitError(f"answer {i} of {held} is not as it was put")
    finally:
        journal.close()
    return held


def test_a_power_cut_loses_the_last_answers_at_most(calls: list[Call], tmp_path: Path) -> None:
    kinds = {(call.kind, call.name) for call in calls}
    # the record holds checkpoints and a second session
    assert {("W", "journal.sqlite"), ("S", "journal.sqlite"), ("U", "journal.sqlite-wal"), ("S", "")} <= kinds
    rng = random.Random(1)
    # half of the cuts anywhere, half where the files are made, folded together and closed
    busy = [i for i, call in enumerate(calls) if call.name != "journal.sqlite-wal" and call.kind in "WTSCU"]
    cuts = rng.sample(range(len(calls)), CUTS // 2) + rng.sample(busy, CUTS // 2)
    wrong, losses = violations(calls, cuts, tmp_path / "cut")
    assert not wrong
    assert losses > CUTS // 10  # the cuts do cut


def test_the_check_finds_a_disk_that_lies(calls: list[Call], tmp_path: Path) -> None:
    wrong, _ = violations(calls, random.Random(2).sample(range(len(calls)), 20), tmp_path / "cut", honest=False)
    assert wrong
