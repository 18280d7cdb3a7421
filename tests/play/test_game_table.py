"""Oracles: the engine itself replayed one game at a time, exact values, and what the docstrings promise."""

import hashlib

import numpy as np
import pytest

from selfplay_fast import games, solvers
from selfplay_fast.play import GameTable, InvalidRewards, play, play_games, self_play
from selfplay_fast.policies import RandomPolicy, ScriptedPolicy, SearchPlayer, TabularPlayer
from selfplay_fast.policies.demonstrating import Demonstrator
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Reply, episode_to_json

GAMES = ["kuhn_poker", "kuhn_poker(rounds=5)", "tic_tac_toe", "negotiation", "negotiation(resources=5)"]
GAMES += ["connect_four", "nim", "truth_and_deception"]
# Kuhn's equilibrium in which the jack never bluffs: how often a chip goes in, by information state.
BETS = {"0": 0, "1": 0, "2": 0, "0pb": 0, "1pb": 1 / 3, "2pb": 1}
BETS |= {"0p": 1 / 3, "1p": 0, "2p": 1, "0b": 0, "1b": 1 / 3, "2b": 1}
EQUILIBRIUM = {key: np.array([1 - bet, bet]) for key, bet in BETS.items()}


def talk(ask, sample):
    """A legal move chosen by the ask's key, with a remark; said aloud where there is speech."""
    batch, row = ask.seat.batch, ask.seat.row
    draw = int(hashlib.sha256(f"{ask.key}|{sample}".encode()).hexdigest()[:8], 16)
    legal = np.flatnonzero(batch.legal_actions[row])
    reply = batch.reply_text(row, int(legal[draw % len(legal)]))
    spoken = f"Remark {draw % 100}. " if batch.description.speech else ""
    return "Let me see. " + reply.replace("\\boxed{", f"\\boxed{{{spoken}")


class Counting(ScriptedPolicy):
    """Keeps the roles of every call."""

    def __init__(self, reply=talk):
        super().__init__(reply)
        self.calls = []

    def generate(self, asks):
        self.calls.append([ask.role for ask in asks])
        return super().generate(asks)


def plain(episodes):
    """All that was read, said and won, as values that can be compared."""
    return [
        (
            e.game,
            e.index,
            e.seed,
            e.group,
            [(t.ask.role, t.ask.key, t.ask.prompt_text, t.reply.text, t.action, t.reward) for t in e.turns],
            dict(e.returns),
        )
        for e in episodes
    ]


def of_player_0(episodes):
    """Returns of player 0, [episodes]."""
    return np.array([e.returns["player_0"] for e in episodes])


@pytest.mark.parametrize("repeat", [1, 4])
@pytest.mark.parametrize("game", GAMES)
def test_recorded_games_replay(game, repeat):
    """Oracle: a fresh batch of the same seed, one row after the other.

    The recorded actions give the same observations, players to move, action texts, talk and returns.
    """
    episodes = play(self_play(Counting()), [GameTable(game, episodes=20, seed=11, repeat=repeat)])
    assert [e.index for e in episodes] == list(range(20))
    batch = games.make(game, 20, seed=11)
    if repeat > 1:
        batch.reset(repeat=repeat)
    for episode in reversed(episodes):
        row = episode.index
        for turn in episode.turns:
            assert turn.ask.role == f"player_{batch.current_player[row]}"
            assert turn.ask.append == [{"role": "user", "content": batch.observation([row])[0]}]
            assert turn.action_text == batch.action_text(row, turn.action)
            assert turn.refusal is None
            batch.step([turn.action], rows=[row], texts=[turn.reply.text])
        assert batch.terminated[row]
        assert list(episode.returns.values()) == batch.returns[row].tolist()
        assert episode.game == game
        assert episode.options == games.describe(game).options
    if games.describe(game).speech:
        assert any("Remark" in turn.ask.prompt_text for e in episodes for turn in e.turns)


