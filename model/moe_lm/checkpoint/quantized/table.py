"""A folder's tensors with its quantised weights expanded."""

import math
from collections.abc import Iterator
from functools import partial

from torch import Tensor

from moe_lm.checkpoint.quantized.blocks import in_blocks, nbytes
from moe_lm.checkpoint.quantized.module import Header, Module
from moe_lm.checkpoint.quantized.scheme import Scheme
from moe_lm.checkpoint.shards import TensorTable
from moe_lm.checkpoint.weights import Stored
from moe_lm.errors import ModelError
from moe_lm.files import and_more, one_line
from moe_lm.quant.weight import Quantized


class QuantizedTable:
    """As a `TensorTable`; of a quantised module there is "NAME.weight" in place of the tensors that make it up."""

    def __init__(self, table: TensorTable, scheme: Scheme):
        """Raises ModelError where nothing is quantised, or the tensors of a module do not fit together or the scheme."""
        self._table, self._scheme = table, scheme
        self._modules: dict[str, Module] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
        self._latest: tuple[str, Quantized | None] = ("", None)
        self._names = table.names()
        unused = {name for name in self._names if name.rpartition(".")[2] in scheme.unused}
        self._names -= unused
        for module in _modules(table, self._names):
            if scheme.holds(module):
                parts = {f"{module.name}.{part}" for part in scheme.parts & module.tensors.keys()}
                weight = f"{module.name}.weight"
                if weight in self._names and weight not in parts:
                    module.refuse(f"has {weight} beside its quantised weight; which of them is it?")
                self._names -= parts
                self._names.add(weight)
                self._modules[weight], self._shapes[weight] = module, scheme.shape(module)
        if not self._modules:
            raise ModelError(
                f"quantization_config says {scheme.precision}, but no tensor is quantised; remove it from config.json if the weights are "
                "expanded ones"
            )
        self.notices = list(scheme.notices)
        if unused:
            self.notices.append(
                f"{len(unused):,} scales of activations, keys and values are not used: {one_line(min(unused))}{and_more(len(unused) - 1)}"
            )

    def refuse_other_dtypes(self) -> None:
        """As `TensorTable` does, for the tensors that are not quantised."""
        self._table.refuse_other_dtypes(self._names - self._modules.keys())

    def names(self) -> set[str]:
        return set(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes.get(name) or self._table.shape(name)

    def chunks(self, name: str) -> Iterator[Tensor]:
        """A tensor's values, some rows at a time; float32 where they are quantised."""
        if module := self._modules.get(name):
            return self._scheme.read(module).chunks()
        return self._table.chunks(name)

    def quantized(self, name: str) -> Quantized | None:
        """A quantised weight as blocks that products read, if these hold the same numbers."""
        if self._latest[0] != name:  # the last one is kept: it is asked for twice, since a GGUF file's is mapped again
            module = self._modules.get(name)
            self._latest = name, in_blocks(self._scheme.read(module)) if module else None
        return self._latest[1]

    def is_kept(self, name: str) -> bool:
        """Is it one of the `quantized`?"""
        return self._nbytes(name) is not None

    def width(self) -> float:
        """Bytes of a weight in memory, on average, where `quantized` ones are blocks and others float32. Reads all scales."""
        sizes = {name: math.prod(self.shape(name)) for name in self._names}
        taken = sum(4 * size if (found := self._nbytes(name)) is None else found for name, size in sizes.items())
        return taken / max(1, sum(sizes.values()))

    def _nbytes(self, name: str) -> int | None:
        module = self._modules.get(name)
        return nbytes(self._scheme.read(module)) if module else None

    def equal(self, one: str, other: str) -> bool:
        """Do two tensors hold the same numbers? A quantised one and another are taken to differ, as they nearly always do."""
        return not {one, other} & self._modules.keys() and self._table.equal(one, other)

    def stored(self) -> Stored:
        quantised = (
            (self._scheme.precision, _bytes(module, self._scheme), math.prod(self._shapes[name])) for name, module in self._modules.items()
        )
        others = self._table.sizes(self._names - self._modules.keys())
        return Stored.of([*quantised, *others], self._scheme.precision)


def _modules(table: TensorTable, names: set[str]) -> Iterator[Module]:
    """The modules that have tensors, ordered by name."""
    found: dict[str, dict[str, Header]] = {}
    for name in sorted(names):
        module, _, part = name.rpartition(".")
        found.setdefault(module, {})[part] = table.header(name)
    for module, tensors in found.items():
        yield Module(module, tensors, partial(_part, table, module))


def _part(table: TensorTable, module: str, part: str) -> Tensor:
    return table.tensor(f"{module}.{part}")


def _bytes(module: Module, scheme: Scheme) -> int:
    return sum(module.tensors[part].nbytes for part in scheme.parts & module.tensors.keys())
