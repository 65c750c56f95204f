"""The tensors of a checkpoint, whatever its format, and where they go in a decoder."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from moe_lm.config import ModelConfig
from moe_lm.errors import ModelError
from moe_lm.families.names import Pieces, pieces
from moe_lm.files import and_more
from moe_lm.model import Decoder
from moe_lm.quant.weight import Quantized, are_ordered_alike, stacked

Progress = Callable[[int, int], None]  # (parameters read, parameters in all)


Fill = Callable[[str, Tensor], None]  # fills a parameter's (name, memory)
Parameters = Iterator[tuple[str, Tensor]]  # of a decoder, one after another


def parameter(name: str, shape: torch.Size, dtype: torch.dtype, device: str, fill: Fill) -> Tensor:
    """In memory of its own."""
    value = torch.empty(shape, dtype=dtype, device=device)
    fill(name, value)
    return value


def outline(config: ModelConfig) -> Decoder:
    """A decoder whose parameters have no memory, on torch's meta device: a wrong size may be a huge one."""
    with torch.device("meta"):
        return Decoder(config)


def outlines(config: ModelConfig) -> dict[str, Tensor]:
    """The parameters of a decoder without memory."""
    return {name: each.data for name, each in outline(config).named_parameters()}


def streamed(config: ModelConfig, fill: Fill) -> Parameters:
    """The parameters of a decoder in float32 on the CPU: whoever takes them one by one needs the memory of the largest."""
    return ((name, parameter(name, each.shape, torch.float32, "cpu", fill)) for name, each in outlines(config).items())


def filled(
    config: ModelConfig,
    dtype: torch.dtype,
    device: str,
    fill: Fill,
    progress: Progress | None,
    quantized: Callable[[str, torch.Size], Sequence[Quantized]] = lambda name, shape: (),
) -> Decoder:
    """A decoder with all its parameters, those that are `quantized` in their blocks."""
    model = outline(config)
    shapes = [(name, p.shape) for name, p in model.named_parameters()]
    done, total = 0, sum(shape.numel() for _, shape in shapes)
    for name, shape in shapes:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if blocks := quantized(name, shape):
            _hold(module, leaf, blocks)
        else:
            setattr(module, leaf, nn.Parameter(parameter(name, shape, dtype, device, fill), requires_grad=False))
        done += shape.numel()
        if progress:
            progress(done, total)
    if config.tie_word_embeddings:
        model.tie()
    return model.eval()


def _hold(module: nn.Module, leaf: str, blocks: Sequence[Quantized]) -> None:
    """Blocks in place of a parameter."""
    setattr(module, leaf, None)
    name = {"gate_up_EGD": "gate_up_quantized", "down_EDF": "down_quantized"}.get(leaf, "quantized")
    setattr(module, name, tuple(blocks) if leaf == "gate_up_EGD" else blocks[0])


@dataclass(frozen=True, slots=True)
class Stored:
    """How files hold weights: `precision` is a dtype or a GGUF file's type (bfloat16, Q4_K_M), `bits` are those of a weight on average."""

    precision: str
    bits: float

    @property
    def is_rounded(self) -> bool:
        """Are the weights quantised, so that writing them in another quantised type rounds them a second time?"""
        return not self.precision.startswith(("float", "bfloat"))

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, int, int]], name: str | None = None) -> "Stored":
        """Of (precision, bytes, weights) of each tensor: the precision that most bytes are in, where the file does not name its own."""
        total, size, weights = Counter[str](), 0, 0
        for precision, nbytes, count in tensors:
            total[precision] += nbytes
            size, weights = size + nbytes, weights + count
        return cls(name or max(total, key=lambda precision: total[precision], default="unknown"), round(8 * size / max(1, weights), 2))


