"""Oracle: rates counted by hand on five games."""

import math
from dataclasses import replace

import numpy as np
import pytest

from selfplay_fast.evaluate.attack_scores import attack_metrics, counted_games, diversity_metrics
from selfplay_fast.play.attack_game import Seed
from selfplay_fast.play.attack_rules import ATTACKER, DEFENDER, JUDGE, Labels, Said
from selfplay_fast.records import Ask, Episode, Reply, Turn


def game(index, harmful, attacked, labels, dropped=None, logprobs=(), form=True, returns=0.0):
    tokens = {"tokens": np.zeros(len(logprobs), np.int32), "logprobs": np.array(logprobs, np.float32)}
    roles = [ATTACKER] * attacked + [DEFENDER, JUDGE]
    turns = tuple(
        Turn(
            ask=Ask(role=role, append="?"),
            reply=Reply(text="", **tokens) if role == ATTACKER else Reply(text=""),
        )
        for role in roles
    )
    said = {role: Said("", "x", form) for role in roles if role != JUDGE}
    kept = {
        "seed": Seed(text="s", harmful=harmful, attacked=attacked),
        "attack": f"a{index % 2}",
        "said": said,
        "labels": labels,
    }
    return Episode(
        game="attack_game",
        index=index,
        seed=0,
        group=index,
        turns=turns,
        returns=dict.fromkeys(said, returns),
        kept=kept | ({"dropped": dropped} if dropped else {}),
    )


GAMES = [
    game(0, True, True, Labels(True, False, True), logprobs=(-1.0, -2.0), returns=3.0),
    game(1, True, True, Labels(False, False, False), logprobs=(-4.0,), form=False, returns=-3.0),
    game(2, False, False, Labels(False, True, False), returns=1.0),
    game(3, True, False, Labels(True, True, None), dropped="tie"),
    game(4, False, True, None, dropped="unlabelled"),
]


def test_rates_by_hand():
    metrics = attack_metrics(GAMES, "g")
    assert metrics == {
        "g/attack_success_rate": pytest.approx(1 / 2),  # of games 0 and 1; game 3 has no such label
        "g/refusal_rate": pytest.approx(1 / 2),  # games 0 and 3
        "g/over_refusal_rate": pytest.approx(1 / 2),  # games 1 and 2
        "g/faithful_rate": pytest.approx(1 / 2),  # games 0 and 1
        "g/kept_form_rate/attacker": pytest.approx(1 / 2),
        "g/kept_form_rate/defender": pytest.approx(3 / 4),
        "g/return/attacker": pytest.approx(0),
        "g/return/defender": pytest.approx(1 / 4),
        "g/attack_entropy": pytest.approx(3.5),
    }
    assert attack_metrics([GAMES[4]]) == {}


def test_games_that_count():
    kept, dropped = counted_games(GAMES)
    assert [e.index for e in kept] == [0, 1, 2]
    assert dropped == {"tie": 1, "unlabelled": 1}
    kept, dropped = counted_games(GAMES, remove_ties=False)
    assert [e.index for e in kept] == [0, 1, 2, 3]
    assert dropped == {"tie": 1, "unlabelled": 1}


def test_diversity_of_attacks():
    """By hand: two attackers' texts, one said twice; nothing of a single attack."""
    metrics = diversity_metrics(GAMES, "g")
    assert metrics["g/distinct_rate"] == pytest.approx(2 / 3)
    assert not math.isnan(metrics.get("g/self_bleu", 0.0))
    assert diversity_metrics(GAMES[2:]) == {}
    assert diversity_metrics([replace(GAMES[0])]) == {}
