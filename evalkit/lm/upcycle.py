"""`evalkit upcycle`: a dense checkpoint -> a Hugging Face folder with the Qwen2-MoE that a recipe makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.config import FLOATS
from evalkit.errors import EvalkitError, unknown
from evalkit.files import require_new_folder, writing_weights
from evalkit.lm.models import find
from evalkit.lm.tokenized import one_line

if TYPE_CHECKING:
    from evalkit.progress import Reporter
    from moe_lm.config import ModelConfig
    from moe_lm.model import Decoder
    from moe_lm.upcycle.preserve import Progress

RECIPES = ("preserve", "qwen", "drop")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The options of `evalkit upcycle`. None: the recipe's default; `preserve` has neither `shared` nor `noise`."""

    name: str = "qwen"
    experts: int = 60
    top_k: int = 4
    expert_size: int | None = None
    shared: int | None = None
    noise: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in RECIPES:
            raise unknown("recipe", self.name, RECIPES)
        for option in ("shared", "noise"):
            if self.name == "preserve" and getattr(self, option) is not None:
                raise EvalkitError(f"--{option} does not apply to --recipe preserve, which keeps the dense model's function; leave it out")


def upcycle(source: str, dest: Path, recipe: Recipe, dtype: str = "auto", reporter: Reporter | None = None) -> str:
    """Write the folder; returns a summary. Needs memory for the source and the result, in the source's precision or `dtype`.

    Raises EvalkitError, in one line, if `dest` is not a new or empty folder, or `source` cannot be found or upcycled.
    """
    import torch

    from evalkit.progress import Reporter
    from moe_lm.checkpoint.read import load
    from moe_lm.checkpoint.write import save

    reporter = reporter or Reporter(quiet=True)
    if dtype not in ("auto", *FLOATS):
        raise unknown("dtype", dtype, ("auto", *FLOATS))
    require_new_folder(dest, "DEST")
    with one_line():
        found = find(source)
    if found.upcycle:
        raise EvalkitError(f"model {source} is upcycled when it is loaded; start from its dense twin (see evalkit ls models)")
    with one_line():
        with reporter.bar("loading model", 100, counted=False) as advance:
            precision = getattr(torch, _precision(found.path) if dtype == "auto" else dtype)
            dense = load(found.path, precision, progress=lambda done, total: advance(done * 100 // total))
        with reporter.bar("upcycling layers", dense.model.config.num_hidden_layers) as advance:
            model = _convert(dense.model, recipe, advance)
    reporter.say(f"writing {dest} ..")
    with writing_weights(dest):
        save(model, dense.tokenizer, dest)
    return _summary(dest, model.config, recipe, str(precision).removeprefix("torch."))


def _precision(path: Path) -> str:
    """The precision in a folder's config.json; float32 for a GGUF file, whose weights are dequantised."""
    from moe_lm.files import read_json

    raw = read_json(path / "config.json") if path.is_dir() else {}
    named = raw.get("dtype") or raw.get("torch_dtype")
    return named if named in FLOATS else "float32"


def _convert(dense: Decoder, recipe: Recipe, progress: Progress) -> Decoder:
    from moe_lm.upcycle.fine_grained import FineGrained, fine_grained
    from moe_lm.upcycle.preserve import Upcycle, preserve

    if recipe.name == "preserve":
        # the demo's width, or less for a narrow model; the shared expert gets the rest
        width = recipe.expert_size if recipe.expert_size is not None else min(64, dense.config.intermediate_size // 2)
        return preserve(dense, Upcycle(recipe.experts, recipe.top_k, width, recipe.seed), progress)
    given: dict[str, Any] = {"shared": recipe.shared, "noise": recipe.noise, "moe_intermediate_size": recipe.expert_size}
    given = {name: value for name, value in given.items() if value is not None}
    return fine_grained(dense, FineGrained(recipe.name, recipe.experts, recipe.top_k, seed=recipe.seed, **given), progress)


def _summary(dest: Path, config: ModelConfig, recipe: Recipe, dtype: str) -> str:
    from moe_lm.count import count

    parameters, moe = count(config), config.moe
    assert moe
    return f"""wrote {dest}: Qwen2MoeForCausalLM, {dtype}; recipe {recipe.name}, seed {recipe.seed}
  {config.num_hidden_layers} layers, {moe.num_experts} experts of {moe.moe_intermediate_size} (top-{moe.num_experts_per_tok}), \
shared expert of {moe.shared_expert_intermediate_size}, norm_topk_prob {str(moe.norm_topk_prob).lower()}
  {parameters.total:,} parameters, {parameters.activated:,} activated"""
