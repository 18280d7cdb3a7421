"""Negotiation, rule by rule. Oracle of every test here: the published rules, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from selfplay_fast import games


def _two(*messages: str) -> games.Batch:
    """Two goods, after these messages in boxes."""
    batch = games.make("negotiation", 1)
    for message in messages:
        _say(batch, message)
    return batch


def _say(batch: games.Batch, message: str) -> None:
    reply = f"\\boxed{{{message}}}"
    actions, why = batch.parse([reply])
    assert why == [None], (message, why)
    batch.step(actions, texts=[reply])


def _refusal(batch: games.Batch, message: str) -> str:
    return str(batch.parse([f"\\boxed{{{message}}}"])[1][0]).split(";")[0]


def _held(batch: games.Batch, player: int) -> list[int]:
    return [int(good.split("x")[0]) for good in batch.information_state(0, player).split(";")[0].split(",")]


def test_a_trade_moves_goods_and_the_larger_gain_wins() -> None:
    """Oracle: by hand. 2 Wood for 1 Gold: player 0 gains 15 - 10 = 5, player 1 gains 30 - 5 = 25."""
    batch = _two("[offer: 2 Wood -> 1 Gold]", "[accept]")
    assert _held(batch, 0) == [8, 11]
    assert _held(batch, 1) == [12, 9]
    for _ in range(8):
        _say(batch, "well")
    assert batch.terminated[0]
    assert batch.returns[0].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("offer", "result"), [("[offer: 3 Wood -> 3 Gold]", 0.0), ("[offer: 1 Wood -> 2 Gold]", 1.0)]
)
def test_equal_gains_draw(offer: str, result: float) -> None:
    """Oracle: by hand. Even swaps raise both alike; 1 for 2 gives player 0 a gain of 25 against 5."""
    batch = _two(offer, "[accept]", *["so"] * 8)
    assert batch.returns[0].tolist() == [result, -result]


def test_answers() -> None:
    """Oracle: by hand. Deny closes, an offer replaces, talk leaves open; idle answers are talk with two goods."""
    batch = _two("[offer: 2 Wood -> 1 Gold]", "hm")
    assert batch.observation()[0].endswith("Turn 3 of 10. Your offer is open.")
    assert _refusal(batch, "[accept]") == "you cannot accept your own offer"
    _say(batch, "[deny]")  # of the own offer: ignored
    assert batch.observation()[0].endswith("Open offer: you get 2 Wood and give 1 Gold.")
    _say(batch, "[deny]")
    assert batch.observation()[0].endswith("No open offer.")
    _say(batch, "[accept]")  # of nothing: ignored
    assert _held(batch, 0) == [10, 10]
    _say(batch, "[offer: 1 Gold -> 1 Wood]")
    _say(batch, "[offer: 4 Wood, 1 Gold -> 5 Gold]")  # denies it
    assert batch.observation()[0].endswith("Open offer: you get 4 Wood, 1 Gold and give 5 Gold.")
    _say(batch, "[accept] [offer: 6 Gold -> 1 Wood]")
    assert _held(batch, 0) == [6, 14]
    assert _held(batch, 1) == [14, 6]


def test_refusals() -> None:
    """Oracle: by hand. Goods one does not own cannot be offered or given."""
    batch = _two()
    assert _refusal(batch, "[offer: 11 Wood -> 1 Gold]") == "you do not own what you offer"
    assert _refusal(batch, "[offer: 6 Wood, 6 wood -> 1 Gold]") == "you do not own what you offer"
    assert _refusal(batch, "[offer: 1 Wood]").startswith("the offer cannot be read")
    assert _refusal(batch, "offer 1 Wood for 1 Gold").endswith("is not an offer")
    _say(batch, "[offer: 1 Wood -> 99999999999999999999 Gold]")
    assert _refusal(batch, "[accept]") == "you do not own what the offer asks for"
    assert not batch.legal_actions[0, 0]
    assert batch.legal_actions[0, 1]
    # the accepted goods may be passed on at once
    batch = _two("[offer: 5 Wood -> 1 Gold]")
    assert _refusal(batch, "[offer: 15 Wood -> 1 Gold]") == "you do not own what you offer"
    _say(batch, "[accept] [offer: 15 Wood -> 1 Gold]")


def test_five_goods_need_an_answer_or_an_offer() -> None:
    """Oracle: by hand. Talk alone and idle answers are refused, and the menu has 182 moves."""
    batch = games.make("negotiation(resources=5)", 1, seed=4)
    assert _refusal(batch, "hello") == "an answer or an offer is needed"
    assert _refusal(batch, "[deny]") == "there is no offer to answer"
    assert batch.legal_actions.shape == (1, 182)
    assert batch.legal_actions[0].sum() == 180
    _say(batch, "[offer: 3 Wheat + 2 Wood -> 1 Sheep]")
    assert batch.legal_actions[0, :2].all()


def test_every_message_has_one_number() -> None:
    """Oracle: contract. Equal moves, however said, are one action; packed look-alikes of menu moves are illegal."""
    batch = _two()
    said = ["[offer: 2 Wood -> 1 Gold]", "[Offer: I give 1 wood and 1 Woods -> 1 gold.]", "2 Wood -> 1 Gold"]
    assert {int(batch.parse([f"\\boxed{{{message}}}"])[0][0]) for message in said} == {5}
    packed = (1 << 62) | 2 | (1 << 36)
    with pytest.raises(ValueError, match="is illegal in row 0"):
        batch.step([packed])
    big = int(batch.parse(["[offer: 4 Wood -> 1 Gold]"])[0][0])
    assert big == (1 << 62) | 4 | (1 << 36)
    for bit in (11, 29, 59, 61, 60):
        with pytest.raises(ValueError, match="is illegal in row 0"):
            batch.step([big | 1 << bit])
    batch.step([big])


def test_menu_covers_simple_trades() -> None:
    """Oracle: by hand. accept, deny, then 1..3 of each good for 1..3 of each other."""
    batch = _two("[offer: 1 Wood -> 1 Gold]")
    texts = [batch.action_text(0, a) for a in np.flatnonzero(batch.legal_actions[0]).tolist()]
    trades = [
        f"[offer: {n} {g} -> {m} {w}]"
        for g, w in (("Wood", "Gold"), ("Gold", "Wood"))
        for n in (1, 2, 3)
        for m in (1, 2, 3)
    ]
    assert texts == ["[accept]", "[deny]", *trades]


def test_talk_reaches_the_other_player_without_the_thinking() -> None:
    """Oracle: contract. The boxed words, or what follows the thinking, minus the moves; never the reasoning."""
    batch = games.make("negotiation", 3)
    replies = [
        r"<think>I would take 1 Gold</think> \boxed{Please [offer: 2 Wood -> 1 Gold] soon}",
        "<think>secret</think>I really mean it. [offer: 2 Wood -> 1 Gold]",
        r"secret \boxed{offer: 2 Wood -> 1 Gold}",
    ]
    actions, _ = batch.parse(replies)
    assert actions.tolist() == [5, 5, 5]
    batch.step(actions, texts=replies)
    lines = [text.split("\n")[3] for text in batch.observation()]
    assert lines == [
        'Player 0: offer: 2 Wood -> 1 Gold "Please soon"',
        'Player 0: offer: 2 Wood -> 1 Gold "I really mean it."',
        "Player 0: offer: 2 Wood -> 1 Gold",
    ]
    assert batch.messages_since(0, 1)[0] == batch.observation([0])[0]
    assert len({batch.information_state(row, 1) for row in range(3)}) == 3
    loaded = games.make("negotiation", 3)
    loaded.set_state(batch.state())
    assert loaded.observation() == batch.observation()
    with pytest.raises(ValueError, match="texts must hold 3 strings, got 1"):
        batch.step(actions, texts=["a"])


def test_eight_goods() -> None:
    """Oracle: by hand. Eight goods, amounts 5 to 25, values within a fifth of the base; offers of any length."""
    batch = games.make("negotiation(resources=8)", 3000, seed=2)
    about = batch.description
    assert (about.num_actions, about.max_turns) == (2 + 8 * 7 * 9, 10)
    draws = np.array([batch.history(row) for row in range(len(batch))]).reshape(-1, 2, 2, 8)
    assert (draws[:, 0].min(), draws[:, 0].max()) == (5, 25)
    assert draws[:, 1].min(axis=(0, 1)).tolist() == [5, 7, 8, 12, 16, 20, 24, 32]
    assert draws[:, 1].max(axis=(0, 1)).tolist() == [6, 9, 12, 18, 24, 30, 36, 40]
    batch = games.make("negotiation(resources=8)", 1, seed=2)
    assert _refusal(batch, "talk alone") == "an answer or an offer is needed"
    assert (
        _refusal(batch, "[offer: 1 Fish, 2 Gold -> 1 Gold]") == "a good stands on one side of an offer only"
    )
    before = _held(batch, 0), _held(batch, 1)
    _say(batch, "[offer: 1 Wheat, 2 Fish, 3 Stone, 4 Gold -> 1 Wood, 2 Sheep, 3 Bricks, 4 Silver]")
    assert (
        "you get 1 Wheat, 2 Fish, 3 Stone, 4 Gold and give 1 Wood, 2 Sheep, 3 Brick, 4 Silver"
        in (batch.observation()[0])
    )
    _say(batch, "[accept] [offer: 1 Stone -> 63 Fish]")
    change = [-1, -2, 1, 2, -3, 3, 4, -4]
    assert _held(batch, 0) == [n + d for n, d in zip(before[0], change, strict=True)]
    assert _held(batch, 1) == [n - d for n, d in zip(before[1], change, strict=True)]
    good = batch.parse(["\\boxed{[deny]}"])[0]
    for packed in (1 << 62, (1 << 62) | (1 << 56), (1 << 62) | sum(64 << 7 * r for r in range(8))):
        with pytest.raises(ValueError, match="is illegal in row 0"):
            batch.step([packed])
    batch.step(good)


@pytest.mark.parametrize("resources", [2, 5, 8])
def test_tensor(resources: int) -> None:
    """Oracle: by hand. Observer, turn, own goods and values, open offer with its terms, and the one move so far."""
    batch = games.make("negotiation", 1, resources=resources, seed=3)
    _say(batch, "[offer: 2 Wood -> 1 Gold]")
    tensor = batch.observation_tensor()[0]
    own = [part.split("x") for part in batch.information_state(0, 1).split(";")[0].split(",")]
    names = {2: "Wood Gold", 5: "Wheat Wood Sheep Brick Gold"}
    names[8] = "Wheat Fish Wood Sheep Stone Brick Silver Gold"
    terms = [2 * (name == "Wood") for name in names[resources].split()]
    terms += [1 * (name == "Gold") for name in names[resources].split()]
    goods = [int(n) for n, _ in own] + [int(v) for _, v in own]
    expected = [0, 1, 0, 1, *[0] * 8, *goods, 0, 1, *terms, 0, 0, 1, *terms, *[0] * 9 * (3 + 2 * resources)]
    assert tensor.tolist() == expected


def test_the_tensor_lists_goods_the_open_offer_and_all_moves() -> None:
    """Oracle: the documented layout, by hand."""
    batch = _two("[offer: 2 Wood -> 1 Gold]", "[accept] [offer: 3 Gold -> 5 Wood]")
    tensor = batch.observation_tensor()[0]
    turn = np.eye(10)[2]
    first = [0, 0, 1, 2, 0, 0, 1]  # accepts, denies, offers; gives, wants
    second = [1, 0, 1, 0, 3, 5, 0]
    expected = [1, 0, *turn, 8, 11, 5, 15, 0, 1, 0, 3, 5, 0, *first, *second, *[0] * 7 * 8]
    assert tensor.tolist() == expected


def test_tensors_separate_the_same_positions_as_keys() -> None:
    """Oracle: contract. Without talk, two tensors are equal iff the keys are."""
    batch = games.make("negotiation(resources=5)", 500, seed=5)
    batch.reset(repeat=100)
    pairs = set()
    for step in range(6):
        tensors = batch.observation_tensor()
        for row, player in enumerate(batch.current_player.tolist()):
            pairs.add((player, batch.information_state(row, player), tensors[row].tobytes()))
        batch.step(batch.sample_actions(step))
    assert len({(player, key) for player, key, _ in pairs}) == len(pairs)
    assert len({(player, tensor) for player, _, tensor in pairs}) == len(pairs)
