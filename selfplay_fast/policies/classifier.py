"""A sequence classifier as a policy: it reads a conversation and says a line for each of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfplay_fast.records import Ask, FloatArray, Message, Reply


def context_limit(config: Any) -> int:
    """Tokens that a classifier reads at most: its positions, less those that RoBERTa's kind begins after."""
    positions = int(getattr(config, "max_position_embeddings", 0) or 2**31)
    return positions - (config.pad_token_id + 1 if "roberta" in config.model_type else 0)


class SequenceClassifier:
    """A transformers model with a score for each label, that judges conversations of a user and an assistant.

    It is a multi-label model: each label is "yes" where its sigmoid is above ``threshold``. ``names`` says what labels
    are called in replies, by their names in the model (default: those, with blanks for underscores). ``generate``
    answers an ask whose ``append`` is one or two messages with

        harmful request: yes
        response refusal: no
        …

    Texts longer than the model's context are cut off at their ends. ValueError where the model cannot be loaded.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        names: Mapping[str, str] | None = None,
        threshold: float = 0.5,
        batch_size: int = 64,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "right"  # where positions are counted from the first token
        self.threshold = threshold
        self.batch_size = batch_size
        self.context_limit = min(context_limit(model.config), int(tokenizer.model_max_length))
        labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.labels = [(names or {}).get(label, label.replace("_", " ")) for label in labels]

    @classmethod
    def load(cls, name: str | Path, *, device: str = "cpu", **options: Any) -> SequenceClassifier:
        """From a local transformers folder or a hub id."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            model = AutoModelForSequenceClassification.from_pretrained(name)
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"classifier {str(name)!r} cannot be loaded: {str(error).splitlines()[0]}"
            ) from error
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), tokenizer, **options)

    @torch.no_grad()
    def probabilities(self, conversations: Sequence[Sequence[str]]) -> torch.Tensor:
        """Texts, or pairs of them -> the probability of each label, float32 [N, L]."""
        parts = []
        for begin in range(0, len(conversations), self.batch_size):
            some = conversations[begin : begin + self.batch_size]
            columns = [list(column) for column in zip(*some, strict=True)]
            batch = self.tokenizer(
                *columns, padding=True, truncation=True, max_length=self.context_limit, return_tensors="pt"
            )
            parts.append(self.model(**batch.to(self.model.device)).logits.float().sigmoid().cpu())
        return torch.cat(parts)

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """The same labels for every sample."""
        if not asks:
            return []
        texts = [[message["content"] for message in _messages(ask)] for ask in asks]
        replies = []
        for ask, row in zip(asks, self.probabilities(texts), strict=True):
            lines = [
                f"{label}: {'yes' if p > self.threshold else 'no'}"
                for label, p in zip(self.labels, row.tolist(), strict=True)
            ]
            replies += [Reply(text="\n".join(lines))] * ask.n
        return replies

    def score(self, asks: Sequence[Ask]) -> Sequence[FloatArray]:
        """Not a policy of which log-probs could be asked."""
        raise ValueError("a classifier has labels and no log-probs; ask a language model")


def _messages(ask: Ask) -> Sequence[Message]:
    if isinstance(ask.append, str | np.ndarray):
        raise ValueError(f"a classifier reads messages; the ask of role {ask.role!r} has none")
    return ask.append