@pytest.mark.parametrize("game", GAMES)
def test_rewards_go_to_last_turns(game):
    """Oracle: contract. A role's rewards are its return at its last turn and 0 before."""
    for episode in play(self_play(Counting()), [GameTable(game, episodes=10, seed=2)]):
        for role, final in episode.returns.items():
            rewards = [turn.reward for turn in episode.turns if turn.ask.role == role]
            assert rewards == [0.0] * (len(rewards) - 1) + [final]


@pytest.mark.parametrize("invalid", [None, InvalidRewards(offender=-1.0, others=1.0)])
@pytest.mark.parametrize("bad_turn", [0, 1, 4])
def test_garbage_ends_the_game(bad_turn, invalid):
    """Oracle: contract, and the same games without garbage.

    Odd games speak garbage at one turn: what came before is as it was, the turn is recorded with why it was
    refused, the offender gets -1.5 (or as told) and the other player 0.5. Even games do not notice.
    """
    offended, other = (invalid.offender, invalid.others) if invalid else (-1.5, 0.5)

    def garbage(ask, sample):
        if ask.key.turn == bad_turn and ask.key.episode % 2:
            return "my move is \\boxed{\xff}{{ \x00"
        return talk(ask, sample)

    tables = [GameTable("tic_tac_toe", episodes=12, seed=5, invalid=invalid) for _ in range(2)]
    bad, good = play(self_play(ScriptedPolicy(garbage)), tables[:1]), play(self_play(Counting()), tables[1:])
    assert plain(bad)[::2] == plain(good)[::2]
    for with_garbage, without in zip(bad[1::2], good[1::2], strict=True):
        *before, last = with_garbage.turns
        assert [t.reply.text for t in before] == [t.reply.text for t in without.turns[:bad_turn]]
        assert (last.action, last.action_text) == (None, None)
        assert "is not an action" in last.refusal
        offender, opponent = last.ask.role, f"player_{(bad_turn + 1) % 2}"
        assert offender == f"player_{bad_turn % 2}"
        assert with_garbage.returns == {offender: offended, opponent: other}
        assert last.reward == offended
        assert [t.reward for t in before] == [0.0] * (bad_turn - 1) + [other] * (bad_turn > 0)
        assert with_garbage.legal_rate == bad_turn / (bad_turn + 1)


def test_all_may_forfeit():
    """Oracle: contract. A reply that never came is refused, whatever its text says."""

    class Silent(ScriptedPolicy):
        def generate(self, asks):
            return [Reply(text="\\boxed{bet}", finish_reason="forfeit") for _ in asks]

    episodes = play(self_play(Silent(talk)), [GameTable("kuhn_poker", episodes=5, seed=0)])
    assert [[t.refusal for t in e.turns] for e in episodes] == [["no reply"]] * 5
    assert [dict(e.returns) for e in episodes] == [{"player_0": -1.5, "player_1": 0.5}] * 5


class Thinker:
    """Says "SECRET" and a move in its reasoning, and another move to the others; at ``cut`` turns it never ends."""

    def __init__(self, opened=False, cut=()):
        self.opened, self.cut = opened, cut

    def generate(self, asks):
        return [self.reply(ask, talk(ask, 0)) for ask in asks]

    def reply(self, ask, answer):
        before = ("" if self.opened else "<think>") + "SECRET \\boxed{SECRET}"
        if ask.key.turn in self.cut:
            return Reply(
                text=before + answer, hidden=len(before + answer), unclosed=True, finish_reason="length"
            )
        return Reply(text=f"{before}</think>{answer}", hidden=len(f"{before}</think>"))


@pytest.mark.parametrize("game", ["negotiation", "truth_and_deception", "tic_tac_toe"])
def test_reasoning_is_neither_played_nor_told(game):
    """Oracle: the same games of a policy that says the public parts alone; no prompt holds a word of the rest."""
    thinking, plainly = (
        play(self_play(policy), [GameTable(game, episodes=6, seed=4)]) for policy in (Thinker(), Counting())
    )
    for one, other in zip(thinking, plainly, strict=True):
        assert [t.ask.prompt_text for t in one.turns] == [t.ask.prompt_text for t in other.turns]
        assert [t.reply.public for t in one.turns] == [t.reply.text for t in other.turns]
        assert one.returns == other.returns
        assert not any("SECRET" in t.ask.prompt_text for t in one.turns)
        shown = episode_to_json(one)["turns"]
        assert all("SECRET" in turn["reasoning"] and "SECRET" not in turn["reply"] for turn in shown)


