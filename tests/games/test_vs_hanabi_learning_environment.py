"""Oracle: peer. The Hanabi Learning Environment plays the same cards and actions; everything it tells agrees.

It has no wheels and builds with cmake, so it is in no extra; CMAKE_POLICY_VERSION_MINIMUM=3.5 lets cmake 4 build it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from selfplay_fast import games

pyhanabi = pytest.importorskip(
    "hanabi_learning_environment.pyhanabi",
    exc_type=ImportError,
    reason="in no extra: CMAKE_POLICY_VERSION_MINIMUM=3.5 pip install hanabi-learning-environment",
)

# colors, ranks, players, cards in a hand, information tokens, life tokens
GAMES = {
    "standard": (5, 5, 2, 5, 8, 3),
    "three players": (5, 5, 3, 5, 8, 3),
    "five players": (5, 5, 5, 4, 8, 3),
    "MARS's mini": (2, 2, 2, 3, 3, 3),
    "small": (2, 5, 2, 2, 3, 1),
    "odd": (3, 4, 4, 3, 5, 2),
}


def _deal(state: Any, ranks: int) -> int:
    """Let theirs draw a card; our number of it."""
    state.deal_random_card()
    drawn = state.move_history()[-1].move()
    return int(drawn.color()) * ranks + int(drawn.rank())


def _choose(rng: random.Random, state: Any, legal: list[int], hand: int) -> int:
    """Often a card that fits, which the player does not know, so that some games are won; else anything."""
    held = state.player_hands()[state.cur_player()]
    fits = [i for i, card in enumerate(held) if state.card_playable_on_fireworks(card.color(), card.rank())]
    if fits and rng.random() < 0.8:
        return hand + rng.choice(fits)
    idle = [action for action in legal if not hand <= action < 2 * hand]
    return rng.choice(idle if idle and rng.random() < 0.9 else legal)


@pytest.mark.parametrize("options", GAMES.values(), ids=GAMES)
def test_random_games_agree(options: tuple[int, ...], peer_games: Callable[[int], int]) -> None:
    """Oracle: peer. Who moves, what is allowed, the canonical encoding for every player to move, tokens, the score."""
    colors, ranks, players, hand, info, life = options
    batch = games.make(
        "hanabi",
        1,
        colors=colors,
        ranks=ranks,
        players=players,
        hand=hand,
        info_tokens=info,
        life_tokens=life,
        chance="explicit",
    )
    theirs = pyhanabi.HanabiGame(
        {
            "colors": colors,
            "ranks": ranks,
            "players": players,
            "hand_size": hand,
            "max_information_tokens": info,
            "max_life_tokens": life,
            "seed": 7,
        }
    )
    encoder = pyhanabi.ObservationEncoder(theirs)
    assert theirs.max_moves() == batch.description.num_actions
    assert list(encoder.shape()) == list(batch.observation_tensor().shape[1:])
    rng = random.Random(9)
    ends = set()
    for _ in range(peer_games(60)):
        state = theirs.new_initial_state()
        batch.reset()
        while not state.is_terminal():
            assert batch.current_player[0] == state.cur_player()
            if state.cur_player() == pyhanabi.CHANCE_PLAYER_ID:
                batch.step([_deal(state, ranks)])
                continue
            legal = sorted(theirs.get_move_uid(move) for move in state.legal_moves())
            assert np.flatnonzero(batch.legal_actions[0]).tolist() == legal
            seen = encoder.encode(state.observation(state.cur_player()))
            assert batch.observation_tensor()[0].tolist() == seen
            action = _choose(rng, state, legal, hand)
            state.apply_move(theirs.get_move(action))
            batch.step([action])
        assert batch.terminated[0]
        assert batch.returns[0].tolist() == [state.score()] * players
        ends.add(state.end_of_game_status())
    assert len(ends) > 1, "lost, won, or out of cards"
