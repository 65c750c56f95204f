"""Folders of int4 weights that we write: names and layout of the hub's, read back as what was rounded."""

import json
import os
from dataclasses import replace

import pytest
import torch
from folders_to_convert import checkpoint_of, config_of, one_at_a_time
from quantized_folders import expanded
from refusals import refused
from safetensors.torch import load_file
from tiny_models import logits, relative_diff

from moe_lm.checkpoint.quantized.gptq import GPTQ
from moe_lm.checkpoint.random_weights import random_checkpoint
from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.checkpoint.write_gptq import is_quantised, plan
from moe_lm.config import MoEConfig
from moe_lm.families import FAMILIES
from moe_lm.quant.gptq import PARTS, nbytes, pack
from moe_lm.quant.gptq import config as quantization


def wide(family="llama", **changes):
    """Rows of whole groups of 128."""
    row = FAMILIES[family].moe
    sizes = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256}
    if row:
        width = 256 if row.moe_intermediate_size == "intermediate_size" else 128
        shared = 256 if row.shared_expert_intermediate_size or row.num_shared_experts else 0
        sizes["moe"] = MoEConfig(5, 2, width, shared, True, row.shared_expert_gate, (0,) if row.first_dense_layers else ())
    return config_of(family, **sizes | changes)


def written(source, folder):
    plan(source).write(folder)
    return open_checkpoint(folder)


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_each_weight_is_the_nearest_level(group_size):
    weight = torch.randn(24, 256, generator=torch.Generator().manual_seed(0))
    weight[3, :group_size], weight[4, 7], weight[5, :group_size] = 0, 30.0, 1e-9
    packed = pack(weight, group_size)
    assert sum(tensor.nbytes for tensor in packed.values()) == nbytes(24, 256, group_size)
    found = expanded(GPTQ.from_config(quantization(group_size)), packed)
    scales = packed["scales"].float().t().repeat_interleave(group_size, dim=1)
    levels = torch.arange(-8, 8)
    nearest = (weight.unsqueeze(2) - levels * scales.unsqueeze(2)).abs().amin(dim=2)
    assert torch.allclose((weight - found).abs(), nearest, rtol=1e-5, atol=1e-9)
    assert ((weight - found).abs() <= 0.505 * scales).all()
    assert (found[3, :group_size] == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back(tmp_path, family):
    """The configuration; quantised matrices as rounded, all others as float16 has them; nearly the same logits."""
    source = checkpoint_of(wide(family), tmp_path / "source")
    found = written(source, tmp_path / "int4")
    assert found.config == source.config
    assert found.stored.precision == "GPTQ-Int4"
    ours, theirs = (each.read(torch.float32, "cpu", None) for each in (source, found))
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        if is_quantised(name):
            assert 0.01 < relative_diff(other, one) < 0.14, name
        else:
            assert torch.equal(other, one.half().float()), name
    assert relative_diff(logits(theirs, [1, 2, 3]), logits(ours, [1, 2, 3])) < 0.8


def test_the_names_of_the_hub(tmp_path):
    """Those of Qwen1.5-MoE-A2.7B-Chat-GPTQ-Int4, whose routers and gates are not quantised."""
    source = checkpoint_of(wide("qwen2_moe"), tmp_path / "source")
    written(source, tmp_path / "int4")
    tensors = load_file(tmp_path / "int4" / "model.safetensors")
    layer = {name.removeprefix("model.layers.1."): tensor for name, tensor in tensors.items() if name.startswith("model.layers.1.")}
    quantised = [f"self_attn.{name}_proj" for name in "qkvo"]
    quantised += [f"mlp.{part}.{name}_proj" for part in ("shared_expert", "experts.0", "experts.4") for name in ("gate", "up", "down")]
    for module in quantised:
        assert {f"{module}.{part}" for part in PARTS} <= layer.keys()
        assert f"{module}.weight" not in layer
    plain = {"mlp.gate.weight", "mlp.shared_expert_gate.weight", "input_layernorm.weight", "self_attn.q_proj.bias"}
    assert {layer[name].dtype for name in plain} == {torch.float16}
    down = "mlp.experts.0.down_proj"
    shapes = {
        part: (tuple(layer[f"{down}.{part}"].shape), layer[f"{down}.{part}"].dtype) for part in ("qweight", "qzeros", "scales", "g_idx")
    }
    assert shapes == {
        "qweight": ((16, 128), torch.int32),
        "qzeros": ((1, 16), torch.int32),
        "scales": ((1, 128), torch.float16),
        "g_idx": ((128,), torch.int32),
    }
    said = json.loads((tmp_path / "int4" / "config.json").read_text())
    assert said["quantization_config"] == json.loads((tmp_path / "int4" / "quantize_config.json").read_text())
    expected = {"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
    assert expected.items() <= said["quantization_config"].items()


def test_groups_as_large_as_all_rows_allow():
    for width, group_size in ((256, 128), (192, 64), (160, 32)):
        made = plan(random_checkpoint(wide(intermediate_size=width)))
        assert made.group_size == group_size
        assert any(f"groups of {group_size}" in notice for notice in made.notices) == (group_size < 128)
        assert "without calibration data" in made.notices[0]
    refused(random_checkpoint(wide(intermediate_size=144)), "rows of 144", "gguf:q4_0", by=plan)
    refused(random_checkpoint(wide(num_attention_heads=1, num_key_value_heads=1, head_dim=36)), "36", "gguf:q4_0", by=plan)


def test_a_source_that_is_quantised_is_said(tmp_path):
    source = checkpoint_of(wide(), tmp_path / "source")
    assert not any("quantised itself" in notice for notice in plan(source).notices)
    assert any("quantised itself (GPTQ-Int4)" in notice for notice in plan(written(source, tmp_path / "int4")).notices)


def test_what_float16_can_not_hold_is_refused(tmp_path):
    source = random_checkpoint(wide())
    for parameter, value, tensor in (
        ("layers.1.ffn.down_proj.weight", 1e6, "model.layers.1.mlp.down_proj.weight"),
        ("norm.weight", 7e4, "model.norm.weight"),
    ):

        def stream(parameter=parameter, value=value):
            for name, each in source.stream():
                if name == parameter:
                    each.view(-1)[5] = value
                yield name, each

        refused(tmp_path / "int4", tensor, f"{value:g}", by=plan(replace(source, stream=stream)).write)
        assert not os.listdir(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_is_left_of_a_folder_that_was_not_finished(tmp_path, error):
    def stop(done, total):
        raise error("stop")

    (tmp_path / "int4").mkdir()
    with pytest.raises(error):
        plan(random_checkpoint(wide())).write(tmp_path / "int4", stop)
    assert os.listdir(tmp_path) == ["int4"]
    assert not os.listdir(tmp_path / "int4")
    written(random_checkpoint(wide()), tmp_path / "int4")  # an empty folder may be there
    assert os.listdir(tmp_path) == ["int4"]


def test_several_files_and_one_parameter_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("moe_lm.checkpoint.write_gptq.SHARD_BYTES", 50_000)
    source = random_checkpoint(wide("mixtral"))
    watched, _ = one_at_a_time(source)
    found = written(watched, tmp_path / "int4")
    files = sorted(tmp_path.glob("int4/*.safetensors"))
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 3
    whole = written(source, tmp_path / "whole").read(torch.float32, "cpu", None)
    assert all(torch.equal(*pair) for pair in zip(found.read(torch.float32, "cpu", None).parameters(), whole.parameters(), strict=True))
