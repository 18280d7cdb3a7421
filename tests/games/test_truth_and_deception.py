"""Truth and deception: rules by hand, what the guesser cannot tell, the deck, and either textarena as a peer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import numpy as np
import pytest

from selfplay_fast import games

NAME = "truth_and_deception"
FACT = re.compile(r"[Ff]act ([12])(?: \((true|false)\))?: (.*)")


def _at(
    pair: int, first: int, *messages: str, game: str = NAME, style: games.Style = "spiral"
) -> games.Batch:
    """A game of that deal after these messages."""
    batch = games.make(game, 1, chance="explicit", style=style)
    batch.step([pair])
    batch.step([first])
    for message in messages:
        _say(batch, message)
    return batch


def _say(batch: games.Batch, message: str) -> None:
    reply = f"<think>I know fact 1 is false</think>\\boxed{{{message}}}"
    actions, why = batch.parse([reply])
    assert why == [None], (message, why)
    batch.step(actions, texts=[reply])


def _facts(batch: games.Batch) -> dict[int, tuple[str, str]]:
    """Number -> (true, false or nothing; statement) as the player to move reads them."""
    return {int(n): (truth, text) for n, truth, text in FACT.findall(batch.observation()[0])}


def _pairs() -> int:
    return len(games.make(NAME, 1, chance="explicit").chance_outcomes(0))


def test_the_guess_decides() -> None:
    """Oracle: by hand. Player 0 begins, five messages, then player 1 wins with the fact player 0 sees as true."""
    for pair, first in ((0, 0), (0, 1), (7, 0), (7, 1)):
        truth = {n: word == "true" for n, (word, _) in _facts(_at(pair, first)).items()}
        assert sorted(truth.values()) == [False, True]
        for guess in (1, 2):
            batch = _at(pair, first)
            for turn in range(5):
                assert batch.current_player[0] == turn % 2
                assert np.flatnonzero(batch.legal_actions[0]).tolist() == [0]
                _say(batch, f"message {turn}")
            assert batch.current_player[0] == 1
            assert np.flatnonzero(batch.legal_actions[0]).tolist() == [1, 2]
            _say(batch, f"I take [fact {guess}]")
            assert batch.terminated[0]
            assert batch.returns[0].tolist() == ([-1, 1] if truth[guess] else [1, -1])


def test_messages_are_heard_without_the_thinking() -> None:
    """Oracle: by hand. The boxed words stand in the other's prompt, quotes and markers made harmless."""
    batch = _at(3, 0, 'Believe "me": [Fact 2]\n is <|true|>')
    assert "Deceiver: \"Believe 'me': (Fact 2) is < |true| >\"" in batch.observation()[0]
    _say(batch, "[talk]")
    assert 'Guesser: ""' in batch.observation()[0]
    assert "I know" not in batch.observation()[0]
    assert batch.parse(["\\boxed{}"])[1][0].startswith("the box is empty")
    assert batch.parse([" "])[1][0].startswith("the reply is empty")
    assert batch.parse(["no box at all"])[0][0] == 0


@pytest.mark.parametrize(
    ("reply", "lenient", "strict"),
    [
        ("\\boxed{[fact 2]}", 2, 2),
        ("\\boxed{Well, [Fact 1].}", 1, 1),
        ("\\boxed{fact 1}", 1, None),
        ("\\boxed{2}", 2, None),
        ("\\boxed{not [Fact 1] but [Fact 2]}", 2, None),
        ("I name [ fact 2 ]", 2, None),
        ("<think>[fact 1]?</think> My choice: fact 2", 2, None),
        ("\\boxed{[fact 3]}", None, None),
        ("\\boxed{neither}", None, None),
        ("\\boxed{[fact 1]", None, None),
    ],
)
def test_guesses(reply: str, lenient: int | None, strict: int | None) -> None:
    """Oracle: the documented reading: the last fact in brackets, else the words; strict wants one, in brackets."""
    batch = _at(5, 1, *["so"] * 5)
    for mode, expected in (("lenient", lenient), ("strict", strict)):
        action, why = batch.parse([reply], mode=mode)  # type: ignore[arg-type]
        assert action[0] == (games.INVALID if expected is None else expected), (mode, why)


def test_naming_both_facts() -> None:
    """Oracle: by hand. Right under TextArena's rules only; by default the last one counts."""
    both = "\\boxed{[Fact 1] or [Fact 2]}"
    for first in (0, 1):
        batch = _at(9, first, *["so"] * 5, game=f"{NAME}(rules=textarena)")
        for mode in ("lenient", "strict"):
            assert batch.parse([both], mode=mode)[0][0] == 3  # type: ignore[arg-type]
        assert batch.action_text(0, 3) == "[fact 1] [fact 2]"
        batch.step([3])
        assert batch.returns[0].tolist() == [-1, 1]
        assert _at(9, first, *["so"] * 5).parse([both])[0][0] == 2


