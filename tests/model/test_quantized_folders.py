"""Whole folders with quantised weights: every parameter is what the codes stand for; contradictions and other formats are refused."""

import json

import pytest
import torch
from quantized_folders import METHODS, config, quantize_folder, set_quantization
from refusals import refused
from safetensors.torch import load_file, save_file
from tiny_models import tiny_decoder, word_tokenizer

from moe_lm.checkpoint.folder import parse
from moe_lm.checkpoint.read import load, open_checkpoint
from moe_lm.checkpoint.write import save
from moe_lm.config import MoEConfig, from_hf, to_hf
from moe_lm.errors import Unsupported
from moe_lm.families import FAMILIES
from moe_lm.known import config as known_config

GPTQ = METHODS["gptq"][0]


def routes(module):
    """Modules with a handful of outputs, which no tool quantises."""
    return module.endswith(("mlp.gate", "shared_expert_gate", "block_sparse_moe.gate"))


def quantise(folder, model_config, method="gptq", quantised=lambda module: not routes(module), **options):
    quantization, pack = METHODS[method]
    return quantize_folder(folder, model_config, pack, quantization, quantised, **options)


def expanded_twin(folder, other):
    """The folder's weights as plain floats, saved by another way; returns the model."""
    other.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        raw = json.loads((folder / name).read_text("utf-8"))
        raw.pop("quantization_config", None)
        (other / name).write_text(json.dumps(raw), "utf-8")
    return other


