"""Conversations that only grow, rewards of turns, and what a player who gives up loses."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from selfplay_fast import games
from selfplay_fast.play import GameTable, InvalidRewards, play, play_games, self_play
from selfplay_fast.play.stakes import earned, staked
from selfplay_fast.policies import RandomPolicy
from selfplay_fast.policies.demonstrating import Demonstrator
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.records import Sampling

MINI = "hanabi(colors=2,ranks=2,hand=3,info_tokens=3)"
MARS = InvalidRewards(offender=-10.0, others=0.0, stake=True)


@pytest.mark.parametrize("name", ["tic_tac_toe", "kuhn_poker", "leduc_poker", MINI])
def test_contexts_only_grow_and_read_like_the_conversation(name, toy_policy):
    """Oracle: the tokenizer's own template over the whole conversation, which the decoded last context equals, and the
    game's messages, which are asked once each."""
    policy = Demonstrator(RandomPolicy(), toy_policy)
    table = GameTable(name, episodes=6, seed=3, style="mars", chat=True)
    for episode in play(self_play(policy), [table]):
        for role in episode.returns:
            turns = [turn for turn in episode.turns if turn.ask.role == role]
            before, messages = np.zeros(0, np.int32), []
            for turn in turns:
                assert (turn.reply.context[: len(before)] == before).all()
                before = turn.reply.context
                messages += [*turn.ask.append, {"role": "assistant", "content": turn.reply.text}]
            text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
            assert toy_policy.tokenizer.decode(before.tolist()) == text.removesuffix("\n")
            numbers = [int(n) for m in messages for n in re.findall(r"^Turn (\d+)\.", m["content"], re.M)]
            assert numbers == sorted(set(numbers))


def test_a_model_goes_on_from_its_own_tokens(toy_policy):
    """Oracle: the contexts of a language model's replies, token by token; a reply that is cut is closed first."""
    table = GameTable("tic_tac_toe", episodes=2, seed=0, chat=True, sampling=Sampling(max_tokens=5))
    first = table.asks()
    replies = toy_policy.generate(first)
    table.batch.step(np.array([0, 0]))
    assert all(ask.context is None for ask in first)
    for k, (ask, reply) in enumerate(zip(first, replies, strict=True)):
        (prompt,) = toy_policy.prompts([ask])
        assert (reply.context == np.concatenate([prompt, reply.tokens])).all(), k


def test_a_forced_prefix_begins_every_reply(toy_policy):
    """Oracle: the first characters of what was said, and the mask of what is trained."""
    options = {"chat": True, "forced_prefix": "so ", "sampling": Sampling(max_tokens=5)}
    table = GameTable("kuhn_poker", episodes=2, seed=0, **options)
    for reply in toy_policy.generate(table.asks()):
        assert reply.text.startswith("so ")
        assert not reply.train_mask[0]
        assert reply.train_mask[-1]


def scripted(*texts):
    """Says these texts one after the other, whoever is asked."""
    left = list(texts)
    return self_play(ScriptedPolicy(lambda ask, sample: left.pop(0)))


def test_points_go_to_the_turns_they_came_with_or_before():
    """Oracle: by hand from the game's own words. A point that one player scores also rewards the other's turn before,
    and what comes before a player's first turn rewards none of its turns."""
    rewarded = 0
    for seed in range(20):
        (episode,) = play_games(
            self_play(RandomPolicy()), games=[MINI], episodes=1, seed=seed, rewards="mars"
        )
        batch = games.make(MINI, 1, seed=0)
        events = []
        for turn in episode.turns[1:]:
            events.append("scored" in turn.ask.prompt_text.split("last move")[-1])
        want = [0.0] * len(episode.turns)
        for k, scored in enumerate(events):
            if scored:
                want[k] += 1
                if k > 0:
                    want[k - 1] += 1
        assert [turn.reward for turn in episode.turns[:-2]] == want[:-2], batch.name
        for player in range(2):
            own = [turn.reward for turn in episode.turns[player::2]]
            missed = 1.0 if player == 1 and events and events[0] else 0.0
            assert sum(own) == pytest.approx(episode.returns[f"player_{player}"] - missed)
        rewarded += sum(events)
    assert rewarded > 5


@pytest.mark.parametrize(
    ("name", "texts", "returns"),
    [
        ("tic_tac_toe", ["[0]", "[4]", "nine"], (-11.0, 0.0)),
        ("connect_four", ["[0]", "me"], (0.0, -11.0)),
        ("kuhn_poker", ["[bet]", "?"], (0.0, -11.0)),
        ("kuhn_poker", ["[check]", "[bet]", "?"], (-11.0, 0.0)),
        ("leduc_poker", ["[raise]", "[raise]", "?"], (-13.0, 0.0)),
        ("leduc_poker", ["[raise]", "[call]", "[call]", "?"], (0.0, -13.0)),
        ("leduc_poker", ["[call]", "[call]", "[raise]", "[raise]", "?"], (-15.0, 0.0)),
    ],
)
def test_whoever_is_refused_loses_its_stake_and_ten(name, texts, returns):
    """Oracle: the chips put in, counted by hand, or the game; the other player gets nothing."""
    (episode,) = play_games(scripted(*texts), games=[name], episodes=1, seed=1, invalid=MARS)
    assert tuple(episode.returns.values()) == returns
    assert [turn.reward for turn in episode.turns if turn.refusal] == [min(returns)]