@dataclass(frozen=True, slots=True)
class Weights:
    """Names, shapes, and values in chunks along the first dimension."""

    path: Path
    config: ModelConfig
    names: Mapping[str, str]  # the format's, of the decoder's modules: see `moe_lm.families.names`
    tensors: set[str]
    shape: Callable[[str], tuple[int, ...]]
    chunks: Callable[[str], Iterator[Tensor]]
    notices: tuple[str, ...] = ()  # what a user should know about how the files were read
    stored: Stored | None = None
    quantized: Callable[[str], Quantized | None] = lambda name: None  # a tensor of a kind that products read, as it is stored
    is_kept: Callable[[str], bool] = lambda name: False  # is it such a tensor?
    width: Callable[[], float] = lambda: 4.0  # bytes of a weight, on average, where those stay as they are stored and others become float32

    def check(self) -> None:
        """Raises ModelError for a missing, surplus or misshapen tensor."""
        self._check_counts()
        try:
            parameters = outlines(self.config)
        except RuntimeError:  # a size beyond 64 bits
            raise ModelError(f"{self.path}: its config describes tensors too large for any computer; is it this model's?") from None
        needed = {piece for name in parameters for rows in self._pieces(name) for piece in rows}
        surplus = {name for name in self.tensors - needed if not self._is_zero_bias(name)}
        for problem, names in (("lacks", needed - self.tensors), ("has an unexpected", surplus)):
            if names:
                tensors = f"{min(names)}{and_more(len(names) - 1)}"
                raise ModelError(f"{self.path} {problem} tensor {tensors}; is it a complete {self.config.family} checkpoint?")
        for name, parameter in parameters.items():
            for part, piece in self._parts(name, parameter):
                if part.shape != self.shape(piece):
                    raise ModelError(f"{self.path}: tensor {piece} has shape {self.shape(piece)}, its config says {tuple(part.shape)}")

    def _is_zero_bias(self, name: str) -> bool:
        """A bias that adds nothing: GPTQ's tools write one for every module, whether the model has any or not."""
        return name.endswith(".bias") and not any(bool(chunk.any()) for chunk in self.chunks(name))

    def _check_counts(self) -> None:
        """Refuse more layers or experts than there are tensors for, before a decoder of so many is built."""
        moe, layers = self.config.moe, range(self.config.num_hidden_layers)
        self._needs(f"{self.names['attention.o_proj'].format(layer=layers[-1])}.weight")
        if not moe or "ffn.experts.down_EDF" in self.names or "{expert}" not in self.names["ffn.experts.down_proj"]:
            return
        if (layer := next(filter(self.config.is_sparse, reversed(layers)), None)) is not None:
            self._needs(f"{self.names['ffn.experts.down_proj'].format(layer=layer, expert=moe.num_experts - 1)}.weight")

    def _needs(self, name: str) -> None:
        if name not in self.tensors:
            raise ModelError(f"{self.path} lacks tensor {name}; is it a complete {self.config.family} checkpoint?")

    def is_quantized(self) -> bool:
        """Is there a tensor that products read as it is stored?"""
        return any(map(self.is_kept, sorted(self.tensors)))

    def read(self, dtype: torch.dtype, device: str, progress: Progress | None, quantized: bool = False) -> Decoder:
        """With quantised weights as they are stored, where `quantized`. Raises ModelError for NaN and infinite values."""
        return filled(self.config, dtype, device, self._fill_parameter, progress, self._blocks if quantized else lambda name, shape: ())

    def stream(self) -> Parameters:
        """As `streamed`. Raises ModelError for NaN and infinite values."""
        return streamed(self.config, self._fill_parameter)

    def _fill_parameter(self, name: str, value: Tensor) -> None:
        for part, piece in self._parts(name, value):
            self._fill(part, piece)

    def _blocks(self, name: str, shape: torch.Size) -> Sequence[Quantized]:
        """The matrices of a parameter, if all are of kinds that products read. The experts' gate and up projections are two, whose inputs
        are in one order."""
        found = []
        for experts in zip(*self._pieces(name), strict=True):
            weights = [weight for piece in experts if (weight := self._finite(piece))]
            if len(weights) < len(experts) or (matrices := stacked(weights)) is None:
                return ()
            found.append(matrices)
        return found if are_ordered_alike(found) else ()

    def _finite(self, name: str) -> Quantized | None:
        weight = self.quantized(name)
        if weight and not weight.is_finite:
            raise self._not_finite(name)
        return weight and self.quantized(name)  # mapped again: what was read is given back

    def _not_finite(self, name: str) -> ModelError:
        return ModelError(f"{self.path}: tensor {name} holds NaN or infinite values; the checkpoint is damaged")

    def _pieces(self, name: str) -> Pieces:
        return pieces(name, self.names, self.config.moe.num_experts if self.config.moe else 0)

    def _parts(self, name: str, value: Tensor) -> Iterator[tuple[Tensor, str]]:
        """The parts of a parameter's memory, and the tensor that belongs in each."""
        found = self._pieces(name)
        for target, rows in zip(value.unbind() if len(found) > 1 else (value,), found, strict=True):
            for part, piece in zip(target.chunk(len(rows), dim=-2 if len(rows) > 1 else 0), rows, strict=True):
                # a single expert; and GGUF drops dimensions of size one
                yield part.squeeze(0) if part.ndim > len(self.shape(piece)) and part.shape[0] == 1 else part, piece

    def _fill(self, part: Tensor, name: str) -> None:
        begin = 0
        for chunk in self.chunks(name):
            into = part[begin : begin + len(chunk)]
            into.copy_(chunk)
            # the sum first: NaN and infinity show in it, and it takes a tenth of the time; of the copy, whose numbers need no conversion
            if not math.isfinite(into.sum(dtype=torch.float32)) and not torch.isfinite(chunk).all():
                raise self._not_finite(name)
            begin += len(chunk)
