"""Where the weights of a loaded model lie."""

from __future__ import annotations

from itertools import chain
from typing import Any

_ALIGNED = 64  # bytes; as torch allocates on a CPU


def in_own_memory(model: Any) -> Any:
    """The model, with weights that lie as those of a model that was made here.

    Loaded ones lie in the pages of their file, at whatever address. Products of matrices depend on that in their last
    bits, and a run that goes on from a checkpoint is to agree with the one that went on without.
    """
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNED:
            tensor.data = tensor.data.clone()
    return model