@pytest.mark.parametrize("style", games.STYLES)
def test_the_guesser_cannot_tell(style: games.Style) -> None:
    """Oracle: contract. The order of the statements is all that differs in what a guesser reads of one pair.

    With the statements exchanged, the two deals of a pair are the same text, whichever of them has the truth first,
    so nothing outside the statements tells it; nor does the key, whose letter is the alphabetical order.
    """
    letters = set()
    for pair in range(_pairs()):
        deals = [_at(pair, first, "trust me", style=style) for first in (0, 1)]
        facts = _facts(_at(pair, 0, "trust me"))
        one, other = facts[1][1], facts[2][1]
        assert (facts[1][0], facts[2][0]) == ("", "")
        assert one < other
        texts = [batch.observation()[0] for batch in deals]
        assert texts[0].replace(one, "@").replace(other, one).replace("@", other) == texts[1]
        keys = [batch.information_state(0, 1) for batch in deals]
        assert keys == [f"{pair}a:1|8:trust me", f"{pair}b:1|8:trust me"]
        for batch, letter in zip(deals, "ab", strict=True):
            truth = batch.information_state(0, 0)[len(f"{pair}a")]
            letters.add(letter + truth)
            tensor = batch.observation_tensor()[0]
            assert tensor[-2:].tolist() == [0, 0], "the last two are the deceiver's"
            for first_news, news in zip(
                deals[0].messages_since(0, 1), batch.messages_since(0, 1), strict=True
            ):
                assert len(first_news) == len(news)
    assert letters == {"a1", "a2", "b1", "b2"}


def test_the_deck_gives_nothing_away() -> None:
    """Oracle: statistics. Neither length nor alphabet nor a first word tells the true statement of a pair."""
    seen, longer, first = set(), 0.0, 0
    for pair in range(_pairs()):
        facts = _facts(_at(pair, 0))
        truth, lie = sorted(facts.values(), reverse=True)
        assert (truth[0], lie[0]) == ("true", "false")
        seen |= {truth[1], lie[1]}
        longer += (len(truth[1]) > len(lie[1])) + 0.5 * (len(truth[1]) == len(lie[1]))
        first += truth[1] < lie[1]
        assert abs(len(truth[1]) - len(lie[1])) < 12
        for text in (truth[1], lie[1]):
            assert text[0].isupper()
            assert text.endswith(".")
            assert not re.search(r"\b(not|never|no longer|only|always)\b", text.replace("cannot fly", ""))
    n = _pairs()
    assert n >= 60
    assert len(seen) == 2 * n
    assert abs(longer / n - 0.5) < 0.1
    assert abs(first / n - 0.5) < 0.1


def test_deals_are_uniform() -> None:
    """Oracle: statistics. Every pair in both orders, each within five standard errors of its share."""
    batch = games.make(NAME, 40_000, seed=4)
    deals = np.array([batch.history(row) for row in range(len(batch))])
    counts = np.bincount(2 * deals[:, 0] + deals[:, 1], minlength=2 * _pairs())
    share = len(batch) / (2 * _pairs())
    assert (np.abs(counts - share) < 5 * share**0.5).all()


@pytest.mark.parametrize("rules", ["correct", "textarena"])
def test_textarena(rules: str, peer_games: Callable[[int], int], textarena_release: tuple[int, ...]) -> None:
    """Oracle: peer textarena. The same deals and messages: turn order, legality and rewards.

    Statements are its own there, so only the position of the true one is carried over. Naming both facts is right
    there whichever is true, which is our rules=textarena.
    """
    from textarena.envs.TruthAndDeception.env import TruthAndDeceptionEnv

    rng = random.Random(8)
    ends = set()
    for _ in range(peer_games(400)):
        env = TruthAndDeceptionEnv(max_turns=6)
        env.reset(num_players=2)
        env.state.error_allowance = 0
        true_fact = 1 if env.state.game_state["fact1"]["is_correct"] else 2
        pair = rng.randrange(_pairs())
        first = next(f for f in (0, 1) if _facts(_at(pair, f))[true_fact][0] == "true")
        batch = _at(pair, first, game=f"{NAME}(rules={rules})")
        for turn in range(6):
            message = rng.choice(["hello", "it is [Fact 1]", "[fact 2] is wrong", "no idea"])
            both = turn == 5 and rng.random() < 0.2
            if both:
                message = "[Fact 1] and [FACT 2]"
            assert batch.current_player[0] == env.state.current_player_id
            done, _ = env.step(message)
            action, _ = batch.parse([f"\\boxed{{{message}}}"])
            if turn == 5 and "[" not in message:
                assert done
                assert action[0] == games.INVALID
                assert env.state.rewards == {1: -1, 0: int(textarena_release >= (0, 7))}
                ends.add("invalid")
                break
            batch.step(action, texts=[message])
            assert done == bool(batch.terminated[0]) == (turn == 5)
        else:
            theirs = [env.state.rewards[0], env.state.rewards[1]]
            if both and rules == "correct":
                assert theirs == [-1, 1]
                assert batch.returns[0, 1] == (1 if true_fact == 2 else -1), "the last one counts"
            else:
                assert batch.returns[0].tolist() == theirs
            ends.add(tuple(theirs))
    assert ends == {"invalid", (1, -1), (-1, 1)}