def test_leduc_stakes_are_the_chips_that_the_game_shows():
    """Oracle: "Chips put in: you 3, the other 7" of style mars, at every turn of random play."""
    batch = games.make("leduc_poker", 200, seed=2, style="mars")
    seen = 0
    for step in range(8):
        for row in np.flatnonzero(~batch.terminated).tolist():
            own, other = map(
                int, re.search(r"you (\d+), the other (\d+)", batch.observation([row])[0]).groups()
            )
            player = int(batch.current_player[row])
            assert [staked(batch, row, player), staked(batch, row, 1 - player)] == [own, other]
            seen += own > 3
        batch.step(batch.sample_actions(step))
    assert seen > 20


def test_hanabi_takes_the_points_back():
    """Oracle: points so far for both, and for whoever is refused those less themselves, less ten."""
    table = GameTable(MINI, episodes=50, seed=0, invalid=MARS)
    random = RandomPolicy()
    for _ in range(4):
        table.answer(random.generate(table.asks()))
    points = {row: earned(table.batch, row) for row in np.flatnonzero(~table.batch.terminated).tolist()}
    asks = table.asks()
    offenders = [ask.role for ask in asks]
    table.finished()
    table.answer(ScriptedPolicy(lambda ask, sample: "pass").generate(asks))
    ended = table.finished()
    assert len(ended) == len(points) == len(offenders) > 20
    assert max(points.values()) > 1
    for episode, role in zip(ended, offenders, strict=True):
        other = "player_1" if role == "player_0" else "player_0"
        assert episode.returns == {role: -10.0, other: points[episode.index]}


def blind(batch, row):
    """Plays card 0 until one life is left, then discards it, or reveals something where that is not allowed."""
    lives = int(re.search(r" l(\d) ", batch.information_state(row, 0))[1])
    legal = np.flatnonzero(batch.legal_actions[row])
    wanted = ["play 0"] if lives > 1 else ["discard 0", "reveal"]
    return next(a for want in wanted for a in legal if want in batch.action_text(row, int(a)))


def test_scores_that_a_player_must_beat():
    """Oracle: means measured with MARS's own program, of random play and of a rule without memory, over a number of
    games that is not known: 1.46 and 2.14, here within 0.04."""
    random = games.make(MINI, 100_000, seed=1)
    random.random_playouts()
    assert random.returns[:, 0].mean() == pytest.approx(1.46, abs=0.04)
    rule = games.make(MINI, 6000, seed=1)
    while not rule.terminated.all():
        rows = np.flatnonzero(~rule.terminated)
        rule.step(np.array([blind(rule, row) for row in rows.tolist()]), rows=rows)
    assert rule.returns[:, 0].mean() == pytest.approx(2.14, abs=0.04)


def test_playing_every_card_unseen_is_worth_more():
    """Oracle: all orders of four of the eight cards: a game in which all turns are plays ends with the fourth, and a
    third misfire loses all; 2.3 exactly."""
    deck = ["R1", "R1", "R1", "R2", "Y1", "Y1", "Y1", "Y2"]

    def score(order):
        tops, lives = {"R": 0, "Y": 0}, 3
        for color, rank in order:
            if int(rank) == tops[color] + 1:
                tops[color] += 1
            else:
                lives -= 1
        return sum(tops.values()) if lives else 0

    orders = [[deck[place] for place in order] for order in itertools.permutations(range(8), 4)]
    exact = sum(map(score, orders)) / len(orders)
    assert exact == pytest.approx(2.3)
    batch = games.make(MINI, 100_000, seed=1)
    play = next(a for a in np.flatnonzero(batch.legal_actions[0]) if "play 0" in batch.action_text(0, int(a)))
    for _ in range(4):
        rows = np.flatnonzero(~batch.terminated)
        batch.step(np.full(len(rows), play), rows=rows)
    assert batch.terminated.all()
    assert batch.returns[:, 0].mean() == pytest.approx(exact, abs=0.01)


def test_no_chat_where_all_move_at_once():
    """Oracle: the documented ValueError; and one for stakes without a game."""
    with pytest.raises(ValueError, match="chat: in snake"):
        GameTable("snake", episodes=1, seed=0, chat=True)
    with pytest.raises(ValueError, match="stake=False"):
        MARS.returns(["a"], {"a"})