def test_reasoning_that_does_not_end_is_refused():
    """Oracle: contract. The move that it mentions is not played; the reason of the end stays as it was."""
    for episode in play(self_play(Thinker(cut={1})), [GameTable("tic_tac_toe", episodes=3, seed=0)]):
        assert [t.refusal for t in episode.turns] == [None, "the reasoning does not end"]
        assert episode.turns[1].reply.finish_reason == "length"
        assert episode.returns == {"player_1": -1.5, "player_0": 0.5}


@pytest.mark.parametrize("opened", [False, True])
def test_a_format_with_reasoning_is_read_whole(opened):
    """Oracle: the engine's reader of MARS's format, which wants the reasoning, on the reply as it was meant."""

    class Mars(Thinker):
        def reply(self, ask, answer):
            move = ask.seat.batch.action_text(ask.seat.row, 0)
            return super().reply(ask, f"<answer>{move}</answer>")

    table = GameTable("kuhn_poker", episodes=2, seed=0, style="mars", parse_mode="strict")
    for episode in play(self_play(Mars(opened)), [table]):
        assert [t.refusal for t in episode.turns] == [None] * len(episode.turns)


def test_parse_modes():
    """Oracle: the engine's own readers. Lenient accepts a bare last line, strict wants the action alone."""
    for mode in ("lenient", "strict"):
        table = GameTable("kuhn_poker", episodes=1, seed=0, parse_mode=mode)
        first = play(self_play(ScriptedPolicy(lambda *_: "I have nothing to lose here: check")), [table])[0]
        assert (first.turns[0].refusal is None) == (mode == "lenient")


@pytest.mark.parametrize("mode", ["lenient", "strict"])
@pytest.mark.parametrize("style", ["spiral", "brief", "plain", "mars"])
@pytest.mark.parametrize("player", ["random", "table", "search", "shown"])
def test_whoever_plays_without_words_is_never_refused(player, style, mode, toy_policy):
    """Oracle: games played to their end, whatever format the reader of replies wants of a language model."""
    random = RandomPolicy()
    players = {
        "random": random,
        "table": TabularPlayer(solvers.TabularPolicy.uniform("kuhn_poker")),
        "search": SearchPlayer("ismcts", simulations=4),
        "shown": Demonstrator(random, toy_policy),
    }
    table = GameTable("kuhn_poker", episodes=4, seed=0, style=style, parse_mode=mode)
    episodes = play(self_play(players[player]), [table])
    assert {turn.refusal for episode in episodes for turn in episode.turns} == {None}
    assert all(set(map(abs, episode.returns.values())) <= {1.0, 2.0} for episode in episodes)


def test_one_call_for_games_at_any_turn():
    """Oracle: counts. Two tables make as many calls as their longest game has turns, each with all that is open.

    Matches of five hands get out of step, so that both players' turns stand in one call.
    """
    policy = Counting()
    tables = [
        GameTable("kuhn_poker(rounds=5)", episodes=30, seed=1),
        GameTable("tic_tac_toe", episodes=30, seed=1),
    ]
    lengths = [len(e.turns) for e in play(self_play(policy), tables)]
    assert [len(roles) for roles in policy.calls] == [
        sum(n > k for n in lengths) for k in range(max(lengths))
    ]
    assert sum(len(set(roles)) == 2 for roles in policy.calls) > 5


def test_each_seat_asks_its_own_policy():
    """Oracle: counts. Each policy is called at most once a round, with its own role's asks alone."""
    first, second = Counting(), Counting()
    episodes = play_games(
        {"player_0": first, "player_1": second}, games=["kuhn_poker(rounds=5)"], episodes=20, seed=4
    )
    for role, policy in (("player_0", first), ("player_1", second)):
        asked = [said for call in policy.calls for said in call]
        assert asked == [role] * sum(t.ask.role == role for e in episodes for t in e.turns)
        assert len(policy.calls) <= max(len(e.turns) for e in episodes)


