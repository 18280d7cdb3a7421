"""Our games under OpenSpiel's interface.

Oracle throughout: pyspiel's own game of the same name, given the same actions, or OpenSpiel's Python algorithms run
on both: the numbers are equal, not merely close, unless a tolerance is said.
"""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

from selfplay_fast import games, solvers

pytest.importorskip("pyspiel", reason="comes with the extra 'test'")
import pyspiel
from open_spiel.python import policy, rl_environment
from open_spiel.python.algorithms import (
    cfr,
    expected_game_score,
    exploitability,
    external_sampling_mccfr,
    fictitious_play,
    get_all_states,
    ismcts,
    mcts,
    tabular_qlearner,
)

from selfplay_fast.integrations.openspiel import Game, State, load_game

NAMES = ["kuhn_poker", "tic_tac_toe"]


@pytest.fixture(params=NAMES)
def both(request: pytest.FixtureRequest) -> tuple[Game, Any]:
    """Our game and OpenSpiel's."""
    return load_game(request.param), pyspiel.load_game(request.param)


def test_games_agree(both: tuple[Game, Any]) -> None:
    """Oracle: pyspiel.Game. Every number and every field of the type that Python algorithms read."""
    ours, theirs = both
    for name in (
        "num_players",
        "num_distinct_actions",
        "max_game_length",
        "min_utility",
        "max_utility",
        "utility_sum",
        "policy_tensor_shape",
        "observation_tensor_shape",
        "observation_tensor_size",
        "max_chance_outcomes",
        "max_chance_nodes_in_history",
        "max_history_length",
        "max_move_number",
    ):
        assert getattr(ours, name)() == getattr(theirs, name)(), name
    kind, other = ours.get_type(), theirs.get_type()
    for name in (
        "short_name",
        "dynamics",
        "chance_mode",
        "information",
        "utility",
        "reward_model",
        "provides_information_state_string",
        "provides_observation_string",
        "provides_observation_tensor",
    ):
        assert getattr(kind, name) == getattr(other, name), name
    assert ours.observation_tensor_layout() == theirs.observation_tensor_layout()
    assert ours.to_string() == str(ours)
    assert not kind.provides_information_state_tensor
    assert len(ours.new_initial_states()) == 1


def test_states_agree(both: tuple[Game, Any]) -> None:
    """Oracle: pyspiel.State along 200 random games: every answer in every state."""
    ours, theirs = both
    rng = np.random.default_rng(0)
    keys: dict[str, str] = {}
    for _ in range(200):
        one, two = ours.new_initial_state(), theirs.new_initial_state()
        while True:
            for name in (
                "current_player",
                "is_terminal",
                "is_chance_node",
                "is_simultaneous_node",
                "is_player_node",
                "is_mean_field_node",
                "is_initial_state",
                "get_type",
                "legal_actions",
                "history",
                "history_str",
                "move_number",
                "returns",
                "num_players",
                "num_distinct_actions",
            ):
                assert getattr(one, name)() == getattr(two, name)(), name
            deals = ours.max_chance_outcomes() > 0  # pyspiel answers only where there is chance
            begins = two.is_initial_non_chance_state() if deals else two.is_initial_state()
            assert one.is_initial_non_chance_state() == begins
            done = [(each.player, each.action) for each in two.full_history()]
            assert one.full_history() == done
            for player in range(2):
                assert one.legal_actions(player) == two.legal_actions(player)
                assert one.legal_actions_mask(player) == two.legal_actions_mask(player)
                assert one.player_return(player) == two.player_return(player)
                theirs_key = f"{player}{two.information_state_string(player)}"  # may tell the order of moves
                ours_key = one.information_state_string(player)
                assert keys.setdefault(theirs_key, ours_key) == ours_key
            if one.is_terminal():
                assert one.rewards() == two.rewards()
                break
            if one.is_chance_node():
                assert one.chance_outcomes() == two.chance_outcomes()
            else:
                assert one.legal_actions_mask() == two.legal_actions_mask()
                player = one.current_player()
                for observer in range(2):
                    assert one.observation_tensor(observer) == two.observation_tensor(observer)
                assert one.observation_tensor(player) == one.observation_tensor()
                assert one.information_state_string() == one.information_state_string(player)
            action = int(rng.choice(one.legal_actions()))
            child, before = one.child(action), one.history()
            assert one.history() == before
            one.apply_action(action)
            two.apply_action(action)
            assert str(child) == str(one) == one.to_string()


