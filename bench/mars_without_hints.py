"""MARS on mini hanabi where hints say nothing: how much of the score comes from what players tell each other.

    selfplay-fast train mars --games "hanabi(colors=2,ranks=2,hand=3,info_tokens=3)" --held-out --steps 25 \
        --run-dir runs/hints
    python bench/mars_without_hints.py --steps 25 --run-dir runs/no-hints

Reveals can be played and cost their token, but nobody reads what they revealed: the words for it are taken out of every
message, in self-play, evaluation and the warm-up. All else is `selfplay-fast train mars` with the same options.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from selfplay_fast.cli import main
from selfplay_fast.evaluate import scores
from selfplay_fast.play import Cast, self_play
from selfplay_fast.recipes import mars
from selfplay_fast.records import Ask, Reply

_KNOWN = r"\{?[RY]+\}?\{?[12]+\}?"  # what a holder can tell of a card, in style brief


def silenced(text: str) -> str:
    """A message of style brief without what reveals have told."""
    text = re.sub(rf"own ((?:{_KNOWN} ?)*)", lambda found: "own " + "? " * len(found[1].split()), text)
    text = re.sub(rf"\b([RY][12]){_KNOWN}", r"\1", text)
    text = re.sub(r"did reveal [^\n]*?(?= legal|$)", "did reveal", text, flags=re.MULTILINE)
    return re.sub(r"(Player \d: )\[reveal [^\]]*\]", r"\1[reveal]", text)


class Deaf:
    """A policy that reads messages only once they are silenced."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        quiet = [
            replace(
                ask, append=[{**message, "content": silenced(message["content"])} for message in ask.append]
            )
            for ask in asks
        ]
        return self.policy.generate(quiet)


def deaf_play(policy: Any) -> Cast:
    """Self-play of deaf players."""
    return self_play(Deaf(policy))


if __name__ == "__main__":
    with patch.object(mars, "self_play", deaf_play), patch.object(scores, "self_play", deaf_play):
        code = main(["train", "mars", "--games", mars.MINI_HANABI, "--held-out", *sys.argv[1:]])
    sys.exit(code)
