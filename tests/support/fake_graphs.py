"""A stand-in for CUDA graphs that needs no GPU."""

import torch
from torch import Tensor

from dream_accel.runtime.graphs import _map_tensors
from dream_accel.runtime.recording import Recording


class FakeGraphs:
    """Records by keeping the call, and replays by running it into the outputs of the recording.

    Recording has to run the function, which a graph does not; ``state`` is put back afterwards.
    """

    def __init__(self, recordable: bool = True, state: Tensor | None = None) -> None:
        self.recordable = recordable
        self.state = torch.zeros(0) if state is None else state
        self.log: list[str] = []
        self.generators: list[torch.Generator] = []

    def serves(self, device):
        return device.type == "cpu"

    def warm_up(self, call, device):
        self.log.append("warm-up")
        return call()

    def record(self, call, device, generators):
        if not self.recordable:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        self.log.append("record")
        self.generators += generators
        before = self.state.clone()
        outputs = call()
        self.state.copy_(before)

        def replay():
            self.log.append("replay")
            for kept, found in zip(_flat(outputs), _flat(call()), strict=True):
                kept.copy_(found)

        return Recording(replay, outputs)


class Replaying(FakeGraphs):
    """Records without running, which the state of the steps would not survive; outputs are shaped as in the warm-up."""

    def warm_up(self, call, device):
        outputs = super().warm_up(call, device)
        self.shaped = _map_tensors(lambda tensor: tensor.detach().clone(), outputs)
        return outputs

    def record(self, call, device, generators):
        self.log.append("record")
        kept = _map_tensors(torch.empty_like, self.shaped)

        def replay():
            self.log.append("replay")
            for own, found in zip(_flat(kept), _flat(call()), strict=True):
                own.copy_(found)

        return Recording(replay, kept)


def _flat(value):
    return [value] if isinstance(value, Tensor) else [t for item in value for t in _flat(item)]
