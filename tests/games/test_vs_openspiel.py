"""Oracle: peer. OpenSpiel plays the same actions; players, legal sets, chance, returns and information agree."""

from __future__ import annotations

import numpy as np
import pytest

from selfplay_fast import games

pyspiel = pytest.importorskip("pyspiel")
GAMES_PLAYED = 10_000


def _board(ours: str) -> str:
    """Their player 0 draws x, ours draws o."""
    return ours.translate(str.maketrans("ox", "xo"))


@pytest.mark.parametrize("name", ["kuhn_poker", "tic_tac_toe"])
def test_random_games_agree(name: str) -> None:
    """Oracle: peer pyspiel. Ten thousand random games, compared in every state."""
    batch = games.make(name, GAMES_PLAYED, seed=11, chance="explicit")
    spiel = pyspiel.load_game(name)
    states = [spiel.new_initial_state() for _ in range(GAMES_PLAYED)]
    about = games.describe(name)
    assert spiel.num_distinct_actions() == about.num_actions
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
                    assert _board(ours) == state.observation_string(player)
                assert keys.setdefault((player, ours), state.observation_string(player)) == (
                    state.observation_string(player)
                )
            state.apply_action(int(actions[row]))
        batch.step(actions)
    for row, state in enumerate(states):
        assert state.is_terminal()
        assert batch.returns[row].tolist() == state.returns()
