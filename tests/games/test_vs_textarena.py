"""Oracle: peer. textarena 0.6.4, the release SPIRAL trained on, or 0.7.4, with the hidden state injected.

Compared are legality, turn order and rewards. Known differences, which the tests step around:
the Kuhn class of this release plays max_rounds - 2 rounds and calls every match a draw, so rounds are compared one by
one; its negotiation closes an open offer on any message that does not accept it and ignores idle answers and talk with
five goods, so such messages are not sent; and it calls Gold Ore. SimpleTak overlooks some paths, see there. Its liar's
dice refuses bids of a lower face, takes bids on more dice than there are or on none, and lets the other player begin
when the caller has lost a die, so such bids are not sent and the loser is put to move.

Release 0.7.4 pays 1 to the other player of an invalid move, finds all paths of SimpleTak and plays all rounds of Kuhn.
Its negotiation lasts a turn longer than it says and keeps a refused offer open, so it is told 9 turns and such offers
are closed; its pig counts rolls where its limit speaks of turns, so it is told the turns.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from importlib import metadata
from typing import Any
from unittest import mock

import numpy as np
import pytest
from scipy import ndimage

from selfplay_fast import games

pytest.importorskip("textarena", exc_type=ImportError, reason="comes with the extra 'test'")
from textarena.envs.ConnectFour.env import ConnectFourEnv
from textarena.envs.KuhnPoker.env import KuhnPokerEnv
from textarena.envs.LiarsDice.env import LiarsDiceEnv
from textarena.envs.Nim.env import NimEnv
from textarena.envs.PigDice.env import PigDiceEnv
from textarena.envs.SimpleNegotiation.env import SimpleNegotiationEnv
from textarena.envs.SimpleTak.env import SimpleTakEnv
from textarena.envs.TicTacToe.env import TicTacToeEnv

PeerGames = Callable[[int], int]
FIRST_RELEASE = metadata.version("textarena").startswith("0.6.")


def _begin(env: Any) -> None:
    env.reset(num_players=2)
    env.state.error_allowance = 0  # as SPIRAL sets it: the first invalid move ends the game


def _is_invalid(env: Any, offender: int) -> bool:
    """Did the last move of offender end the game because it was none? Then the rewards say so too."""
    if FIRST_RELEASE:
        invalid = "Invalid" in env.state.info.get("reason", "")
    else:
        invalid = env.state.game_info[offender]["invalid_move"]
    assert not invalid or env.state.rewards == {offender: -1, 1 - offender: 0 if FIRST_RELEASE else 1}
    return bool(invalid)


def _check_turn(env: Any, batch: games.Batch, message: str) -> bool:
    """Give both sides a message: same verdict, same next player or same end. True while the game goes on."""
    offender = env.state.current_player_id
    assert batch.current_player[0] == offender
    reply = message if "[" in message else f"\\boxed{{{message}}}"  # talk alone has to be boxed for us
    actions, why = batch.parse([reply])
    done, _ = env.step(message)
    if done and _is_invalid(env, offender):
        assert actions[0] == games.INVALID, message
        return False
    assert actions[0] >= 0, (message, why)
    batch.step(actions, texts=[reply])
    assert bool(batch.terminated[0]) == done
    if done:
        assert batch.returns[0].tolist() == [env.state.rewards[0], env.state.rewards[1]]
    return not done


def test_tic_tac_toe() -> None:
    """Oracle: peer textarena. A thousand random games with one illegal or unreadable move in twenty."""
    rng = random.Random(1)
    batch = games.make("tic_tac_toe", 1)
    ends = []
    for _ in range(1000):
        env = TicTacToeEnv()
        _begin(env)
        batch.reset()
        free = list(range(9))
        while True:
            move = free.pop(rng.randrange(len(free))) if rng.random() < 0.95 else rng.randrange(12)
            spelled = rng.choice(
                ["[{}]", "[ {} ]", "I mark [{}] now", "no idea {} ..."][: 3 if rng.random() < 0.9 else 4]
            )
            if not _check_turn(env, batch, spelled.format(move)):
                break
            free = [cell for cell in free if batch.legal_actions[0, cell]]
        ends.append((bool(batch.terminated[0]), *batch.returns[0].tolist()))
    assert {(True, 1.0, -1.0), (True, -1.0, 1.0), (True, 0.0, 0.0), (False, 0.0, 0.0)} == set(ends)


def test_connect_four(peer_games: PeerGames) -> None:
    """Oracle: peer textarena. Random games with a full, missing or unreadable column in twenty-five."""
    rng = random.Random(4)
    batch = games.make("connect_four", 1)
    ends = []
    for _ in range(peer_games(400)):
        env = ConnectFourEnv()
        _begin(env)
        batch.reset()
        favourite = rng.randrange(7)  # some games fill a column
        running = True
        while running:
            column = favourite if rng.random() < 0.3 else rng.randrange(7)
            wrong = rng.random() < 0.04
            if not wrong and not batch.legal_actions[0, column]:
                continue
            spelled = rng.choice(["[{}]", "[col {}]", "[COL {}]", "not [3] but [col {}]"])
            message = rng.choice(["[9]", "[column]", "let me think"]) if wrong else spelled.format(column)
            if wrong and not batch.legal_actions[0].all():
                message = f"[{int(np.flatnonzero(~batch.legal_actions[0])[0])}]"
            running = _check_turn(env, batch, message)
        ends.append((bool(batch.terminated[0]), *batch.returns[0].tolist()))
    assert {(True, 1.0, -1.0), (True, -1.0, 1.0), (False, 0.0, 0.0)} <= set(ends)


@pytest.mark.parametrize("piles", ["3;4;5", "1;2;3", "5;7;9", "1;3;5;7"])
def test_nim(piles: str, peer_games: PeerGames) -> None:
    """Oracle: peer textarena. Random games with one move in twenty that no pile allows or nobody can read."""
    rng = random.Random(5)
    batch = games.make("nim", 1, piles=piles)
    ends = []
    for _ in range(peer_games(400)):
        env = NimEnv([int(n) for n in piles.split(";")])
        _begin(env)
        theirs = env.piles if FIRST_RELEASE else env.state.game_state["piles"]
        batch.reset()
        running = True
        while running:
            wrong = rng.random() < 0.05
            pile = rng.randrange(len(theirs) + wrong)
            left = theirs[pile] if pile < len(theirs) else 1
            if not wrong and left == 0:
                continue
            take = rng.choice([0, left + 1, 77]) if wrong else rng.randint(1, left)
            spelled = rng.choice(["[{} {}]", "[ {} {} ]", "I say [{}  {}]."])
            running = _check_turn(env, batch, spelled.format(pile, take))
            if running or batch.terminated[0]:
                shown = batch.information_state(0, 0).split(": ")[1]
                assert [int(n) for n in shown.split()] == theirs
        ends.append((bool(batch.terminated[0]), *batch.returns[0].tolist()))
    assert {(True, 1.0, -1.0), (True, -1.0, 1.0), (False, 0.0, 0.0)} == set(ends)


def _has_path(board: list[list[str]], mark: str) -> bool:
    """Do the marks connect two opposite edges?"""
    labels, groups = ndimage.label(np.array(board) == mark)
    edges = [(labels[0], labels[-1]), (labels[:, 0], labels[:, -1])]
    return any(set(a.tolist()) & set(b.tolist()) - {0} for a, b in edges) if groups else False


@pytest.mark.parametrize("size", [4, 5, 6])
def test_simple_tak(size: int, peer_games: PeerGames) -> None:
    """Oracle: peer textarena, and connected components of scipy where it is wrong.

    The search of release 0.6.4 keeps the edges met on one branch only, so it overlooks paths whose first cell, by rows,
    lies between the edges. Such a game goes on there and is over here.
    """
    rng = random.Random(6)
    batch = games.make("simple_tak", 1, size=size)
    overlooked, ends = 0, []
    for _ in range(peer_games(300)):
        env = SimpleTakEnv(board_size=size)
        _begin(env)
        batch.reset()
        free = list(range(size * size))
        rng.shuffle(free)
        running = True
        while running:
            player = env.state.current_player_id
            cell = free.pop() if rng.random() < 0.98 else rng.randrange(size * size + 3)
            board = [list(row) for row in env.state.game_state["board"]]
            if cell < size * size and board[cell // size][cell % size] == "":
                board[cell // size][cell % size] = "OX"[player]
                if _has_path(board, "OX"[player]):
                    theirs, _ = env.step(f"[{cell}]")
                    overlooked += not theirs
                    batch.step(batch.parse([f"[{cell}]"])[0])
                    assert batch.terminated[0]
                    assert batch.returns[0, player] == 1
                    break
            running = _check_turn(env, batch, rng.choice(["[{}]", "[ {} ]", "[{}] blocks"]).format(cell))
            free = [cell for cell in free if batch.legal_actions[0, cell]]
        ends.append((bool(batch.terminated[0]), *batch.returns[0].tolist()))
    assert {(True, 1.0, -1.0), (True, -1.0, 1.0), (False, 0.0, 0.0)} <= set(ends)
    assert 0 < overlooked < len(ends) / 2 if FIRST_RELEASE else overlooked == 0


def test_kuhn_poker_rounds() -> None:
    """Oracle: peer textarena. Five-round matches: who moves, what is allowed, who wins every round, what it pays."""
    rng = random.Random(2)
    batch = games.make("kuhn_poker(rounds=5, rules=textarena)", 1, chance="explicit")
    for _ in range(500):
        env = KuhnPokerEnv(max_rounds=7)
        _begin(env)
        batch.reset()
        results: list[int] = []  # of player 0
        for _round in range(5):
            state = env.state.game_state
            before = state["player_chips"][0]  # the ante is in
            batch.step([state["player_cards"][0]])
            batch.step([state["player_cards"][1]])
            started = state["current_round"]
            while state["current_round"] == started:
                assert batch.current_player[0] == env.state.current_player_id
                told = [int(chips) for chips in re.findall(r": ([+-]\d+)\.", batch.observation()[0])]
                assert told == [chips if batch.current_player[0] == 0 else -chips for chips in results]
                legal = [batch.action_text(0, action)[1:-1] for action in (0, 1)]
                theirs = state["current_legal_action_tree"]
                assert sorted(legal) == sorted(theirs)
                for word in {"check", "bet", "fold", "call"} - set(theirs):
                    assert batch.parse([f"[{word}]"])[0][0] == games.INVALID
                word = rng.choice(legal)
                actions, _ = batch.parse([f"I [{word.title()}]"])
                env.step(f"[{word}]")
                batch.step(actions)
            env.state.current_player_id = state["starting_player"]
            results.append(state["player_chips"][0] - before)  # the ante of the next round is in again
            assert results[-1] in (1, -1), "whatever was bet"
        assert batch.terminated[0]
        assert batch.returns[0].tolist() == [results[-1], -results[-1]]


def _goods(rng: random.Random, names: list[str]) -> str:
    chosen = rng.sample(names, rng.choice([1, 1, 1, 2]))
    items = [
        f"{rng.choice([1, 1, 2, 3, 5, 9])} {rng.choice([name, name.lower(), name.upper()])}"
        for name in chosen
    ]
    return rng.choice([", ", " and ", " , "]).join(items)


def _message(rng: random.Random, names: list[str], is_open: bool, may_idle: bool) -> str:
    give = want = names
    if len(names) == 8:  # there a good may stand on both sides of an offer
        mixed = rng.sample(names, 8)
        give, want = mixed[:4], mixed[4:]
    answers = ["[Accept]", "[deny]", "[ACCEPT]", "I [Accept] gladly."]
    offer = (
        f"[{rng.choice(['Offer', 'offer'])}: {rng.choice(['', 'I give ', 'I offer '])}{_goods(rng, give)} -> "
    )
    offer += f"{_goods(rng, want)}{rng.choice(['', '', '.', '!'])}]"
    if rng.random() < 0.03:
        offer = rng.choice(
            [
                "[Offer: 2 Wood]",
                "[Offer: Wood -> Gold]",
                "[Offer: 0 Wood -> 1 Gold]",
                "[Offer: 1 Wood -> 1 Gold -> 1 Wood]",
                "[Offer: 1 Wood => 1 Gold]",
                "[Offer: 1 Oil -> 1 Gold]",
                "[Offer: two Wood -> 1 Gold]",
                "[Offer: ->]",
            ]
        )
    if is_open:
        return rng.choice([rng.choice(answers), offer, f"{rng.choice(answers)} {offer}"])
    return rng.choice([offer, offer, *(["Let us talk.", "[Deny]", "[Accept]"] if may_idle else [])])


@pytest.mark.parametrize("resources", [2, 5, 8])
def test_negotiation(resources: int) -> None:
    """Oracle: peer textarena. Random messages, valid and not; goods are compared after every one of them."""
    rng = random.Random(3)
    base = dict(zip(["Wheat", "Wood", "Sheep", "Brick", "Gold"], [5, 10, 15, 25, 40], strict=True))
    if resources == 8:  # its rules know no number of goods
        base = {
            "Wheat": 5,
            "Fish": 8,
            "Wood": 10,
            "Sheep": 15,
            "Stone": 20,
            "Brick": 25,
            "Silver": 30,
            "Gold": 40,
        }
    names = ["Wood", "Gold"] if resources == 2 else list(base)
    ends = []
    for _ in range(1500):
        env = SimpleNegotiationEnv() if FIRST_RELEASE else SimpleNegotiationEnv(max_turns=9)
        env.resource_names = names
        env.base_values = {name: base[name] for name in names}
        _begin(env)
        state = env.state.game_state
        batch = games.make("negotiation", 1, resources=resources, chance="explicit")
        if resources == 2:
            state["player_resources"] = {p: {name: 10 for name in names} for p in (0, 1)}
            state["player_values"] = {0: {"Wood": 5, "Gold": 15}, 1: {"Wood": 15, "Gold": 5}}
            for p in (0, 1):
                worth = env._calculate_player_inventory_value(p, state)
                state["inventory_value"][p] = {"initial": worth, "current": worth, "change": 0}
        else:
            for table in ("player_resources", "player_values"):
                for p in (0, 1):
                    for name in names:
                        batch.step([state[table][p][name]])
        running = True
        while running:
            message = _message(rng, names, state["current_offer"] is not None, resources == 2)
            offer = state["current_offer"]
            running = _check_turn(env, batch, message)
            if state["current_offer"] is offer:
                state["current_offer"] = None  # refused
            if running:
                for p in (0, 1):
                    held = [
                        int(part.split("x")[0])
                        for part in batch.information_state(0, p).split(";")[0].split(",")
                    ]
                    assert held == [state["player_resources"][p][name] for name in names]
        ends.append((bool(batch.terminated[0]), *batch.returns[0].tolist()))
    assert {(True, 1.0, -1.0), (True, -1.0, 1.0), (True, 0.0, 0.0), (False, 0.0, 0.0)} == set(ends)


def test_five_goods_are_drawn_from_the_same_ranges() -> None:
    """Oracle: peer textarena. Over many deals both reach the same smallest and largest amounts and values."""
    batch = games.make("negotiation(resources=5)", 4000, seed=8)
    ours = np.array([batch.history(row) for row in range(len(batch))])
    theirs = []
    for _ in range(1000):
        env = SimpleNegotiationEnv()
        _begin(env)
        state = env.state.game_state
        tables = [state[table][p] for table in ("player_resources", "player_values") for p in (0, 1)]
        theirs.append([table[name] for table in tables for name in env.resource_names])
    assert ours.min(axis=0).tolist() == np.min(theirs, axis=0).tolist()
    assert ours.max(axis=0).tolist() == np.max(theirs, axis=0).tolist()


def _bid(rng: random.Random, batch: games.Batch, last: dict[str, int]) -> str:
    """A bid or a call of ours that their rules know too, or in one of twenty-five cases what both refuse."""
    if rng.random() < 0.04:
        again = f"[Bid: {last['quantity']}, {last['face_value']}]" if last["quantity"] else "[Call]"
        return rng.choice(["[Bid: 1, 7]", "[Bid three fours]", "nothing", again])
    legal = np.flatnonzero(batch.legal_actions[0])
    bids = [a for a in legal if a < 60 and a % 6 + 1 >= last["face_value"]]
    if 60 in legal and (not bids or rng.random() < 0.3):
        return rng.choice(["[Call]", "I [call] that"])
    bid = int(rng.choice(bids[:12]))
    return rng.choice(["[Bid: {}, {}]", "so [bid {} {}]", "[BID:{},{}]"]).format(bid // 6 + 1, bid % 6 + 1)


def test_liars_dice() -> None:
    """Oracle: peer textarena. Matches with their dice: what is allowed, who loses a die, who wins."""
    rng = random.Random(4)
    batch = games.make("liars_dice(rules=textarena)", 1, chance="explicit")
    ends = []
    for _ in range(500):
        env = LiarsDiceEnv(num_dice=5)
        _begin(env)
        state = env.state.game_state
        batch.reset()
        running = True
        while running:
            left = [state["remaining_dice"][p] for p in (0, 1)]
            for player in (0, 1):
                for die in state["dice_rolls"][player]:
                    batch.step([die - 1])
            while running and [state["remaining_dice"][p] for p in (0, 1)] == left:
                running = _check_turn(env, batch, _bid(rng, batch, state["current_bid"]))
            if running:
                lost = [before - state["remaining_dice"][p] for p, before in enumerate(left)]
                env.state.current_player_id = lost.index(1)
        ends.append((bool(batch.terminated[0]), *batch.returns[0].tolist()))
    assert {(True, 1.0, -1.0), (True, -1.0, 1.0), (False, 0.0, 0.0)} == set(ends)


@pytest.mark.parametrize(("target", "horizon"), [(50, 50), (20, 10), (100, 7)])
def test_pig(target: int, horizon: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: peer textarena. Games with the same dice: turns, scores, the turn limit, who wins."""
    rng = random.Random(5)
    die = 0
    their_die = mock.Mock(randint=lambda low, high: die)
    monkeypatch.setattr("textarena.envs.PigDice.env.random", their_die)
    batch = games.make(
        "pig(rules=textarena)", 1, target=target, horizon=horizon, chance="explicit", style="brief"
    )
    ends = []
    for _ in range(150):
        env = PigDiceEnv(winning_score=target, max_turns=horizon)
        _begin(env)
        state = env.state.game_state
        batch.reset()
        rolls = rng.choice([0.5, 0.8, 0.95])
        turns, running = 0, True
        while running:
            player = env.state.current_player_id
            words = batch.observation()[0].split()
            told = [int(words[words.index(word) + 1]) for word in ("score", "other", "points", "turn")]
            scores = state["scores"]
            assert told == [scores[player], scores[1 - player], state["turn_total"], turns + 1]
            roll = rng.random() < rolls
            message = rng.choice(["[Roll]", "I [roll]"] if roll else ["[hold]", "[HOLD] it is"])
            if rng.random() < 0.005:
                message = rng.choice(["[double]", "no", "[]"])
            die = rng.randint(1, 6)
            if not FIRST_RELEASE:
                env.state.turn = turns + 1
            done, _ = env.step(message)
            turns += env.state.current_player_id != player
            actions, why = batch.parse([message])
            if done and _is_invalid(env, player):
                assert actions[0] == games.INVALID
                break
            assert why == [None]
            assert batch.current_player[0] == player
            batch.step(actions)
            if actions[0] == 0:
                batch.step([die - 1])
            running = not done
            assert bool(batch.terminated[0]) == done
            if done:
                assert batch.returns[0].tolist() == [env.state.rewards[0], env.state.rewards[1]]
            else:
                assert batch.current_player[0] == env.state.current_player_id
        ends.append((bool(batch.terminated[0]), *batch.returns[0].tolist()))
    assert {(True, 1.0, -1.0), (True, -1.0, 1.0)} <= set(ends)
    assert ((True, 0.0, 0.0) in ends) == (horizon < 50)