def same_parameters(folder, weights, other):
    """Is the quantised folder's model, bit for bit, that of a folder of plain floats?"""
    twin = expanded_twin(folder, other)
    stored = load_file(folder / "model.safetensors")
    biases = {name: tensor for name, tensor in stored.items() if name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias"))}
    save_file(weights | biases, twin / "model.safetensors")
    found, expected = load(folder).model, load(twin).model
    expected = dict(expected.named_parameters())
    return found.config == from_hf(json.loads((twin / "config.json").read_text("utf-8"))) and all(
        torch.equal(parameter, expected[name]) for name, parameter in found.named_parameters()
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_method(tmp_path, family, method):
    weights = quantise(tmp_path / "model", config(family), method)
    assert same_parameters(tmp_path / "model", weights, tmp_path / "plain")


def test_biases_of_zero_for_modules_that_have_none(tmp_path):
    """AutoGPTQ wrote one for every module. One that is not zero belongs to another model."""
    folder = tmp_path / "model"
    weights = quantise(folder, config(), zero_biases=True)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.experts.3.up_proj.bias"
    assert not tensors[name].any()
    assert same_parameters(folder, weights, tmp_path / "plain")
    tensors[name][5] = 0.25
    save_file(tensors, folder / "model.safetensors")
    refused(folder, "unexpected", name)


@pytest.mark.parametrize("quantised", ["lm_head", "mlp.gate", "shared_expert_gate", "o_proj"])
def test_whichever_modules_are_quantised(tmp_path, quantised):
    """The tensors say it, whatever modules_in_block_to_quantize and the like may."""
    wide = config(moe=MoEConfig(32, 2, 32, 96, norm_topk_prob=True))
    method = "fp8" if quantised == "shared_expert_gate" else "gptq"  # a single output does not fill a word
    weights = quantise(tmp_path / "model", wide, method, lambda module: module.endswith(quantised))
    assert same_parameters(tmp_path / "model", weights, tmp_path / "plain")


def test_a_quantised_head_of_a_tied_model_is_a_head_of_its_own(tmp_path):
    """The embedding is not quantised, so the two are no longer the same numbers."""
    quantise(tmp_path, config("llama"))
    raw = json.loads((tmp_path / "config.json").read_text("utf-8")) | {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(raw), "utf-8")
    checkpoint = open_checkpoint(tmp_path)
    assert not checkpoint.config.tie_word_embeddings
    assert any("tie_word_embeddings" in notice for notice in checkpoint.notices)


@pytest.mark.parametrize(
    ("method", "name"), [("gptq", "GPTQ-Int4"), ("awq", "AWQ-Int4"), ("fp8", "float8_e4m3"), ("compressed-tensors", "int4")]
)
def test_what_is_said_of_the_weights(tmp_path, method, name):
    quantise(tmp_path, config(), method)
    checkpoint = open_checkpoint(tmp_path)
    size = sum(tensor.nbytes for tensor in load_file(tmp_path / "model.safetensors").values())
    count = sum(parameter.numel() for parameter in checkpoint.read(torch.float32, "cpu", None).parameters())
    assert checkpoint.stored.precision == name
    assert checkpoint.stored.bits == pytest.approx(8 * size / count, abs=0.01)
    assert any("activations are not quantised" in notice for notice in checkpoint.notices) == (method == "fp8")


def test_scales_of_activations_are_not_used_and_it_is_said(tmp_path):
    weights = quantise(tmp_path / "model", config("llama"), "fp8")
    path = tmp_path / "model" / "model.safetensors"
    more = {
        f"model.layers.{layer}.self_attn.{name}": torch.ones(1) for layer in (0, 1) for name in ("q_proj.input_scale", "k_scale", "v_scale")
    }
    save_file(load_file(path) | more, path)
    assert any(notice.startswith("6 scales") for notice in open_checkpoint(tmp_path / "model").notices)
    assert same_parameters(tmp_path / "model", weights, tmp_path / "plain")
    quantise(tmp_path / "other", config("llama"), "gptq")
    path = tmp_path / "other" / "model.safetensors"
    save_file(load_file(path) | more, path)
    refused(tmp_path / "other", "unexpected", "scale")


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("quantize_config.json", {key: value for key, value in GPTQ.items() if key != "quant_method"} | {"damp_percent": 0.01}),
        ("quantize_config.json", GPTQ | {"checkpoint_format": "gptq", "meta": {"quantizer": ["gptqmodel:2.0.0"]}}),
        ("quant_config.json", {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}),
    ],
)
def test_a_file_of_its_own_says_it_too(tmp_path, name, quantization):
    """Beside config.json or in its place; what two files say must agree. The digest is over it as well."""
    folder = tmp_path / "model"
    method = "awq" if "w_bit" in quantization else "gptq"
    weights = quantise(folder, config("llama"), method)
    alone = open_checkpoint(folder).sha256
    (folder / name).write_text(json.dumps(quantization), "utf-8")
    assert open_checkpoint(folder).sha256 != alone
    assert same_parameters(folder, weights, tmp_path / "both")
    set_quantization(folder, None)
    assert same_parameters(folder, weights, tmp_path / "file")
    set_quantization(folder, METHODS[method][0] | {"group_size": 64})
    refused(folder, name, "config.json", "which is right")


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"load_in_8bit": True},
        *(
            {"quant_method": method}
            for method in ("hqq", "aqlm", "eetq", "quark", "torchao", "mxfp4", "bitnet", "modelopt", "auto-round", "x" * 3000)
        ),
    ],
)
def test_other_methods_are_refused_by_name(tmp_path, quantization):
    """As a model that another engine may run; before there are any weights, and as soon as config.json is read."""
    method = quantization.get("quant_method", "bitsandbytes")[:30]
    save(tiny_decoder(config("llama")), word_tokenizer(96), tmp_path)
    set_quantization(tmp_path, quantization)
    for by, given in ((load, tmp_path), (from_hf, to_hf(config("llama")) | {"quantization_config": quantization})):
        refused(given, method, "gptq", by=by)
        with pytest.raises(Unsupported):
            by(given)


def test_plain_weights_that_are_said_to_be_quantised(tmp_path):
    save(tiny_decoder(config("llama")), word_tokenizer(96), tmp_path)
    for quantization, _ in METHODS.values():
        set_quantization(tmp_path, quantization)
        refused(tmp_path, "no tensor is quantised", "config.json")
    for quantization in ({}, None):
        set_quantization(tmp_path, quantization)
        load(tmp_path)


def test_quantised_weights_that_are_said_to_be_plain(tmp_path):
    quantise(tmp_path, config("llama"))
    set_quantization(tmp_path, None)
    refused(tmp_path, "I32", "BF16")