def test_kuhn_keys_are_theirs() -> None:
    """Oracle: pyspiel. Information-state strings of all decisions of Kuhn poker are the same strings."""
    mine, other = (
        get_all_states.get_all_states(game, include_terminals=False)
        for game in (load_game("kuhn_poker"), pyspiel.load_game("kuhn_poker"))
    )
    assert mine.keys() == other.keys()
    for history, state in mine.items():
        assert state.information_state_string() == other[history].information_state_string()


def test_tabular_policies_fit() -> None:
    """Oracle: open_spiel.python.policy on pyspiel's game: rows, masks, and a table that comes from our solver has the
    value and the NashConv our solver says."""
    mine = policy.TabularPolicy(load_game("kuhn_poker"))
    other = policy.TabularPolicy(pyspiel.load_game("kuhn_poker"))
    assert mine.state_lookup == other.state_lookup
    np.testing.assert_array_equal(mine.legal_actions_mask, other.legal_actions_mask)
    np.testing.assert_array_equal(mine.state_in, [s.observation_tensor() for s in mine.states])
    solved = solvers.cfr("kuhn_poker", 100)
    for key in solved:
        mine.policy_for_key(key)[:] = solved[key]
    game = load_game("kuhn_poker")
    assert exploitability.nash_conv(game, mine) == pytest.approx(solvers.nash_conv("kuhn_poker", solved))
    values = expected_game_score.policy_value(game.new_initial_state(), [mine, mine])
    assert values == pytest.approx(solvers.policy_value("kuhn_poker", solved))


@pytest.mark.parametrize("solver", [cfr.CFRSolver, cfr.CFRPlusSolver])
def test_counterfactual_regret_minimisation(solver: Any) -> None:
    """Oracle: open_spiel.python cfr on pyspiel's game: the average policy, its NashConv and best responses after 30
    iterations."""
    pair = [load_game("kuhn_poker"), pyspiel.load_game("kuhn_poker")]
    averages = []
    for game in pair:
        running = solver(game)
        for _ in range(30):
            running.evaluate_and_update_policy()
        averages.append(running.average_policy())
    np.testing.assert_array_equal(averages[0].action_probability_array, averages[1].action_probability_array)
    assert exploitability.nash_conv(pair[0], averages[0]) == exploitability.nash_conv(pair[1], averages[1])
    for player in range(2):
        mine, other = (
            exploitability.best_response(game, average, player)
            for game, average in zip(pair, averages, strict=True)
        )
        for name in ("best_response_action", "best_response_value", "on_policy_value", "nash_conv"):
            assert mine[name] == other[name], name


def test_sampling_and_fictitious_play() -> None:
    """Oracle: open_spiel.python on pyspiel's game from the same random stream: NashConv after 60 sampled iterations
    of external-sampling MCCFR and 3 of fictitious play."""
    results = []
    for game in (load_game("kuhn_poker"), pyspiel.load_game("kuhn_poker")):
        np.random.seed(4)  # noqa: NPY002 - the stream those algorithms draw from
        sampled = external_sampling_mccfr.ExternalSamplingSolver(game)
        for _ in range(60):
            sampled.iteration()
        played = fictitious_play.XFPSolver(game)
        for _ in range(3):
            played.iteration()
        results.append([exploitability.nash_conv(game, s.average_policy()) for s in (sampled, played)])
    assert results[0] == results[1]


@pytest.mark.parametrize("name", NAMES)
def test_monte_carlo_tree_search(name: str) -> None:
    """Oracle: open_spiel.python mcts on pyspiel's game from the same random stream: the root's children, visit by
    visit and value by value, and the moves of a whole game against itself."""
    told = []
    for game in (load_game(name), pyspiel.load_game(name)):
        rollouts = mcts.RandomRolloutEvaluator(2, np.random.RandomState(1))
        bot = mcts.MCTSBot(game, 2, 150, rollouts, random_state=np.random.RandomState(2))
        state = game.new_initial_state()
        for card in (2, 0):
            if state.is_chance_node():
                state.apply_action(card)
        lines: list[Any] = []
        while not state.is_terminal():
            root = bot.mcts_search(state)
            lines.append([(c.action, c.explore_count, c.total_reward, c.prior) for c in root.children])
            state.apply_action(bot.step(state))
        told.append([*lines, state.history(), state.returns()])
    assert told[0] == told[1]


