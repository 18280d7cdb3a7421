"""Games in the memory of a GPU, stepped there: what ``games.make(..., device="cuda")`` returns.

    g = games.make("connect_four", batch_size=2**20, device="cuda", autoreset="same_step")
    g.step(g.sample_actions(seed=7))  # torch tensors on the GPU, in and out
    g.legal_actions, g.returns

The same rules as on the host, compiled from the same headers, and the same random streams: a row plays the same game
on every device. All work is queued on torch's current stream. Shapes as in ``games``: ``B`` games, ``P`` players,
``A`` actions, ``K`` rows of a call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selfplay_fast import _native, arguments

if TYPE_CHECKING:
    from selfplay_fast.games import Batch, Description

__all__ = ["CudaBatch", "open_device"]


class CudaBatch:
    """``B`` games of one kind on one GPU. What needs words or a look inside is asked of ``cpu()``.

    The tensors are views of the batch's memory: they share it without a copy, keep it alive, and follow the games. Do
    not write to them. A stream that reads them waits for the batch's work; before a step on another stream, let that
    one wait for the reader (``stream.wait_stream``), as with any tensor that is written in place.
    """

    __slots__ = (
        "_current_player",
        "_host",
        "_legal_actions",
        "_native",
        "_returns",
        "_terminated",
        "description",
        "device",
    )

    def __init__(
        self,
        native: _native.CudaBatch,
        device: torch.device,
        description: Description,
        host: Callable[[], Batch],
    ) -> None:
        """``host`` makes a batch of the same arguments in the host's memory."""
        self._native = native
        self._host = host
        self.device = device
        self.description = description
        self._current_player = torch.from_dlpack(native.current_player())
        self._legal_actions = torch.from_dlpack(native.legal_actions())
        self._terminated = torch.from_dlpack(native.terminated())
        self._returns = torch.from_dlpack(native.returns())

    def __len__(self) -> int:
        return len(self._native)

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"<{self.name}({options}) x {len(self)} on {self.device}>"

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def options(self) -> dict[str, int | str]:
        return self.description.options

    @property
    def current_player(self) -> Tensor:
        """int32[B]: the player to move, ``CHANCE`` or ``TERMINAL``; a view that follows."""
        self._native.join(self._stream())
        return self._current_player

    @property
    def legal_actions(self) -> Tensor:
        """bool[B, A], all False at chance nodes and after the end; a view, updated by this access."""
        self._native.update_legal_actions(self._stream())
        return self._legal_actions

    @property
    def terminated(self) -> Tensor:
        """bool[B]; a view that follows."""
        self._native.join(self._stream())
        return self._terminated

    @property
    def returns(self) -> Tensor:
        """float32[B, P], 0 until a game is over; a view that follows."""
        self._native.join(self._stream())
        return self._returns

    def step(self, actions: Tensor, rows: Tensor | None = None, *, check: bool = True) -> None:
        """Play ``actions`` int64[K] or int32[K] in ``rows``, or in all rows, where entries of ended games are ignored.

        Raises ValueError naming game, row and action before anything changes, and TypeError for a wrong dtype.
        check: False leaves out the look at rows and actions, and with it the wait for its answer. An action that is
        not legal, or a row that is named twice or does not exist, then does anything.
        """
        moves = as_numbers(actions, "actions", self.device)
        which = None if rows is None else as_numbers(rows, "rows", self.device)
        self._native.step(_address(moves), _optional(which), check, self._stream())

    def reset(
        self, rows: Tensor | None = None, seeds: Iterable[int] | Tensor | None = None, repeat: int = 1
    ) -> None:
        """Begin new games in ``rows`` int64[K] or int32[K], or everywhere, each with its next random stream.

        repeat: consecutive groups of this many rows get the same deal. seeds: one per group; the deal is then a
        function of the seed alone, whatever the row.
        """
        which = None if rows is None else as_numbers(rows, "rows", self.device)
        if seeds is not None and not isinstance(seeds, Tensor):
            seeds = torch.from_numpy(arguments.seeds_bits(seeds).view("int64")).to(self.device)
        given = None if seeds is None else as_numbers(seeds, "seeds", self.device)
        groups = arguments.whole("repeat", repeat)
        self._native.reset(_optional(which), _optional(given), groups, self._stream())

    def sample_actions(self, seed: int) -> Tensor:
        """int64[B]: uniform legal actions by (seed, row, episode, ply); ``INVALID`` where the game is over."""
        actions = torch.empty(len(self), dtype=torch.int64, device=self.device)
        key = arguments.seed_bits("seed", seed)
        self._native.sample_actions(key, actions.data_ptr(), self._stream())
        return actions

    def random_playouts(self, seed: int | None = None) -> int:
        """As ``games.Batch.random_playouts``."""
        return self._native.random_playouts(
            None if seed is None else arguments.seed_bits("seed", seed), self._stream()
        )

    def history(self, row: int) -> list[int]:
        """All actions of the row's game so far, nature's included."""
        return self._native.history(arguments.whole("row", row), self._stream())

    def copy(self) -> CudaBatch:
        """An independent batch on the same GPU in the same state."""
        return CudaBatch(self._native.copy(self._stream()), self.device, self.description, self._host)

    def cpu(self) -> Batch:
        """A batch in the host's memory in the same state: for texts, parsing, snapshots and all else it can do."""
        batch = self._host()
        batch.set_state(self._native.state(self._stream()))
        return batch

    def _stream(self) -> int:
        # The number alone: torch.cuda.current_stream makes an object around it, which takes as long as a step.
        return torch._C._cuda_getCurrentRawStream(self.device.index)


def open_device(name: str) -> torch.device:
    """The GPU that ``name``, "cuda" or "cuda:1", means.

    Raises ValueError for another name or number, RuntimeError where the build, torch or the machine has no CUDA.
    """
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ValueError(f"unknown device {name!r}; there are: cpu, cuda, cuda:0, ...")
    count = _native.cuda_devices()
    if not torch.cuda.is_available():
        raise RuntimeError(
            f'device="cuda" needs a torch that sees the GPU; torch {torch.__version__} does not'
        )
    index = torch.cuda.current_device() if name == "cuda" else int(name.removeprefix("cuda:"))
    if index >= count:
        raise ValueError(f"there is no {name}; the last GPU is cuda:{count - 1}")
    return torch.device("cuda", index)


def as_numbers(values: Any, name: str, device: torch.device) -> Tensor:
    """``values`` as a contiguous one-dimensional int64 or int32 tensor on ``device``; nothing else is taken."""
    if not isinstance(values, Tensor):
        if not hasattr(values, "__dlpack__"):
            raise TypeError(f"{name} must be a tensor on {device}, got {type(values).__name__}")
        values = torch.from_dlpack(values)
    if values.dtype not in (torch.int64, torch.int32):
        mask = "; torch.nonzero turns a mask into numbers" if values.dtype == torch.bool else ""
        raise TypeError(
            f"{name} must be int64 or int32, got {str(values.dtype).removeprefix('torch.')}{mask}"
        )
    if values.device != device:
        raise ValueError(f"{name} must be on {device}, got a tensor on {values.device}")
    if values.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got the shape {tuple(values.shape)}")
    return values.contiguous()


def _address(numbers: Tensor) -> tuple[int, int, bool]:
    return numbers.data_ptr(), len(numbers), numbers.dtype == torch.int64


def _optional(numbers: Tensor | None) -> tuple[int, int, bool] | None:
    return None if numbers is None else _address(numbers)