def test_a_weight_twice(tmp_path):
    quantise(tmp_path, config("llama"))
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"model.layers.0.mlp.up_proj.weight": torch.zeros(96, 64)}, path)
    refused(tmp_path, "model.layers.0.mlp.up_proj", "which of them")


def test_a_scale_that_is_not_finite(tmp_path):
    quantise(tmp_path, config("llama"))
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for value in (torch.nan, torch.inf):
        tensors["model.layers.1.mlp.up_proj.scales"][1, 7] = value
        save_file(tensors, path)
        refused(tmp_path, "model.layers.1.mlp.up_proj.weight", "NaN")


def test_a_weight_of_another_size_than_the_configuration_says(tmp_path):
    quantise(tmp_path, config("llama"))
    raw = json.loads((tmp_path / "config.json").read_text("utf-8")) | {"intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(raw), "utf-8")
    refused(tmp_path, "gate_proj.weight", "(96, 64)", "(128, 64)")


def test_names_and_shapes_of_qwen15_moe_int4(tmp_path):
    """Qwen1.5-MoE-A2.7B-Chat-GPTQ-Int4: one layer of it at full size, without values; a tensor more or less is refused."""
    raw = to_hf(known_config("qwen1.5-moe-a2.7b")) | {"num_hidden_layers": 1, "max_window_layers": 1}
    raw["quantization_config"] = {
        "bits": 4,
        "damp_percent": 0.01,
        "desc_act": False,
        "group_size": 128,
        "quant_method": "gptq",
        "sym": True,
    }
    raw["quantization_config"] |= {"true_sequential": True, "model_name_or_path": None, "modules_in_block_to_quantize": None}
    word_tokenizer(1000).save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(raw), "utf-8")
    layer = "model.layers.0"
    floats = {"model.embed_tokens.weight": (151936, 2048), "lm_head.weight": (151936, 2048), "model.norm.weight": (2048,)}
    floats |= {f"{layer}.{name}_layernorm.weight": (2048,) for name in ("input", "post_attention")}
    floats |= {f"{layer}.mlp.gate.weight": (60, 2048), f"{layer}.mlp.shared_expert_gate.weight": (1, 2048)}
    linears = {f"{layer}.self_attn.{x}_proj": (2048, 2048) for x in "qkvo"}
    for mlp, width in [(f"experts.{e}", 1408) for e in range(60)] + [("shared_expert", 5632)]:
        linears |= {f"{layer}.mlp.{mlp}.{x}_proj": (width, 2048) for x in ("gate", "up")}
        linears[f"{layer}.mlp.{mlp}.down_proj"] = (2048, width)
    header = {name: ("F16", shape) for name, shape in floats.items()}
    for name, (outputs, inputs) in linears.items():
        header |= {f"{name}.qweight": ("I32", (inputs // 8, outputs)), f"{name}.qzeros": ("I32", (inputs // 128, outputs // 8))}
        header |= {
            f"{name}.scales": ("F16", (inputs // 128, outputs)),
            f"{name}.g_idx": ("I32", (inputs,)),
            f"{name}.bias": ("F16", (outputs,)),
        }
    write_without_values(tmp_path / "model.safetensors", header)
    _, weights = parse(tmp_path)
    weights.check()
    assert weights.shape(f"{layer}.mlp.experts.59.down_proj.weight") == (2048, 1408)
    assert weights.stored.precision == "GPTQ-Int4"
    for name in (f"{layer}.mlp.experts.59.down_proj.qzeros", f"{layer}.mlp.gate.weight"):
        write_without_values(tmp_path / "model.safetensors", {key: value for key, value in header.items() if key != name})
        refused(tmp_path, "lacks", *name.rsplit(".", 1), by=lambda folder: parse(folder)[1].check())


def write_without_values(path, header):
    """A safetensors file that is all holes after its header, but for the groups of inputs."""
    entries, end = {}, 0
    for name, (dtype, shape) in header.items():
        begin, end = end, end + torch.Size(shape).numel() * {"F16": 2, "I32": 4}[dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, entry in entries.items():
            if name.endswith("g_idx"):
                file.seek(8 + len(text) + entry["data_offsets"][0])
                file.write((torch.arange(*entry["shape"]) // 128).to(torch.int32).numpy().tobytes())