RL_GAMES = ["kuhn_poker", "tic_tac_toe", "leduc_poker", "pig", "liars_dice", "connect_four"]


def environments(name: str) -> list[rl_environment.Environment]:
    """OpenSpiel's environment of our game and of its own, nature's stream the same."""
    return [
        rl_environment.Environment(
            game,
            chance_event_sampler=rl_environment.ChanceEventSampler(seed=5),
            observation_type=rl_environment.ObservationType.OBSERVATION,
        )
        for game in (load_game(name), pyspiel.load_game(name))
    ]


@pytest.mark.parametrize("name", RL_GAMES)
def test_rl_environments_agree(name: str) -> None:
    """Oracle: rl_environment on pyspiel's game from the same random stream: specifications, and for random play every
    time step, with what every player sees until the game is over."""
    ours, theirs = environments(name)
    assert ours.observation_spec() == theirs.observation_spec()
    assert ours.action_spec() == theirs.action_spec()
    rng = np.random.default_rng(2)
    for _ in range(15):
        one, two = ours.reset(), theirs.reset()
        while True:
            assert (one.rewards, one.discounts, one.step_type) == (two.rewards, two.discounts, two.step_type)
            for key in ("legal_actions", "current_player", *([] if one.last() else ["info_state"])):
                assert one.observations[key] == two.observations[key], key
            if one.last():
                break
            legal = one.observations["legal_actions"][one.current_player()]
            action = int(rng.choice(legal))
            one, two = ours.step([action]), theirs.step([action])


@pytest.mark.parametrize("name", ["kuhn_poker", "tic_tac_toe"])
def test_q_learning(name: str) -> None:
    """Oracle: open_spiel.python's tabular Q-learners in rl_environment on pyspiel's game from the same random stream:
    the returns of 300 episodes of self-play, and all values learned."""
    results = []
    for env in environments(name):
        np.random.seed(3)  # noqa: NPY002 - the stream those agents draw from
        agents = [tabular_qlearner.QLearner(p, env.game.num_distinct_actions()) for p in range(2)]
        returns = []
        for _ in range(300):
            step = env.reset()
            while not step.last():
                step = env.step([agents[step.current_player()].step(step).action])
            for agent in agents:
                agent.step(step)
            returns.append(step.rewards)
        values = [{key: dict(row) for key, row in agent._q_values.items()} for agent in agents]
        results.append((returns, [{k: v for k, v in table.items() if v} for table in values]))
    assert results[0] == results[1]
    assert len({tuple(pair) for pair in results[0][0]}) > 1


def test_rl_environment_of_snake() -> None:
    """Oracle: contract. All move at once, every player sees its tensor, and rewards come at the end."""
    env = rl_environment.Environment(load_game("snake", seed=1))
    assert (env.is_turn_based, env.num_actions_per_step) == (False, 2)
    step = env.reset()
    while not step.last():
        assert step.is_simultaneous_move()
        assert [len(seen) for seen in step.observations["info_state"]] == [150, 150]
        step = env.step([1, 3])
    assert sum(step.rewards) == 0


@pytest.mark.parametrize("name", ["kuhn_poker", "leduc_poker", "liars_dice", "pig", "nim", "connect_four"])
def test_sizes_of_histories(name: str) -> None:
    """Oracle: pyspiel.Game: nature's outcomes and moves; and no history of 50 random games is longer than we say."""
    ours, theirs = load_game(name), pyspiel.load_game(name)
    assert ours.max_chance_outcomes() == theirs.max_chance_outcomes()
    assert ours.max_chance_nodes_in_history() == theirs.max_chance_nodes_in_history()
    rng = np.random.default_rng(0)
    for _ in range(50):
        state = ours.new_initial_state()
        while not state.is_terminal():
            state.apply_action(int(rng.choice(state.legal_actions())))
        assert state.move_number() <= ours.max_history_length() == ours.max_move_number()


