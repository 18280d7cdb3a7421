"""Reward models as policies: asked about a prompt and a response, they reply with a number."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfplay_fast.policies.base import Policy
from selfplay_fast.policies.classifier import context_limit
from selfplay_fast.policies.judges import load_judge
from selfplay_fast.records import Ask, FloatArray, Reply

_LOG = logging.getLogger(__name__)


class SequenceReward:
    """A transformers sequence classifier with one label, whose logit is the reward of a conversation's last message.

    Where its tokenizer has a chat template the conversation is rendered with it; otherwise both messages are a pair of
    texts. Sequences of all prompts are scored together, those of about one length side by side; longer ones than the
    model's context have no reward, and neither has a logit that is not finite: the reply is a forfeit, which is logged.
    ValueError where the model has several labels or cannot be loaded.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_batch_tokens: int = 16384) -> None:
        if model.config.num_labels != 1:
            raise ValueError(
                f"reward_model: must have one label, the reward, got {model.config.num_labels}; name another model"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "right"  # where positions are counted from the first token
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id  # by it the last token is found
        self.max_batch_tokens = max_batch_tokens
        self.context_limit = context_limit(model.config)

    @classmethod
    def load(cls, name: str | Path, *, device: str = "auto", **options: Any) -> SequenceReward:
        """From a local transformers folder or a hub id; code that comes with a model is not run."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            model = AutoModelForSequenceClassification.from_pretrained(name, dtype="auto")
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"reward_model: {str(name)!r} cannot be loaded: {reason}") from error
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), tokenizer, **options)

    @torch.no_grad()
    def rewards(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[float]:
        """[N] conversations -> N rewards, nan of those that are too long."""
        encoded = [self._encode(conversation) for conversation in conversations]
        found = [math.nan] * len(encoded)
        for part in _batches(
            [len(one["input_ids"]) for one in encoded], self.max_batch_tokens, self.context_limit
        ):
            batch = self.tokenizer.pad([encoded[i] for i in part], return_tensors="pt")
            logits = self.model(**batch.to(self.model.device)).logits.float().cpu().flatten().tolist()
            for place, logit in zip(part, logits, strict=True):
                found[place] = logit
        return found

    def _encode(self, conversation: Sequence[Mapping[str, str]]) -> Any:
        if self.tokenizer.chat_template is not None:
            text = self.tokenizer.apply_chat_template(list(conversation), tokenize=False)
            return self.tokenizer(text, add_special_tokens=False)
        return self.tokenizer(*(message["content"] for message in conversation))

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """The reward of each ask's messages, written so that it reads back exactly; the same for every sample."""
        conversations = [_messages(ask) for ask in asks]
        replies = []
        for ask, reward in zip(asks, self.rewards(conversations), strict=True):
            replies += [_reply(reward)] * ask.n
        if failed := sum(reply.lost for reply in replies):
            _LOG.warning(
                "reward model: %d of %d rewards are missing: too long, or not finite", failed, len(replies)
            )
        return replies

    def score(self, asks: Sequence[Ask]) -> Sequence[FloatArray]:
        """Not a policy of which log-probs could be asked."""
        raise ValueError("a reward model has no log-probs; ask a language model")


def load_reward_model(name: str, *, device: str = "auto", timeout: float = 120.0) -> Policy:
    """``server:URL#MODEL``, which grades in words, or ``classifier:FOLDER`` with one label, for a hub id as well.

    ``timeout`` are the seconds until an attempt to ask a server has failed. ValueError for another name, and where the
    model does not answer or cannot be loaded.
    """
    kind, _, rest = name.partition(":")
    if kind == "classifier" and rest:
        return SequenceReward.load(rest, device=device)
    if kind == "server":
        return load_judge(name, "reward_model", timeout=timeout)
    raise ValueError(f"reward_model: must be server:URL#MODEL or classifier:FOLDER, got {name!r}")


def _reply(reward: float) -> Reply:
    if math.isfinite(reward):
        return Reply(text=repr(reward))
    return Reply(text="", finish_reason="forfeit")


def _batches(lengths: Sequence[int], most: int, limit: int) -> list[list[int]]:
    """Places in batches of at most so many padded tokens, shortest first; none of what is beyond the limit."""
    parts: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if lengths[place] > limit:
            continue
        if not parts or lengths[place] * (len(parts[-1]) + 1) > most:
            parts.append([])
        parts[-1].append(place)
    return parts


def _messages(ask: Ask) -> Sequence[Mapping[str, str]]:
    if isinstance(ask.append, (str, np.ndarray)):
        raise ValueError(f"a reward model reads messages; the ask of role {ask.role!r} has none")
    return ask.append
