"""SPaR's search as a sequential program, and a policy that says what follows from (conversation, draw, sample)."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from selfplay_fast.records import Ask, Reply


@pytest.fixture(scope="session")
def spar() -> ModuleType:
    """tests/oracles/spar.py"""
    spec = importlib.util.spec_from_file_location("spar", Path(__file__).parents[1] / "oracles" / "spar.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Script:
    """A judge and refiner by hash: tied votes, verdicts and refinements that cannot be read, equal responses.

    Nothing can be read of refinements for prompts that begin with "mute". ``generate`` keeps conversations in contexts.
    """

    def __init__(self) -> None:
        self.calls = 0

    def say(self, chat: Sequence[dict[str, str]], draw: int, sample: int) -> str:
        """A critique after one message, a refinement after three."""
        a, b, c = hashlib.blake2b(json.dumps([chat, draw, sample]).encode(), digest_size=3).digest()
        if len(chat) > 1:
            if a < 40 or chat[0]["content"].startswith("mute"):
                return ["nothing", "[[start]] \n [[end]]", "[[start]] no end", "[[end]] x [[start]]"][a % 4]
            return f"Change {c}. [[start]] word {b % 12}\n[[end]] [[start]]other[[end]]"
        if a < 30:
            return ["no verdict", "Final Judgement: maybe", "Final Judgement Final Judgement Yes"][a % 3]
        (goodness,) = hashlib.blake2b(chat[0]["content"].encode(), digest_size=1).digest()
        yes = b < (0, 25, 50, 90, 130)[goodness % 5]
        return f"critique {c}. Final Judgement: {'Yes' if yes else 'Not met (Yes or No)'}"

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """As a policy."""
        self.calls += 1
        replies = []
        for ask in asks:
            before = [] if ask.context is None else json.loads(ask.context.astype(np.uint8).tobytes())
            chat = [*before, *map(dict, ask.append)]
            for sample in range(ask.n):
                text = self.say(chat, ask.key.turn, sample)
                said = json.dumps([*chat, {"role": "assistant", "content": text}]).encode()
                replies.append(Reply(text=text, context=np.frombuffer(said, np.uint8).astype(np.int32)))
        return replies


@pytest.fixture(scope="session")
def script() -> type[Script]:
    """The class `Script`."""
    return Script