def test_ismcts() -> None:
    """Oracle: the rules, and the engine. A resampled state is the same to its player and another one to the other;
    OpenSpiel's information-set search with it never passes with a king and never pays with a jack."""
    game = load_game("kuhn_poker")
    state = game.new_initial_state()
    for action in (1, 0, 1):
        state.apply_action(action)
    rng = np.random.RandomState(0)
    drawn = [state.resample_from_infostate(1, rng.random_sample) for _ in range(40)]
    assert {s.information_state_string(1) for s in drawn} == {state.information_state_string(1)}
    assert {s.information_state_string(0) for s in drawn} == {"1b", "2b"}
    for card, best in ((2, 1), (0, 0)):
        state = game.new_initial_state()
        for action in (1, card, 1):
            state.apply_action(action)
        bot = ismcts.ISMCTSBot(
            game, mcts.RandomRolloutEvaluator(1, rng), uct_c=2.0, max_simulations=200, random_state=rng
        )
        assert bot.step(state) == best
    with pytest.raises(ValueError, match="nature is sampled"):
        load_game("snake").new_initial_state().resample_from_infostate(0, rng.random_sample)


def test_words_of_actions() -> None:
    """Oracle: the state's own words, wherever the action is legal in 20 random games."""
    for name in ("kuhn_poker", "hanabi", "simple_tak"):
        game = load_game(name)
        rng = np.random.default_rng(0)
        for _ in range(20):
            state = game.new_initial_state()
            while not state.is_terminal():
                player, legal = state.current_player(), state.legal_actions()
                for action in legal[:3]:
                    said = game.action_to_string(player, action)
                    now = state.action_to_string(player, action)
                    assert said == f"action {action}" or now in said.split(" or ")
                state.apply_action(int(rng.choice(legal)))
    assert load_game("kuhn_poker").action_to_string(0, 1) in ("bet or call", "call or bet")
    assert load_game("snake").action_to_string(1, 2) == "left"
    assert load_game("snake").action_to_string(1, 99) == "action 99"


def test_copies_and_texts() -> None:
    """Oracle: the original. Copies, pickles and serialized states go on as it does and leave it alone."""
    state = load_game("kuhn_poker", rounds=2).new_initial_state()
    for action in (2, 0, 1):
        state.apply_action(action)
    game = state.get_game()
    for twin in (
        state.clone(),
        copy.copy(state),
        copy.deepcopy(state),
        pickle.loads(pickle.dumps(state)),
        game.deserialize_state(state.serialize()),
    ):
        assert isinstance(twin, State)
        assert str(twin) == str(state)
        assert twin.get_game() == game
        twin.apply_action(0)
        assert twin.history() == [2, 0, 1, 0] != state.history()
    assert [state.action_to_string(0, action) for action in (0, 1)] == ["fold", "call"]
    assert state.action_to_string(1) == "call"
    assert state.string_to_action("My move: call") == state.string_to_action(0, "call") == 1
    assert "Your card: K" in state.observation_string()
    assert game.new_initial_state().action_to_string(-1, 2) == "outcome 2"
    assert repr(game) == "kuhn_poker(rounds=2,rules=correct,cards=3)"
    assert game.get_parameters() == {"rounds": 2, "rules": "correct", "cards": 3}


def test_bounds_of_returns() -> None:
    """Oracle: returns are +-1 in a match; a game too large to walk has infinite bounds, which hold."""
    match = load_game("kuhn_poker(rounds=2)")
    assert (match.min_utility(), match.max_utility()) == (-1, 1)
    large = load_game("negotiation")
    assert (large.min_utility(), large.max_utility()) == (-math.inf, math.inf)
    assert large.get_type().chance_mode == pyspiel.GameType.ChanceMode.DETERMINISTIC
    assert load_game("negotiation(resources=5)").get_type().chance_mode == (
        pyspiel.GameType.ChanceMode.EXPLICIT_STOCHASTIC
    )


