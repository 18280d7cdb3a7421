"""Oracle: the contract. What every game promises, checked on random play of all games, options and styles."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from selfplay_fast import games

Positions = Callable[..., list[games.Batch]]
Views = Callable[[games.Batch], Sequence[int | None]]


def test_the_list_under_test_is_complete(all_games: list[str]) -> None:
    """Oracle: contract. A game that is added must be added to these tests."""
    assert {name.split("(")[0] for name in all_games} == set(games.names())


def test_legal_exactly_while_not_over(game: str, positions: Positions) -> None:
    """Oracle: contract. A row has a legal action iff a player is to move, and ends within max_turns."""
    about = games.describe(game)
    seen = positions(game, 64)
    assert len(seen) <= about.max_turns + 1
    for batch in seen:
        alone, together = batch.current_player >= 0, batch.current_player == games.SIMULTANEOUS
        assert not together.any() if not about.simultaneous else not alone.any()
        each = (64, about.num_players) if about.simultaneous else (64,)
        assert batch.legal_actions.shape == (*each, about.num_actions)
        can = batch.legal_actions.any(axis=-1).T
        assert (can == (alone | together)).all(), "in a joint game every player, as long as it goes on"
        assert (batch.terminated == (batch.current_player == games.TERMINAL)).all()
        assert (batch.current_player[alone] < about.num_players).all()


def test_payoffs(game: str, positions: Positions) -> None:
    """Oracle: contract. Returns are 0 until the end and of zero sum at the end."""
    for batch in positions(game, 64):
        assert (batch.returns[~batch.terminated] == 0).all()
        if games.describe(game).zero_sum:
            assert (batch.returns.sum(axis=1) == 0).all()


def test_threads_and_seed(game: str, positions: Positions) -> None:
    """Oracle: contract. One thread and eight give the same games; another seed gives others."""
    one, eight = (positions(game, 3000, 5, threads=threads)[-1] for threads in (1, 8))
    assert one.state() == eight.state()
    other = positions(game, 3000, 6)[-1]
    assert [other.history(row) for row in range(50)] != [one.history(row) for row in range(50)]


def test_playouts_do_not_depend_on_threads_or_batch_size(game: str) -> None:
    """Oracle: contract. Row r of a large batch plays the game of row r of a small one."""
    small, large = (games.make(game, size, seed=9, threads=threads) for size, threads in ((10, 1), (5000, 8)))
    small.random_playouts()
    large.random_playouts()
    assert small.terminated.all()
    assert large.terminated.all()
    assert [small.history(r) for r in range(10)] == [large.history(r) for r in range(10)]
    assert (small.returns == large.returns[:10]).all()


@pytest.mark.parametrize("mode", ["lenient", "strict"])
def test_every_action_can_be_said(
    game: str, style: games.Style, mode: str, positions: Positions, views: Views
) -> None:
    """Oracle: contract. parse(reply_text(action)) == action for every legal action of every position."""
    for batch in positions(game, 4, style=style):
        for player in views(batch):
            legal = batch.legal_actions if player is None else batch.legal_actions[:, player]
            for row, action in np.argwhere(legal).tolist():
                reply = batch.reply_text(row, action, player)
                if style == "mars":
                    reply = f"<think>That is it.</think>{reply}"
                if mode == "strict" and style == "plain" and games.describe(game).speech:
                    continue  # the published parser wants a box there
                read, why = batch.parse([reply], [row], mode=mode, player=player)
                assert (read[0], why) == (action, [None]), reply
                shown = batch.action_text(row, action, player)
                assert (style in ("spiral", "brief")) == (shown[0] == "[")
                assert batch.parse([f"So I take\n{shown}"], [row], player=player)[0][0] == action, shown


def test_bits_are_the_legal_actions(game: str, positions: Positions) -> None:
    """Oracle: legal_actions. Unpacked, the words are the bytes, and nothing beyond the last action is set."""
    for batch in positions(game, 20):
        legal, bits = batch.legal_actions, batch.legal_bits
        assert bits.dtype == np.uint64
        spread = np.unpackbits(bits.astype("<u8").view(np.uint8), axis=-1, bitorder="little")
        assert (spread[..., : legal.shape[-1]] == legal).all()
        assert not spread[..., legal.shape[-1] :].any()


def test_illegal_actions_are_refused_before_anything_changes(game: str, positions: Positions) -> None:
    """Oracle: contract. step raises ValueError naming game, action and row, and the batch stays as it was."""
    for batch in positions(game, 8)[:4]:
        moves = batch.sample_actions(1)
        before = batch.state()
        joint, name = batch.description.simultaneous, batch.description.name
        for seat in np.argwhere(batch.legal_actions.any(axis=-1)).tolist():
            refused = np.flatnonzero(~batch.legal_actions[tuple(seat)])
            for bad in {-5, -1, batch.legal_actions.shape[-1], 2**40, *refused.tolist()}:
                wrong = moves.copy()
                wrong[tuple(seat)] = bad
                whose = f" of player {seat[1]}" if joint else ""
                with pytest.raises(
                    ValueError,
                    match=rf"^{name}: action {bad}{whose} is illegal in row {seat[0]}(; legal: .*)?$",
                ):
                    batch.step(wrong)
        assert batch.state() == before


def test_snapshots(game: str, positions: Positions, views: Views) -> None:
    """Oracle: contract. A snapshot restores everything, and play goes on as it would have."""
    for batch in positions(game, 16):
        twin = games.make(game, 16, seed=77)
        twin.set_state(batch.state())
        assert twin.state() == batch.state()
        for player in views(batch):
            assert twin.observation(player=player) == batch.observation(player=player)
        for a, b in ((twin.current_player, batch.current_player), (twin.returns, batch.returns)):
            assert (a == b).all()
        assert (twin.legal_actions == batch.legal_actions).all()
        twin.random_playouts()
        batch.random_playouts()
        assert twin.state() == batch.state()


def test_damaged_snapshots_change_nothing(game: str, positions: Positions) -> None:
    """Oracle: contract. Every changed byte, cut and extension is a ValueError, and the batch stays as it was."""
    batch = positions(game, 2)[:3][-1]
    good = batch.state()
    twin = games.make(game, 2, seed=5)
    before = twin.state()
    damaged = [
        good[:i] + bytes([good[i] ^ bit]) + good[i + 1 :] for i in range(len(good)) for bit in (1, 128)
    ]
    damaged += [good[:cut] for cut in range(0, len(good), 7)] + [good + b"\0", b"", b"nonsense"]
    for state in damaged:
        with pytest.raises(ValueError, match="snapshot"):
            twin.set_state(state)
    assert twin.state() == before
    with pytest.raises(ValueError, match="another batch size"):
        games.make(game, 3).set_state(good)


def hidden_draws(game: str, player: int) -> list[int]:
    """The plies of the first deal that nature plays for the other seat alone."""
    if game.startswith("kuhn_poker"):
        return [1 - player]
    goods = int(
        games.describe(game).options["resources"]
    )  # negotiation: amounts of both, then values of both
    block = goods * (1 - player)
    return [*range(block, block + goods), *range(2 * goods + block, 3 * goods + block)]


@pytest.mark.parametrize("player", [0, 1])
@pytest.mark.parametrize(
    "game", ["kuhn_poker", "kuhn_poker(rounds=5)", "negotiation(resources=5)", "negotiation(resources=8)"]
)
def test_hidden_things_stay_hidden(game: str, style: games.Style, player: int) -> None:
    """Oracle: contract. Games that differ only in what a player cannot know look equal to it, and have one key."""
    hidden = hidden_draws(game, player)
    rng = np.random.default_rng(3)
    compared = 0
    for _ in range(40):
        pair = games.make(game, 2, chance="explicit", style=style)
        for ply in range(2 if "kuhn" in game else 4 * int(games.describe(game).options["resources"])):
            first, second = pair.chance_outcomes(0), pair.chance_outcomes(1)
            common = sorted({a for a, _ in first} & {a for a, _ in second})
            a = b = int(rng.choice(common))
            if ply in hidden:
                others = [o for o, _ in second if o != a]
                if "kuhn" in game and ply == 0:  # the card the observer gets next must be left in both decks
                    others = others[:1]
                b = int(rng.choice(others)) if others else a
            pair.step([a, b])
        for _ in range(6):
            if (pair.current_player < 0).any():
                break
            if pair.current_player[0] == player:
                compared += pair.history(0) != pair.history(1)
                assert pair.information_state(0, player) == pair.information_state(1, player)
                one, two = pair.observation()
                assert one == two
                assert pair.messages_since(0, player) == pair.messages_since(1, player)
            both = np.flatnonzero(pair.legal_actions.all(axis=0))
            if len(both) == 0:
                break
            move = int(rng.choice(both))
            pair.step([move, move])
    assert compared >= 20, f"only {compared} pairs were compared"


def test_worlds_read_equally(game: str, style: games.Style, positions: Positions) -> None:
    """Oracle: contract. Whatever resample draws anew for a player shows neither in its texts nor in its key."""
    about = games.describe(game)
    if about.simultaneous:
        with pytest.raises(ValueError, match=f"{about.name}: has no resample, all players move at once"):
            games.make(game, 1).resample()
        return
    differing = 0
    for number, batch in enumerate(positions(game, 30, style=style)):
        for player in range(batch.description.num_players):
            worlds = batch.resample(player=player, seed=number)
            differing += sum(worlds.history(row) != batch.history(row) for row in range(30))
            to_move = np.flatnonzero(batch.current_player == player)
            assert worlds.observation(to_move) == batch.observation(to_move)
            assert (_tensor(worlds, to_move) == _tensor(batch, to_move)).all()
            for row in np.flatnonzero(~batch.terminated):
                assert worlds.messages_since(row, player) == batch.messages_since(row, player)
                assert worlds.information_state(row, player) == batch.information_state(row, player)
    all_seen = about.perfect_information or game == "negotiation" or about.name == "truth_and_deception"
    assert (differing >= 20) == (not all_seen)


def test_texts_and_keys_separate_the_same_positions(
    game: str, style: games.Style, positions: Positions, views: Views
) -> None:
    """Oracle: contract. Two observations of one player are equal iff the information-state keys are.

    Brief negotiation shows how things stand, not the way there: there equal keys still read equally. Style mars also
    tells the number of the turn.
    """
    pairs = set()
    for batch in positions(game, 300, style=style):
        for view in views(batch):
            texts = batch.observation(player=view)
            for row in np.flatnonzero(batch.legal_actions.any(axis=-1).reshape(300, -1)[:, 0]).tolist():
                player = int(batch.current_player[row]) if view is None else view
                text = re.sub(r"(?<=\n)Turn \d+\. ", "", texts[row]) if style == "mars" else texts[row]
                pairs.add((player, batch.information_state(row, player), text))
    assert len({(player, key) for player, key, _ in pairs}) == len(pairs)
    if style != "brief" or not game.startswith("negotiation"):
        assert len({(player, text) for player, _, text in pairs}) == len(pairs)


def test_observations_begin_alike(game: str, style: games.Style, positions: Positions, views: Views) -> None:
    """Oracle: contract. All observations of a game share the whole constant text; what changes is the short end.

    Style brief has no other constant text than the game's name and its options.
    """
    texts = {
        text
        for batch in positions(game, 40, style=style)
        for view in views(batch)
        for text in batch.observation(player=view)
        if text
    }
    first = min(texts)
    beginnings = {"brief": "player ", "mars": "\nTurn 1"}
    start = first[: first.index(beginnings.get(style, "You are "))]
    assert all(text.startswith(start) for text in texts)
    if style == "brief":
        opening = re.sub(r"[(,=)]+ ?", " ", f"{game} ")
        assert start == opening
        return
    assert len(start) > 100
    assert ("\\boxed{}" in start) == (style == "spiral")
    assert ("<answer>" in start) == (style == "mars")
    rules = start.split("\n")[0]
    default = games.make(games.describe(game).name, 1, style=style)
    text = default.observation(player=views(default)[0])[0]
    assert text.startswith(rules), "the rules do not depend on options"


def test_a_named_player_reads_what_is_its_own(game: str, positions: Positions) -> None:
    """Oracle: contract. With player= a turn game shows the player to move the same, and takes nobody else's reply.

    A joint game wants a player, and one that exists.
    """
    for batch in positions(game, 5):
        about = batch.description
        if about.simultaneous:
            unnamed = r"all players move at once, say which with player=0\.\.1"
            with pytest.raises(ValueError, match=unnamed):
                batch.observation()
            with pytest.raises(ValueError, match=unnamed):
                batch.parse([""] * 5)
            with pytest.raises(ValueError, match=r"player 2 is outside 0\.\.1"):
                batch.observation(player=2)
            together = _tensor(batch, [3, 0])
            apart = [_tensor(batch, [3, 0], player) for player in range(about.num_players)]
            assert (together == np.stack(apart, axis=1)).all()
            continue
        for row in np.flatnonzero(batch.current_player >= 0).tolist():
            player = int(batch.current_player[row])
            assert batch.observation([row], player) == batch.observation([row])
            assert (_tensor(batch, [row], player) == _tensor(batch, [row])).all()
            action = int(batch.legal_actions[row].argmax())
            reply = batch.reply_text(row, action, player)
            assert batch.parse([reply], [row], player=player) == ([action], [None])
            other = (player + 1) % about.num_players
            assert batch.parse([reply], [row], player=other) == (
                [games.INVALID],
                [f"player {other} is not to move"],
            )
            with pytest.raises(ValueError, match=f"action {action} is illegal in row {row}"):
                batch.reply_text(row, action, other)


def _tensor(batch: games.Batch, rows: object, player: int | None = None) -> np.ndarray:
    """The observation tensor, or nothing for a game without one."""
    try:
        return batch.observation_tensor(rows, player)
    except ValueError as error:
        if "has no observation tensor" not in str(error):
            raise
        return np.zeros(1)
