"""A GPU's back-end: sparse layers and decode attention in Triton, decode steps as CUDA graphs; prefills through torch.

Products outside the sparse layers are torch's, so layout invariance is not promised.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import Tensor

from moe_lm.backends.base import Batch, KVPages
from moe_lm.backends.cuda.decode import DecodeSteps
from moe_lm.backends.cuda.experts_triton import TritonMoE
from moe_lm.backends.reference import ReferenceBackend
from moe_lm.model import Decoder, MoE


class TritonBackend(ReferenceBackend):
    """Takes the model over: its sparse layers are replaced."""

    def __init__(self, model: Decoder):
        super().__init__(model)
        for layer in model.layers:
            if isinstance(layer.ffn, MoE):
                layer.ffn = TritonMoE(layer.ffn)
        self.steps: WeakKeyDictionary[KVPages, DecodeSteps] = WeakKeyDictionary()

    def forward(self, batch: Batch, wanted: Sequence[int]) -> Tensor:
        if not batch.is_decode_step or list(wanted) != list(range(len(batch.tokens))):
            return super().forward(batch, wanted)
        return self.decode_steps(batch.memory)(batch)

    def decode_steps(self, memory: KVPages) -> DecodeSteps:
        """The steps, and their graphs, over one memory."""
        if memory not in self.steps:
            self.steps[memory] = DecodeSteps(self.model, memory)
        return self.steps[memory]
