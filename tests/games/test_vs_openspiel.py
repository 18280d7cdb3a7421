"""Oracle: peer. OpenSpiel plays the same actions; players, legal sets, chance, returns and information agree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from selfplay_fast import games

pyspiel = pytest.importorskip("pyspiel")
PEERS = {  # ours: theirs, games played by default
    "kuhn_poker": ("kuhn_poker", 10_000),
    "tic_tac_toe": ("tic_tac_toe", 10_000),
    "connect_four": ("connect_four", 500),
    "nim": ("nim(pile_sizes=3;4;5,is_misere=false)", 500),
    "nim(misere=yes)": ("nim(pile_sizes=3;4;5)", 500),
    "nim(piles=1;2;3)": ("nim(pile_sizes=1;2;3,is_misere=false)", 500),
    "nim(piles=5;7;9)": ("nim(pile_sizes=5;7;9,is_misere=false)", 500),
    "nim(piles=1;3;5;7, misere=yes)": ("nim", 500),
}


def _same_text(name: str, ours: str) -> str:
    """Our information state as they write their observation; their player 0 draws x in tic-tac-toe, ours o."""
    if name == "connect_four":
        return ours + "\n"
    return ours.translate(str.maketrans("ox", "xo")) if name == "tic_tac_toe" else ours


@pytest.mark.parametrize("name", PEERS)
def test_random_games_agree(name: str, peer_games: Callable[[int], int]) -> None:
    """Oracle: peer pyspiel. Random games, compared in every state; SPF_PEER_GAMES=10000 plays that many of each."""
    theirs, usual = PEERS[name]
    played = peer_games(usual)
    batch = games.make(name, played, seed=11, chance="explicit")
    spiel = pyspiel.load_game(theirs)
    states = [spiel.new_initial_state() for _ in range(played)]
    about = games.describe(name)
    never_legal = 1 if name.startswith("nim") else 0  # their last number
    assert spiel.num_distinct_actions() == about.num_actions + never_legal
    assert spiel.observation_tensor_shape() == list(batch.observation_tensor().shape[1:])
    assert spiel.max_game_length() == about.max_turns
    keys: dict[tuple[int, str], str] = {}
    while not batch.terminated.all():
        legal, players, actions = batch.legal_actions, batch.current_player, batch.sample_actions(5)
        tensors = batch.observation_tensor()
        for row, state in enumerate(states):
            if state.is_terminal():
                assert players[row] == games.TERMINAL
                continue
            assert players[row] == state.current_player()
            if state.is_chance_node():
                theirs = state.chance_outcomes()
                assert dict(batch.chance_outcomes(row)) == pytest.approx(dict(theirs))
            else:
                player = int(players[row])
                assert np.flatnonzero(legal[row]).tolist() == state.legal_actions()
                assert tensors[row].ravel().tolist() == state.observation_tensor(player)
                ours = batch.information_state(row, player)
                if name == "kuhn_poker":
                    assert ours == state.information_state_string(player)
                else:
                    assert _same_text(name, ours) == state.observation_string(player)
                assert keys.setdefault((player, ours), state.observation_string(player)) == (
                    state.observation_string(player)
                )
            state.apply_action(int(actions[row]))
        batch.step(actions)
    for row, state in enumerate(states):
        assert state.is_terminal()
        assert batch.returns[row].tolist() == state.returns()