def test_every_game_plays_to_its_end() -> None:
    """Oracle: the engine. Random play through the adapter gives the engine's returns for the same history."""
    for name in games.names():
        game = load_game(name)
        state = game.new_initial_state()
        rng = np.random.default_rng(3)
        while not state.is_terminal():
            if state.is_simultaneous_node():
                state.apply_actions(
                    [int(rng.choice(state.legal_actions(p))) for p in range(game.num_players())]
                )
            else:
                state.apply_action(int(rng.choice(state.legal_actions())))
        again = game.deserialize_state(state.serialize())
        assert str(again) == str(state)
        at_once = games.describe(name).simultaneous
        deal = int(state.serialize().split()[0].removeprefix("deal=")) if at_once else 0
        batch = games.make(name, 1, seed=deal, chance="sampled" if at_once else "explicit")
        moves = np.array(state.history()).reshape(-1, game.num_players() if at_once else 1)
        for move in moves:
            batch.step(move[None] if at_once else move)
        assert again.returns() == state.returns() == batch.returns[0].tolist()


def test_snake() -> None:
    """Oracle: the engine. Deals differ, a state and its copies go on alike, words and views are those of a player."""
    game = load_game("snake")
    about = game.get_type()
    assert about.dynamics == pyspiel.GameType.Dynamics.SIMULTANEOUS
    assert about.chance_mode == pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC
    assert game.observation_tensor_shape() == [6, 5, 5]
    states = game.new_initial_states() + [game.new_initial_state() for _ in range(9)]
    assert len({str(state) for state in states}) == 10
    for state in states:
        twin = state.clone()
        assert state.is_initial_state()
        assert state.is_simultaneous_node()
        assert state.current_player() == pyspiel.PlayerId.SIMULTANEOUS
        for player in (0, 1):
            assert f"You are snake {player}." in state.observation_string(player)
            assert len(state.observation_tensor(player)) == 6 * 5 * 5
            assert state.legal_actions(player) == [0, 1, 2, 3]
            assert state.action_to_string(player, 2) == "left"
            assert state.string_to_action(player, "left") == 2
        for s in (state, twin):
            while not s.is_terminal():
                s.apply_actions([s.move_number() % 4, 3])
        assert str(state) == str(twin) == str(game.deserialize_state(state.serialize()))


def test_deals_of_snake() -> None:
    """Oracle: contract. Games loaded without a seed deal differently, those of one seed alike, one game anew each
    time."""

    def deals(seed: int | None = None) -> list[str]:
        game = load_game("snake", seed=seed)
        return [str(game.new_initial_state()) for _ in range(6)]

    assert len({state for _ in range(6) for state in deals()}) > 20
    assert deals(3) == deals(3) != deals(4)
    assert load_game("snake", seed=3) == load_game("snake"), "the seed is no rule of the game"
    with pytest.raises(TypeError, match=r"^seed must be a whole number, got 1.5$"):
        load_game("snake", seed=1.5)  # type: ignore[arg-type]


def test_numbers_are_whole() -> None:
    """Oracle: operator.index. A float is a TypeError of one line that changes nothing, numpy's integers are numbers."""
    state = load_game("tic_tac_toe").new_initial_state()
    with pytest.raises(TypeError, match=r"^action must be a whole number, got 3.9$"):
        state.apply_action(3.9)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^action must be a whole number, got 3.9$"):
        state.action_to_string(0, 3.9)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^player must be a whole number, got '0'$"):
        state.information_state_string("0")  # type: ignore[arg-type]
    assert state.history() == []
    state.apply_action(np.int32(3))
    assert state.history() == [3]
    together = load_game("snake").new_initial_state()
    with pytest.raises(TypeError, match=r"^actions must be a whole number, got 1.5$"):
        together.apply_actions([0, 1.5])  # type: ignore[list-item]
    assert together.is_initial_state()


def test_wrong_questions() -> None:
    """Oracle: a ValueError of one line that names what is wrong."""
    state = load_game("kuhn_poker").new_initial_state()
    with pytest.raises(ValueError, match="action 3 is illegal"):
        state.apply_action(3)
    with pytest.raises(ValueError, match="no player -1 to ask"):
        state.information_state_string()
    state.apply_action(0)
    state.apply_action(1)
    with pytest.raises(ValueError, match="no player 2 to ask"):
        state.observation_tensor(2)
    with pytest.raises(ValueError, match="has no information state tensor"):
        state.information_state_tensor(0)
    with pytest.raises(ValueError, match="'raise' is not an action"):
        state.string_to_action(r"\boxed{raise}")
    with pytest.raises(ValueError, match="did you mean 'tic_tac_toe'"):
        load_game("tictactoe")
