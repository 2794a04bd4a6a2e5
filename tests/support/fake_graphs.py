"""A stand-in for CUDA graphs that needs no GPU."""

import torch
from torch import Tensor

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


def _flat(value):
    return [value] if isinstance(value, Tensor) else [t for item in value for t in _flat(item)]