def test_games_last_as_long_as_they_last():
    """Oracle: the rules of pig: somebody reaches the target, long after 50 turns."""
    (episode,) = play(self_play(Counting()), [GameTable("pig", episodes=1, seed=0)])
    assert len(episode.turns) > 50
    assert sorted(episode.returns.values()) == [-1.0, 1.0]


@pytest.mark.parametrize(("game", "limit"), [("kuhn_poker", 2), ("tic_tac_toe", 6), ("negotiation", 1)])
def test_max_turns(game, limit):
    """Oracle: the same games without a limit. Longer ones stop at the limit with 0 for all, others are as before."""
    tables = [GameTable(game, episodes=40, seed=8, max_turns=turns) for turns in (limit, 50)]
    short, full = (play(self_play(Counting()), [table]) for table in tables)
    cut = 0
    for stopped, whole in zip(short, full, strict=True):
        if len(whole.turns) <= limit:
            assert plain([stopped]) == plain([whole])
            continue
        cut += 1
        assert [t.reply.text for t in stopped.turns] == [t.reply.text for t in whole.turns[:limit]]
        assert dict(stopped.returns) == {"player_0": 0.0, "player_1": 0.0}
        assert all(t.refusal is None and t.reward == 0 for t in stopped.turns)
    assert cut > 0
    assert cut < 40 or game == "negotiation"


