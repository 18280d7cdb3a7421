"""Oracle: peer. OpenSpiel plays the same actions; players, legal sets, chance, returns and information agree.

SPF_PEER_GAMES is the number of random games of each, 300 if it is not set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from selfplay_fast import games

pyspiel = pytest.importorskip("pyspiel", reason="comes with the extra 'test'")


class Peer(NamedTuple):
    """What stands for the information of a player in theirs, and how ours compares with it."""

    theirs: str
    information: Callable[[Any, int], object]
    compare: str
    """equal: the same string; same: a one-to-one relation; finer: theirs is a function of ours."""


def _string(state: Any, player: int) -> str:
    return str(state.information_state_string(player))


def _observation(state: Any, player: int) -> str:
    return str(state.observation_string(player))


def _crosses(state: Any, player: int) -> str:
    """With x and o as we draw them: theirs begins with x."""
    return _observation(state, player).translate(str.maketrans("ox", "xo"))


def _lines(state: Any, player: int) -> str:
    return _observation(state, player).removesuffix("\n")


def _tensor(state: Any, player: int) -> bytes:
    return np.array(state.observation_tensor(player), np.float32).tobytes()


def _mini(colors: int, ranks: int, hand: int, info: int, players: int = 2) -> tuple[str, str]:
    ours = f"hanabi(colors={colors}, ranks={ranks}, players={players}, hand={hand}, info_tokens={info}, life_tokens=3)"
    theirs = f"hanabi(colors={colors},ranks={ranks},players={players},hand_size={hand}"
    return ours, f"{theirs},max_information_tokens={info},max_life_tokens=3)"


PEERS = {
    "kuhn_poker": Peer("kuhn_poker", _string, "equal"),
    "tic_tac_toe": Peer("tic_tac_toe", _crosses, "equal"),
    "connect_four": Peer("connect_four", _lines, "equal"),
    "nim": Peer("nim(pile_sizes=3;4;5,is_misere=false)", _observation, "equal"),
    "nim(misere=yes)": Peer("nim(pile_sizes=3;4;5)", _observation, "equal"),
    "nim(piles=1;2;3)": Peer("nim(pile_sizes=1;2;3,is_misere=false)", _observation, "equal"),
    "nim(piles=5;7;9)": Peer("nim(pile_sizes=5;7;9,is_misere=false)", _observation, "equal"),
    "nim(piles=1;3;5;7, misere=yes)": Peer("nim", _observation, "equal"),
    "leduc_poker": Peer("leduc_poker", _string, "same"),
    "liars_dice": Peer("liars_dice", _string, "equal"),
    "liars_dice(dice=2, faces=3)": Peer("liars_dice(numdice=2,dice_sides=3)", _string, "equal"),
    "liars_dice(dice=5)": Peer("liars_dice(numdice=5)", _string, "equal"),
    "pig(target=20, horizon=40)": Peer("pig(winscore=20,horizon=40)", _observation, "finer"),
    "pig": Peer("pig", _observation, "finer"),
    "pig(target=30, horizon=7)": Peer("pig(winscore=30,horizon=7)", _observation, "finer"),
    "hanabi": Peer("hanabi", _tensor, "same"),
    "hanabi(players=3)": Peer("hanabi(players=3)", _tensor, "finer"),
    "hanabi(players=5)": Peer("hanabi(players=5)", _tensor, "finer"),
    **{
        ours: Peer(theirs, _tensor, "same" if "players=2" in ours else "finer")
        for ours, theirs in (
            _mini(2, 2, 3, 3),  # MARS's mini and simple
            _mini(3, 2, 5, 8),
            _mini(1, 1, 1, 1),
            _mini(2, 3, 4, 0, players=3),
            _mini(4, 5, 2, 2, players=4),
        )
    },
}


@pytest.mark.parametrize("name", PEERS)
def test_random_games_agree(name: str, peer_games: Callable[[int], int]) -> None:
    """Oracle: peer pyspiel. Random games, compared in every state."""
    peer, played = PEERS[name], peer_games(300)
    batch = games.make(name, played, seed=11, chance="explicit")
    spiel = pyspiel.load_game(peer.theirs)
    states = [spiel.new_initial_state() for _ in range(played)]
    about = games.describe(name)
    never_legal = 1 if about.name == "nim" else 0  # their last number
    assert spiel.num_distinct_actions() == about.num_actions + never_legal
    assert spiel.observation_tensor_shape() == list(batch.observation_tensor().shape[1:])
    assert spiel.num_players() == about.num_players
    assert spiel.max_game_length() >= about.max_turns
    if about.name != "hanabi":  # their bound is looser
        assert spiel.max_game_length() == about.max_turns
    theirs_by_ours: dict[tuple[int, str], object] = {}
    ours_by_theirs: dict[tuple[int, object], str] = {}
    while not batch.terminated.all():
        legal, players, actions = batch.legal_actions, batch.current_player, batch.sample_actions(5)
        tensors = batch.observation_tensor()
        seen = [batch.observation_tensor(player=player) for player in range(about.num_players)]
        for row, state in enumerate(states):
            if not state.is_chance_node():
                for player, views in enumerate(seen):
                    assert views[row].ravel().tolist() == state.observation_tensor(player)
            if state.is_terminal():
                assert players[row] == games.TERMINAL
                continue
            assert players[row] == state.current_player()
            if state.is_chance_node():
                assert dict(batch.chance_outcomes(row)) == pytest.approx(dict(state.chance_outcomes()))
            else:
                player = int(players[row])
                assert np.flatnonzero(legal[row]).tolist() == state.legal_actions()
                assert tensors[row].ravel().tolist() == state.observation_tensor(player)
                ours, theirs = batch.information_state(row, player), peer.information(state, player)
                assert theirs_by_ours.setdefault((player, ours), theirs) == theirs
                if peer.compare == "equal":
                    assert ours == theirs
                elif peer.compare == "same":
                    assert ours_by_theirs.setdefault((player, theirs), ours) == ours
            state.apply_action(int(actions[row]))
        batch.step(actions)
    for row, state in enumerate(states):
        assert state.is_terminal()
        assert batch.returns[row].tolist() == state.returns()


def test_every_leduc_history_agrees() -> None:
    """Oracle: peer pyspiel and known numbers. All 9,457 histories; 936 information states, split alike."""
    game = pyspiel.load_game("leduc_poker")
    level = [game.new_initial_state()]
    nodes = 0
    keys: set[tuple[int, str]] = set()
    pairs: set[tuple[int, str, str]] = set()
    while level:
        nodes += len(level)
        batch = games.make("leduc_poker", len(level), chance="explicit")
        for ply in range(len(level[0].history())):
            batch.step([state.history()[ply] for state in level])
        after = []
        for row, state in enumerate(level):
            assert batch.current_player[row] == state.current_player()
            if state.is_terminal():
                assert batch.returns[row].tolist() == state.returns()
                continue
            if state.is_chance_node():
                assert dict(batch.chance_outcomes(row)) == pytest.approx(dict(state.chance_outcomes()))
            else:
                player = state.current_player()
                key = batch.information_state(row, player)
                keys.add((player, key))
                pairs.add((player, key, state.information_state_string(player)))
                assert np.flatnonzero(batch.legal_actions[row]).tolist() == state.legal_actions()
            after += [state.child(action) for action in state.legal_actions()]
        level = after
    assert nodes == 9_457
    assert len(keys) == len(pairs) == len({(player, theirs) for player, _, theirs in pairs}) == 936
