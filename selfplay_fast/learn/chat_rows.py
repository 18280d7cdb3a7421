"""Rows of chats, in the formats of TRL's trainers, as tokens of a policy.

``{"prompt", "chosen", "rejected"}``, a chat each, are a preference pair; ``{"messages"}`` is a dialogue to imitate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from selfplay_fast.arguments import json_lines, shown
from selfplay_fast.learn.packing import TokenBatch
from selfplay_fast.learn.preference_update import PairBatch
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import IntArray

Row = Mapping[str, Any]


def pack_pairs(policy: LanguageModel, rows: Sequence[Row], *, max_tokens: int | None = None) -> PairBatch:
    """Pairs in the order of the rows; those longer than ``max_tokens`` (default: the policy's context) are left out.

    ValueError for a row that is no preference pair, naming it.
    """
    limit = policy.context_limit if max_tokens is None else max_tokens
    kept = []
    for number, row in enumerate(rows):
        texts = [_last(row, number, side) for side in ("chosen", "rejected")]
        prompt = policy.encode([policy.render(_chat(row, number, "prompt"), fresh=True)])[0]
        chosen, rejected = (np.concatenate([prompt, policy.choice_tokens(text)]) for text in texts)
        if max(len(chosen), len(rejected)) <= limit:
            kept.append((chosen, rejected, len(prompt)))
    return PairBatch(
        chosen=[chosen for chosen, _, _ in kept],
        rejected=[rejected for _, rejected, _ in kept],
        first=np.array([first for _, _, first in kept], np.int64),
    )


def pack_dialogues(
    policy: LanguageModel, rows: Sequence[Row], *, max_tokens: int | None = None
) -> TokenBatch:
    """Dialogues of which all that the assistant says is imitated, each of its tokens with the same weight.

    Those longer than ``max_tokens`` (default: the policy's context) are left out. ValueError for a row that is no
    dialogue that ends with the assistant, naming it, and where none is left.
    """
    limit = policy.context_limit if max_tokens is None else max_tokens
    dialogues = [_turns(policy, _chat(row, number, "messages"), number) for number, row in enumerate(rows)]
    kept = [turns for turns in dialogues if sum(map(len, turns)) <= limit]
    if not kept:
        raise ValueError(
            f"rows: none of {len(rows)} is a dialogue of at most {limit} tokens, nothing to learn"
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
    """A file of JSON lines, a row each; ValueError with ``setting`` and the line where one is no object."""
    rows: list[Row] = [row for _, row in json_lines(setting, Path(path), dict)]
    if not rows:
        raise ValueError(f"{setting}: {path} is empty")
    return rows


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """All of them, in an order that follows from the seed."""
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def row_batches(policy: LanguageModel, rows: Sequence[Row], *, size: int, seed: int) -> Iterator[TokenBatch]:
    """Batches of ``size`` dialogues without end, drawn with replacement; number n follows from (seed, n)."""
    for number in count():
        drawn = np.random.default_rng(derive_seed(seed, number)).integers(len(rows), size=size)
        yield pack_dialogues(policy, [rows[i] for i in drawn])


def _turns(policy: LanguageModel, chat: Sequence[Mapping[str, str]], number: int) -> list[IntArray]:
    """What is read and what is said, in turns."""
    turns: list[IntArray] = []
    asked: list[Any] = []
    for message in chat:
        if message["role"] != "assistant":
            asked.append(message)
            continue
        if not asked:
            raise ValueError(f"rows: row {number}: the assistant speaks before it is asked")
        turns.append(policy.encode([policy.render(asked, fresh=not turns)])[0])
        turns.append(policy.choice_tokens(message["content"]))
        asked = []
    if asked:
        raise ValueError(f"rows: row {number}: its messages do not end with the assistant's")
    return turns


def _chat(row: Row, number: int, key: str) -> Sequence[Any]:
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
        raise ValueError(
            f"rows: row {number}: {key} must be messages with role and content, got {shown(chat)}"
        )
    return chat


def _last(row: Row, number: int, side: str) -> str:
    chat = _chat(row, number, side)
    if len(chat) != 1:
        raise ValueError(f"rows: row {number}: {side} must be one message, got {len(chat)}")
    content: str = chat[0]["content"]
    return content
