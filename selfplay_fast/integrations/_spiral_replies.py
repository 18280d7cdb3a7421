"""How SPIRAL's published parser reads a reply to a TextArena observation, quirks included.

Liu et al. 2025, arXiv 2506.24119, released code. Three kinds of environments have a parser: TicTacToe, KuhnPoker and
SimpleNegotiation. What it takes is a legal action spelled exactly as in the observation.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_BOX = "\\boxed"


def reader_for(env_id: str) -> Callable[[str, str], str | None]:
    """The reader (observation, reply) -> what the environment is told, or None for a refused reply.

    Raises ValueError for an environment that SPIRAL has no parser for.
    """
    name, _, version = env_id.partition("-")
    if name == "TicTacToe":
        return lambda observation, reply: _member(_cells(observation), reply)
    if name == "KuhnPoker":
        return lambda observation, reply: _member(_listed(observation), reply)
    if name == "SimpleNegotiation":
        return _any_box if version.startswith("v1") else _negotiation
    raise ValueError(
        f"parse: SPIRAL has no parser for {env_id!r}; it has TicTacToe, KuhnPoker and SimpleNegotiation"
    )


def candidate(reply: str) -> str:
    """The action a reply spells, before it is compared with the legal ones."""
    box = _last_box(reply)
    text = reply.strip() if box is None else box
    if box is not None and text.startswith("\\text{") and text.endswith("}"):
        text = text[len("\\text{") : -1]
    text = re.sub(r"\\boxed\{([^}]*)\}", r"[\1]", text)
    if "[" not in text and "]" not in text and len(text.split()) <= 5:
        text = f"[{text}]"
    return " ".join(text.split())


def _last_box(reply: str) -> str | None:
    """What stands in the last box, if its braces match."""
    start = reply.rfind(_BOX)
    if start < 0 or not reply.startswith("{", start + len(_BOX)):
        return None
    depth = 0
    for i in range(start + len(_BOX), len(reply)):
        depth += (reply[i] == "{") - (reply[i] == "}")
        if depth == 0:
            return reply[start + len(_BOX) + 1 : i]
    return None


def _member(legal: list[str], reply: str) -> str | None:
    if not reply:
        return ""  # handed on as it is
    action = candidate(reply)
    return action if action in legal else None


def _cells(observation: str) -> list[str]:
    _, _, rest = observation.rpartition("Available Moves:")
    return [f"[{cell}]" for cell in re.findall(r"'\[(\d+)\]'", rest.partition("Next Action:")[0])]


def _listed(observation: str) -> list[str]:
    last = observation.rstrip("\n").rpartition("\n")[2]
    return [f"[{word}]" for word in re.findall(r"\[(.*?)\]", last) if word != "GAME"]


def _any_box(observation: str, reply: str) -> str | None:
    """The first version: whatever is in the box is said."""
    return _last_box(reply) or None


def _negotiation(observation: str, reply: str) -> str | None:
    if not reply:
        return ""
    action = candidate(reply)
    return action if re.match(r"\[Accept\]|\[Deny\]|\[Offer:[^\]]*\]", action) else None
