"""Tile sizes: what a tuned file must hold, and that the default table fits the model it was reasoned for."""

import json

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")

from moe_lm.backends.cuda import tuning
from moe_lm.backends.cuda.tuning import DEFAULT, DEFAULT_FLOAT32, Level, Tiles, Tuning
from moe_lm.errors import ModelError


@pytest.mark.parametrize("table", [DEFAULT, DEFAULT_FLOAT32])
def test_a_table_survives_its_file(table):
    assert tuning.from_json(json.loads(json.dumps(tuning.to_json(table))), "default") == table


@pytest.mark.parametrize("table", [DEFAULT, DEFAULT_FLOAT32])
def test_the_default_blocks_divide_qwen_moes_widths(table):
    assert 2048 % table.block_k == 0
    assert 1408 % table.block_k == 0


def test_levels_follow_the_mean_number_of_tokens():
    assert [DEFAULT.level(T, 4, 60).block_n for T in (1, 240, 241, 960, 961, 8192)] == [16, 16, 32, 64, 128, 128]


def test_the_file_of_this_very_key_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    arguments = (torch.device("cpu"), 60, 4, 2048, 1408, torch.bfloat16)
    tuning.tuning.cache_clear()
    assert tuning.tuning(*arguments) is DEFAULT
    import triton

    mine = Tuning(128, DEFAULT.levels, "mine")
    name = tuning.key("cpu", triton.__version__, *arguments[1:]) + ".json"
    (tmp_path / name).write_text(json.dumps(tuning.to_json(mine)))
    tuning.tuning.cache_clear()
    found = tuning.tuning(*arguments)
    tuning.tuning.cache_clear()
    assert (found.block_k, found.source) == (128, name)


def test_every_tuned_file_can_be_read():
    for path in tuning.FOLDER.glob("*.json"):
        tuning.from_json(json.loads(path.read_text()), path.name)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"levels": []}, "block_k"),
        ({"block_k": 64, "levels": []}, "at least one level"),
        ({"block_k": 48, "levels": tuning.to_json(DEFAULT)["levels"]}, "powers of two"),
        ({"block_k": 64, "levels": [{"block_n": 16}]}, "up"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(raw, said):
    with pytest.raises(ModelError, match=said):
        tuning.from_json(raw, "file.json")


def test_tiles_that_would_change_the_instruction_are_refused():
    tiles = Tiles(128, 4, 4, 1)
    with pytest.raises(ModelError, match="64 weight rows"):
        Tuning(64, (Level(16, 16, tiles, Tiles(32, 4, 4, 1)), Level(32, 32, tiles, tiles)), "mixed")
