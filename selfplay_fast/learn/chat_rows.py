"""Rows of chats, in the formats of TRL's trainers, as tokens of a policy.

``{"prompt", "chosen", "rejected"}``, a chat each, are a preference pair; ``{"messages"}`` is a dialogue to imitate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from selfplay_fast.arguments import json_lines, shown
from selfplay_fast.learn.packing import TokenBatch
from selfplay_fast.learn.preference_update import PairBatch
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import IntArray

T = TypeVar("T")
Row = Mapping[str, Any]
Messages = Sequence[Mapping[str, str]]


def pack_pairs(policy: LanguageModel, rows: Sequence[Row], *, max_tokens: int | None = None) -> PairBatch:
    """Pairs in the order of the rows; those longer than ``max_tokens`` (default: the policy's context) are left out.

    ValueError for a row that is no preference pair, naming it.
    """
    limit = policy.context_limit if max_tokens is None else max_tokens
    kept = []
    for asked, texts in _read(rows, "rows", _pair):
        prompt = policy.encode([policy.render(asked, fresh=True)])[0]
        chosen, rejected = (np.concatenate([prompt, policy.choice_tokens(text)]) for text in texts)
        if max(len(chosen), len(rejected)) <= limit:
            kept.append((chosen, rejected, len(prompt)))
    return PairBatch(
        chosen=[chosen for chosen, _, _ in kept],
        rejected=[rejected for _, rejected, _ in kept],
        first=np.array([first for _, _, first in kept], np.int64),
    )


def pack_dialogues(
    policy: LanguageModel, rows: Sequence[Row], *, max_tokens: int | None = None, setting: str = "rows"
) -> TokenBatch:
    """Dialogues of which all that the assistant says is imitated, each of its tokens with the same weight.

    Those longer than ``max_tokens`` (default: the policy's context) are left out. ValueError, beginning with
    ``setting``, for a row that is no dialogue that ends with the assistant, naming it, and where none is left.
    """
    limit = policy.context_limit if max_tokens is None else max_tokens
    dialogues = [_turns(policy, exchanges) for exchanges in _read(rows, setting, _exchanges)]
    kept = [turns for turns in dialogues if sum(map(len, turns)) <= limit]
    if not kept:
        raise ValueError(
            f"{setting}: none of {len(rows)} is a dialogue of at most {limit} tokens, nothing to learn"
        )
    said = [
        np.repeat(np.arange(len(turns)) % 2, [len(turn) for turn in turns])[len(turns[0]) :] for turns in kept
    ]
    weights = np.concatenate(said).astype(np.float32)
    return TokenBatch(
        sequences=[np.concatenate(turns) for turns in kept],
        first=np.array([len(turns[0]) for turns in kept], np.int64),
        offsets=np.concatenate([[0], np.cumsum([len(mask) for mask in said])]),
        advantages=np.ones(len(weights), np.float32),
        weights=weights / weights.sum(),
        sampler_logprobs=np.zeros(len(weights), np.float32),
        temperature=1.0,
    )


def read_rows(path: str | Path, setting: str) -> list[Row]:
    """A file of JSON lines, a dialogue each; ValueError with ``setting`` and the line where one is none."""
    rows: list[Row] = [row for _, row in json_lines(setting, Path(path), _dialogue)]
    if not rows:
        raise ValueError(f"{setting}: {path} is empty")
    return rows


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """All of them, in an order that follows from the seed."""
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def row_batches(
    policy: LanguageModel, rows: Sequence[Row], *, size: int, seed: int, setting: str = "rows"
) -> Iterator[TokenBatch]:
    """Batches of ``size`` dialogues without end, drawn with replacement; number n follows from (seed, n)."""
    for number in count():
        drawn = np.random.default_rng(derive_seed(seed, number)).integers(len(rows), size=size)
        yield pack_dialogues(policy, [rows[i] for i in drawn], setting=setting)


def _read(rows: Sequence[Row], setting: str, read: Callable[[Row], T]) -> Iterator[T]:
    for number, row in enumerate(rows):
        try:
            yield read(row)
        except ValueError as error:
            raise ValueError(f"{setting}: row {number}: {error}") from None


def _turns(policy: LanguageModel, exchanges: Sequence[tuple[Messages, str]]) -> list[IntArray]:
    """What is read and what is said, in turns."""
    turns: list[IntArray] = []
    for asked, said in exchanges:
        turns.append(policy.encode([policy.render(asked, fresh=not turns)])[0])
        turns.append(policy.choice_tokens(said))
    return turns


def _exchanges(row: Row) -> list[tuple[Messages, str]]:
    """What the assistant is asked and what it says, in turns."""
    exchanges: list[tuple[Messages, str]] = []
    asked: list[Mapping[str, str]] = []
    for message in _chat(row, "messages"):
        if message["role"] != "assistant":
            asked.append(message)
            continue
        if not asked:
            raise ValueError("the assistant speaks before it is asked")
        exchanges.append((asked, message["content"]))
        asked = []
    if asked:
        raise ValueError("its messages do not end with the assistant's")
    return exchanges


def _dialogue(row: Row) -> Row:
    _exchanges(row)
    return row


def _chat(row: Row, key: str) -> Messages:
    chat = row.get(key) if isinstance(row, Mapping) else None
    if (
        not isinstance(chat, Sequence)
        or isinstance(chat, str)
        or not chat
        or not all(
            isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in chat
        )
    ):
        raise ValueError(f"{key} must be messages with role and content, got {shown(chat)}")
    return chat


def _pair(row: Row) -> tuple[Messages, list[str]]:
    """The prompt, and what is chosen and rejected."""
    texts = [_last(row, side) for side in ("chosen", "rejected")]
    return _chat(row, "prompt"), texts


def _last(row: Row, side: str) -> str:
    chat = _chat(row, side)
    if len(chat) != 1:
        raise ValueError(f"{side} must be one message, got {len(chat)}")
    return chat[0]["content"]
