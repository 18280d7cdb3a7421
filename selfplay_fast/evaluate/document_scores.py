"""What came of document games: how hard questions were, what was dropped and why, how far votes agreed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from selfplay_fast.play.document_game import ASKED, DROPPED, NAME, is_useful
from selfplay_fast.play.document_rules import VERIFIER
from selfplay_fast.records import Episode


def document_metrics(episodes: Sequence[Episode], name: str = NAME) -> dict[str, float]:
    """Of the readings of a step; what nothing is known of is left out.

    ``<status>_rate`` and, of those dropped, ``dropped/<why>``. Of questions that were asked: ``success``, the share of
    right answers, by ``success/<task>`` too, ``informative_rate``, those neither all right nor all wrong,
    ``rule_rate``, right answers by the rule alone, ``judged_rate``, answers that were voted on, ``agreement``, the
    share of votes with the majority, and whatever else is measured of them. ``documents`` and ``examples`` are numbers
    the questioner was shown.
    """
    if not episodes:
        return {}
    status = Counter(e.kept["status"] for e in episodes)
    metrics = {f"{name}/{key}_rate": count / len(episodes) for key, count in status.items()}
    why = Counter(e.kept["why"] for e in episodes if e.kept["status"] == DROPPED)
    metrics |= {f"{name}/dropped/{key}": float(count) for key, count in why.items()}
    asked = [e for e in episodes if e.kept["status"] == ASKED]
    shares: dict[str, list[float]] = {
        "success": [e.kept["success"] for e in asked],
        "informative_rate": [0 < e.kept["success"] < 1 for e in asked],
        "rule_rate": [score for e in asked for score in e.kept["rule"]],
        "judged_rate": [most is not None for e in asked for most in e.kept["judged"]],
        "agreement": [v == m for e in asked for m, own in _judged(e) for v in own],
        "documents": [len(e.kept["reading"].shown) for e in episodes],
        "examples": [len(e.kept["reading"].examples) for e in episodes],
    }
    for episode in asked:
        shares.setdefault(f"success/{episode.kept['reading'].cluster.task}", []).append(
            episode.kept["success"]
        )
        for key, value in episode.kept["question"].measured.items():
            shares.setdefault(key, []).append(value)
    for role in ("questioner", "responder", "verifier"):
        shares[f"return/{role}"] = [e.returns[role] for e in episodes if role in e.returns]
    return metrics | {f"{name}/{key}": float(np.mean(values)) for key, values in shares.items() if values}


def _judged(episode: Episode) -> Iterable[tuple[int, Sequence[int]]]:
    """Majority and votes of every answer that was voted on."""
    return ((m, own) for m, own in zip(episode.kept["judged"], episode.kept["votes"], strict=True) if own)


def answer_metrics(episodes: Sequence[Episode], name: str = "held_out") -> dict[str, float]:
    """Of `answer_game`: ``average`` score of all answers with its standard error over questions, ``any``: the share of
    questions with a right one; the average by task, and by what is measured of questions."""
    parts: dict[str, list[float]] = {}
    for episode in episodes:
        average = float(np.mean(episode.kept["scores"]))
        named = {
            episode.kept["task"]: "",
            **{k: f"{v:g}" for k, v in episode.kept["question"].measured.items()},
        }
        for key in ("average", *(f"{key}{value}" for key, value in named.items())):
            parts.setdefault(key, []).append(average)
        parts.setdefault("any", []).append(max(episode.kept["scores"]))
    error = np.std(parts["average"]) / max(1, len(episodes) - 1) ** 0.5
    return {f"{name}/{key}": float(np.mean(values)) for key, values in sorted(parts.items())} | {
        f"{name}/average_error": float(error)
    }


def sample_metrics(episodes: Sequence[Episode], chosen: Sequence[Sequence[int]]) -> dict[str, float]:
    """``samples/<role>``: how many of these turns are a role's."""
    turns = (episode.turns[t] for episode, own in zip(episodes, chosen, strict=True) for t in own)
    return {f"samples/{role}": float(n) for role, n in Counter(turn.ask.role for turn in turns).items()}


def tell_of_readings(
    note: Callable[[str], None],
    episodes: Sequence[Episode],
    chosen: Sequence[Sequence[int]],
    *,
    wanted: int,
    verifier: str,
) -> None:
    """A line for what is out of order, ``wanted`` useful questions for example, and ``chosen`` turns of them.

    ValueError where the verifier does not answer at all, or no prompt leaves room for a reply.
    """
    dropped = Counter(e.kept["why"] for e in episodes if e.kept["status"] == DROPPED)
    if dropped:
        said = ", ".join(f"{count} {why}" for why, count in sorted(dropped.items()))
        note(f"readings dropped: {said}")
    if dropped["no_room"] == len(episodes):
        raise ValueError(
            "clusters: no prompt leaves room for a reply; take shorter ones, or a longer context"
        )
    votes = [turn for e in episodes for turn in e.turns if turn.ask.role == VERIFIER]
    if lost := sum(turn.reply.lost for turn in votes):
        note(f"{lost} of {len(votes)} votes did not come and count as none")
        if lost == len(votes):
            raise ValueError(f"verifier: none of {lost} votes came; does {verifier} answer?")
    useful = sum(map(is_useful, episodes))
    if useful < wanted:
        note(f"{useful} of {wanted} questions tell right from wrong answers")
    if not any(chosen):
        note("all rewards of a group are equal, which teaches nothing")
    prompts = Counter(e.turns[0].ask.prompt_text for e in episodes if e.turns)
    if again := sum(prompts.values()) - len(prompts):
        note(f"{again} prompts of the questioner are the same as another")
