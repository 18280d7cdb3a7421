"""Reasoning between two tags: where it begins and ends in what a model says, and how long it may get.

The last tag decides: text is reasoning after an opening tag and public after a closing one. Only the exact tags count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from selfplay_fast.records import IntArray, Sampling

Tags = tuple[str, str]

_KNOWN: Sequence[Tags] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_BLANK_LINE = "\n\n"
_UNLIMITED = 1 << 62


def find_tags(tokenizer: Any) -> Tags | None:
    """The tags that are tokens of the tokenizer or stand in its chat template; None for a model that has none."""
    own = tokenizer.get_added_vocab()
    template = str(tokenizer.chat_template or "")
    for begin, end in _KNOWN:
        if (begin in own and end in own) or end in template:
            return begin, end
    return None


def ends_inside(text: str, tags: Tags, before: bool) -> bool:
    """Does ``text`` end in reasoning? ``before``: does it begin there."""
    opened, closed = map(text.rfind, tags)
    return before if opened == closed else opened > closed  # equal: neither is there


def hidden_part(reply: str, tags: Tags, opened: bool) -> tuple[int, bool]:
    """How many characters of a reply are reasoning, and whether that never ends. ``opened``: by the prompt."""
    if ends_inside(reply, tags, opened):
        return len(reply), True
    _, closed, public = reply.rpartition(tags[1])
    return len(reply) - len(public.lstrip() if closed else public), False


class ThinkTags:
    """A model's tags, and what its tokenizer and its chat template make of them.

    ``closing`` [C] int32 is what ends a block by force: the closing tag and what the template writes after it (a blank
    line where the template shows no reasoning).
    """

    def __init__(self, tags: Tags, tokenizer: Any, vocabulary: int) -> None:
        """vocabulary: how many tokens the model knows. ValueError for tags that are empty, equal or not text."""
        if len(tags) != 2 or not all(isinstance(tag, str) and tag for tag in tags) or tags[0] == tags[1]:
            raise ValueError(f"think_tags: must be two different texts or None, got {tags!r}")
        self.begin, self.end = tags
        self.tokenizer = tokenizer
        closing = self.end + _after(tokenizer, tags)
        self.closing: IntArray = np.array(tokenizer.encode(closing, add_special_tokens=False), np.int32)
        self.window = max(len(tag.encode()) for tag in tags) + 8  # tokens that a tag can lie in, and a few
        self.may_end = self._may_end(vocabulary)

    def _may_end(self, vocabulary: int) -> NDArray[np.bool_]:
        """Tokens [V] that can be the last of a tag."""
        last = self.begin[-1], self.end[-1]
        if not all(letter.isascii() for letter in last):  # spelled in bytes by many tokenizers
            return np.ones(vocabulary, bool)
        found = np.zeros(vocabulary, bool)
        known = list(range(min(len(self.tokenizer), vocabulary)))
        for i, token in enumerate(self.tokenizer.convert_ids_to_tokens(known)):
            found[i] = token is not None and any(letter in token for letter in last)
        return found

    def inside(self, text: str, before: bool) -> bool:
        """Does ``text`` end in reasoning? ``before``: does it begin there."""
        return ends_inside(text, (self.begin, self.end), before)

    def opened_by(self, prompt: IntArray) -> bool:
        """Does a reply to this prompt begin in reasoning? It does if the prompt ends with the tag, and blanks."""
        return self.text(prompt[-self.window :]).rstrip().endswith(self.begin)

    def text(self, tokens: IntArray) -> str:
        """Tokens as text, special ones included."""
        return str(self.tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False))


def _after(tokenizer: Any, tags: Tags) -> str:
    """What the chat template writes between the closing tag and the answer."""
    if tokenizer.chat_template is None:
        return ""
    begin, end = tags
    said = {"role": "assistant", "content": f"{begin}\nreasoning\n{end}{_BLANK_LINE}answer"}
    try:
        shown = tokenizer.apply_chat_template([{"role": "user", "content": "?"}, said], tokenize=False)
    except TemplateError:
        return _BLANK_LINE
    found = re.search(rf"{re.escape(end)}(\s*)answer", shown)
    return found[1] if found else _BLANK_LINE


def think_budget(tags: ThinkTags | None, sampling: Sampling, room: int) -> int | None:
    """Tokens of reasoning in a reply of at most ``room`` tokens: what a full context takes away, the reasoning lacks.

    ValueError where the model has no tags, or the closing tag does not fit.
    """
    if sampling.max_think_tokens is None:
        return None
    if tags is None:
        raise ValueError(
            "sampling: max_think_tokens needs a thinking model, and this one has no think_tags; leave it None"
        )
    answer = sampling.max_tokens - sampling.max_think_tokens
    if answer <= len(tags.closing):
        raise ValueError(
            f"sampling: max_think_tokens={sampling.max_think_tokens} leaves {answer} of max_tokens="
            f"{sampling.max_tokens}, and the closing tag takes {len(tags.closing)}; raise max_tokens"
        )
    return max(0, room - answer)


def forced_places(tags: ThinkTags, tokens: IntArray, opened: bool, budget: int) -> list[int]:
    """Which tokens of a reply another engine has forced, given that it keeps to the budget."""
    forced: list[int] = []
    inside, used = opened, 0
    for place in range(len(tokens)):
        if inside and used >= budget:
            forced.append(place)
        used += inside
        inside = tags.inside(tags.text(tokens[max(0, place + 1 - tags.window) : place + 1]), inside)
    return forced


class Thought:
    """Where a reply is in its reasoning, token by token; ends that where its budget is spent."""

    def __init__(self, tags: ThinkTags, inside: bool, budget: int | None) -> None:
        """inside: it begins there. budget: tokens that may be said there, None for no limit."""
        self.tags = tags
        self.inside = inside
        self.left = _UNLIMITED if budget is None else budget
        self.place = -1  # in the closing that is being forced
        self.silent = inside  # inside, or nothing but blanks since

    def force(self) -> int | None:
        """The next token, if it is forced."""
        if self.inside and self.left <= 0 and self.place < 0:
            self.place = 0
        if self.place < 0:
            return None
        self.place += 1
        return int(self.tags.closing[self.place - 1])

    def hear(self, said: NDArray[np.int32], forced: bool) -> None:
        """Take note of the last of the tokens ``said``."""
        self.left -= self.inside and not forced
        if self.tags.may_end[said[-1]]:
            recent = self._recent(said)
            self.inside = self.tags.inside(recent, self.inside)
            self.silent |= self.tags.end in recent
        if self.place == len(self.tags.closing):
            self.inside, self.place = False, -1
        if self.silent and not self.inside and not forced:
            self.silent = not self._recent(said).split(self.tags.end)[-1].strip()
        self.silent |= self.inside or forced

    def _recent(self, said: NDArray[np.int32]) -> str:
        return self.tags.text(said[-self.tags.window :])
