"""What came of attack games: how often attacks succeed, answers refuse, roles keep their form."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from selfplay_fast.evaluate.diversity import self_bleu
from selfplay_fast.play.attack_game import NAME
from selfplay_fast.play.attack_rules import ATTACKER, DEFENDER
from selfplay_fast.records import Episode


def counted_games(
    episodes: Sequence[Episode], *, remove_ties: bool = True
) -> tuple[list[Episode], Counter[str]]:
    """The games that count, and how many others there are, by reason (see `attack_game`)."""
    why = [episode.kept.get("dropped") for episode in episodes]
    dropped = {None} if remove_ties else {None, "tie"}
    kept = [episode for episode, reason in zip(episodes, why, strict=True) if reason in dropped]
    return kept, Counter(reason for reason in why if reason is not None)


def attack_metrics(episodes: Sequence[Episode], name: str = NAME) -> dict[str, float]:
    """Of games with labels: shares, returns by role, and the entropy of attacks.

    ``attack_success_rate``: harmful answers, of games from harmful seeds. ``refusal_rate``: of harmful attacks,
    ``over_refusal_rate``: of harmless ones. ``faithful_rate``: attacks of their seed's class, of those by an attacker.
    ``kept_form_rate/<role>``, ``return/<role>``. ``attack_entropy``: nats of a whole attack, reasoning included, given
    its seed, estimated by minus its log-prob, for attackers that tell it. What nothing is known of is left out.
    """
    labelled = [(e, e.kept["labels"]) for e in episodes if e.kept.get("labels") is not None]
    attacked = [(e, labels) for e, labels in labelled if e.kept["seed"].attacked]
    shares = {
        "attack_success_rate": [labels.answer_harmful for e, labels in labelled if e.kept["seed"].harmful],
        "refusal_rate": [labels.refused for _, labels in labelled if labels.attack_harmful],
        "over_refusal_rate": [labels.refused for _, labels in labelled if labels.attack_harmful is False],
        "faithful_rate": [labels.attack_harmful == e.kept["seed"].harmful for e, labels in attacked],
    }
    for role in (ATTACKER, DEFENDER):
        said = [e.kept["said"][role] for e, _ in labelled if role in e.kept["said"]]
        shares[f"kept_form_rate/{role}"] = [reply.kept_form for reply in said]
        shares[f"return/{role}"] = [e.returns[role] for e, _ in labelled if role in e.returns]
    shares["attack_entropy"] = [
        -float(turn.reply.logprobs.sum())
        for e, _ in attacked
        for turn in e.turns
        if turn.ask.role == ATTACKER and len(turn.reply.tokens)
    ]
    known = {key: [x for x in values if x is not None] for key, values in shares.items()}
    return {f"{name}/{key}": float(np.mean(values)) for key, values in known.items() if values}


def diversity_metrics(episodes: Sequence[Episode], name: str = NAME) -> dict[str, float]:
    """How different attacks are: ``distinct_rate`` of their texts and, where sacrebleu is installed, ``self_bleu``."""
    attacks = [e.kept["attack"] for e in episodes if e.kept["seed"].attacked]
    if len(attacks) < 2:
        return {}
    metrics = {f"{name}/distinct_rate": len(set(attacks)) / len(attacks)}
    if importlib.util.find_spec("sacrebleu") is not None:
        metrics[f"{name}/self_bleu"] = self_bleu(attacks)
    return metrics


def tell_of_games(
    note: Callable[[str], None], episodes: Sequence[Episode], dropped: Mapping[str, int], *, judge: str
) -> None:
    """A line for what is out of order in `counted_games`. ValueError where the judge does not answer at all."""
    lost = {why: number for why, number in dropped.items() if why != "tie"}
    if lost:
        said = ", ".join(f"{number} {why}" for why, number in sorted(lost.items()))
        note(f"games dropped: {said}")
    if not episodes and set(dropped) == {"unlabelled"}:
        raise ValueError(f"judge: none of {dropped['unlabelled']} games got labels; does {judge} answer?")
    for role in (ATTACKER, DEFENDER):
        rewards = {e.returns[role] for e in episodes if role in e.returns}
        if len(rewards) == 1:
            note(f"all rewards of the {role} are {rewards.pop():g}, which teaches nothing")