def test_repeat_shares_the_deal():
    """Oracle: contract. The games of a group open with one text, groups with others, and players draw afresh."""
    table = GameTable("negotiation(resources=5)", episodes=24, seed=6, repeat=4)
    episodes = play(self_play(RandomPolicy()), [table])
    assert [e.group for e in episodes] == [i // 4 for i in range(24)]
    openings = [e.turns[0].ask.prompt_text for e in episodes]
    assert all(openings[i] == openings[i - i % 4] for i in range(24))
    assert len(set(openings)) == 6
    for g in range(6):
        assert len({tuple(t.reply.text for t in e.turns) for e in episodes[4 * g : 4 * g + 4]}) == 4
    values = {batch_values(e) for e in episodes}
    assert len(values) == 6, "the hidden goods of the second player are shared too"


def batch_values(episode):
    """What the second player sees of its goods before anything is traded."""
    text = episode.turns[1].ask.prompt_text
    return text[text.index("You own") : text.index("\n", text.index("You own"))]


@pytest.mark.parametrize("game", GAMES)
def test_other_games_do_not_matter(game):
    """Oracle: the table played alone. Neighbours, their order and further rows change nothing."""

    def table(episodes=12):
        return GameTable(game, episodes=episodes, seed=21)

    others = [GameTable("kuhn_poker", episodes=7, seed=3), GameTable("tic_tac_toe", episodes=9, seed=21)]
    alone = plain(play(self_play(RandomPolicy()), [table()]))
    assert plain(play(self_play(RandomPolicy()), [others[0], table(), others[1]]))[7:19] == alone
    assert plain(play(self_play(RandomPolicy()), [table(30)]))[:12] == alone
    two = {"player_0": RandomPolicy(), "player_1": RandomPolicy()}
    assert plain(play(two, [table()])) == alone
    assert plain(play(two, [GameTable(game, episodes=12, seed=22)])) != alone


def test_play_games_spreads_episodes():
    """Oracle: contract. Seven over three games are 3, 2, 2; the first game is that of a call for it alone."""
    names = ["kuhn_poker", "tic_tac_toe", "kuhn_poker"]
    episodes = play_games(self_play(RandomPolicy()), games=names, episodes=7, seed=9)
    assert [(e.game, e.index) for e in episodes] == [
        (name, i) for name, count in zip(names, (3, 2, 2), strict=True) for i in range(count)
    ]
    alone = play_games(self_play(RandomPolicy()), games=names[:1], episodes=3, seed=9)
    assert plain(episodes[:3]) == plain(alone)
    assert {e.seed for e in episodes} == {derive_seed(9, g) for g in range(3)}


def test_uniform_play_has_its_exact_value():
    """Oracle: solvers.policy_value, within five standard errors."""
    won = of_player_0(play_games(self_play(RandomPolicy()), games=["kuhn_poker"], episodes=6000, seed=1))
    exact = solvers.policy_value("kuhn_poker", solvers.TabularPolicy.uniform("kuhn_poker"))[0]
    assert exact == pytest.approx(1 / 8)
    assert abs(won.mean() - exact) < 5 * won.std() / np.sqrt(len(won))


@pytest.mark.parametrize(("seat", "value"), [(0, 1 / 18), (1, 1 / 6)])
def test_equilibrium_against_uniform_play(seat, value):
    """Oracle: the value worked out by hand, and solvers.policy_value; within five standard errors."""
    assert solvers.nash_conv("kuhn_poker", EQUILIBRIUM) == pytest.approx(0, abs=1e-12)
    uniform = solvers.TabularPolicy.uniform("kuhn_poker")
    states = solvers.information_states("kuhn_poker")
    mixed = {s.key: (EQUILIBRIUM if s.player == seat else uniform)[s.key] for s in states}
    assert solvers.policy_value("kuhn_poker", mixed)[seat] == pytest.approx(value)
    cast = {f"player_{seat}": TabularPlayer(EQUILIBRIUM), f"player_{1 - seat}": RandomPolicy()}
    won = of_player_0(play_games(cast, games=["kuhn_poker"], episodes=6000, seed=2)) * (1 - 2 * seat)
    assert abs(won.mean() - value) < 5 * won.std() / np.sqrt(len(won))


def test_episodes_are_handed_out_once():
    """Oracle: contract. An ended table has no asks, and its episodes come once."""
    table = GameTable("kuhn_poker", episodes=4, seed=0)
    policy = Counting()
    seen = []
    while asks := table.asks():
        table.answer(policy.generate(asks))
        seen += table.finished()
    assert sorted(e.index for e in seen) == [0, 1, 2, 3]
    assert (list(table.asks()), list(table.finished())) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "^episodes: must be at least 1, got 0$"),
        ({"repeat": 3}, "^repeat: must divide episodes=4, got 3$"),
        ({"repeat": 0}, "^repeat: must divide episodes=4, got 0$"),
        ({"max_turns": 0}, "^max_turns: must be at least 1, got 0$"),
        ({"parse_mode": "kind"}, "^parse_mode: must be 'lenient' or 'strict', got 'kind'$"),
        ({"name": "kun_poker"}, "^unknown game 'kun_poker'; did you mean 'kuhn_poker'"),
        ({"round": 5}, "^kuhn_poker has no option 'round'; did you mean 'rounds'"),
        ({"style": "loud"}, "^style must be"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    """Oracle: contract. One line, naming the argument."""
    with pytest.raises(ValueError, match=message):
        GameTable(**{"name": "kuhn_poker", "episodes": 4, "seed": 0} | arguments)


def test_bad_calls_of_play_games_are_named():
    """Oracle: contract. No game, too few episodes, a seat without a policy, a policy that loses replies."""
    everyone = self_play(RandomPolicy())
    with pytest.raises(ValueError, match=r"^games: name at least one game$"):
        play_games(everyone, games=[], episodes=4, seed=0)
    with pytest.raises(ValueError, match=r"^episodes: 1 cannot cover 2 games"):
        play_games(everyone, games=["kuhn_poker", "tic_tac_toe"], episodes=1, seed=0)
    with pytest.raises(ValueError, match=r"^cast: no policy for role 'player_1'; it has \['player_0'\]$"):
        play_games({"player_0": RandomPolicy()}, games=["kuhn_poker"], episodes=1, seed=0)

    class Losing(Counting):
        def generate(self, asks):
            return super().generate(asks)[1:]

    with pytest.raises(ValueError, match=r"^policy: Losing\.generate gave 3 replies, 4 were asked for$"):
        play_games(self_play(Losing()), games=["kuhn_poker"], episodes=4, seed=0)


def test_explicit_chance_is_refused():
    """Oracle: the documented ValueError; nature has no role that a cast could answer for."""
    with pytest.raises(ValueError, match="chance"):
        GameTable("kuhn_poker", episodes=1, seed=0, chance="explicit")
