"""Decoding for models that prefix trees cannot run: each row by itself, with whatever memory the model keeps.

Rows whose contexts are equally long are spoken together until the last of them is over, so nothing is padded and
nothing needs a mask, which not every kind of layer honours. Prefixes are not shared, and nothing is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfplay_fast.policies.decode import Decoder, Row
from selfplay_fast.policies.flops import Passes, alone
from selfplay_fast.policies.prefix_forward import backbone, head_weight


class RowDecoder(Decoder):
    """A `Decoder` whose groups of rows come one after the other.

    The prompts of a group are at most ``max_batch_tokens``, and with the longest reply that its rows have room for they
    are at most ``max_cache_tokens`` slots, or there is one row.
    """

    def __init__(
        self,
        model: Any,
        *,
        end_tokens: frozenset[int],
        max_batch_tokens: int,
        max_cache_tokens: int,
        stop_check: Callable[[Row], bool],
    ) -> None:
        super().__init__(model, end_tokens, stop_check)
        self.max_batch_tokens, self.max_cache_tokens = max_batch_tokens, max_cache_tokens
        self._memory: dict[str, Any] = {}
        self._size = 0  # rows in it, those that are over run on unheard

    def _joining(self) -> list[Row]:
        if len(self._spoken) or not self.waiting:
            return []
        length = len(self.waiting[0].prompt)
        most = max(1, self.max_batch_tokens // length)
        joining = [row for row in self.waiting if len(row.prompt) == length][:most]
        longest = length + max(row.room for row in joining)
        joining = joining[: max(1, self.max_cache_tokens // longest)]
        chosen = set(joining)
        self.waiting = deque(row for row in self.waiting if row not in chosen)
        return joining

    def _join(self, rows: Sequence[Row]) -> list[Tensor]:
        self._memory, self._size = {}, len(rows)
        self._spoken = self._columns(rows, np.arange(len(rows)))
        ids = np.stack([row.prompt for row in rows]).astype(np.int64)
        self.computed += ids.size
        self._count([(0, ids.shape[1])] * len(rows))
        return [self._forward(ids)]

    def _extend(self) -> Tensor:
        ids = np.zeros((self._size, 1), np.int64)
        ids[self._spoken.node, 0] = self._spoken.last()
        ends = [
            len(row.prompt) + int(said)
            for row, said in zip(self._spoken.rows, self._spoken.count, strict=True)
        ]
        self._count([(end - 1, end) for end in ends])
        return self._forward(ids)

    def _count(self, spans: Sequence[tuple[int, int]]) -> None:
        ran = alone(spans)
        self.passes.add(Passes(ran.tokens, ran.pairs, len(spans)))

    def _forward(self, ids: NDArray[np.int64]) -> Tensor:
        tokens = torch.from_numpy(ids).to(self.model.device)
        output = backbone(self.model)(input_ids=tokens, use_cache=True, **self._memory)
        self._memory = {name: output[name] for name in ("past_key_values", "cache_params") if name in output}
        return output.last_hidden_state[:, -1] @ head_weight(self.model).T

    def _keep(self, which: NDArray[np.bool_]) -> None:
        """Nothing: there is no store."""
