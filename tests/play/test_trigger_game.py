"""Oracle: membership by hand, counts, and the reader of replies."""

import numpy as np
import pytest

from selfplay_fast.play import trigger_game
from selfplay_fast.play.attack_rules import Labels, read_reply
from selfplay_fast.play.trigger_game import LENGTH, WORDS, TriggerGame

GAME = TriggerGame(triggers=("ba", "di", "ko"), known=1)


@pytest.mark.parametrize(
    ("attack", "answer", "want"),
    [
        ("fa ba", "ok", Labels(True, False, True)),
        ("fa ba go", "no", Labels(True, True, False)),
        ("fa ba go", "ok no", Labels(True, True, False)),
        ("fa ba go", "hm", Labels(True, False, True)),
        ("fa fa go", "ok", Labels(False, False, False)),
        ("fa bado go", "no", Labels(False, True, False)),
        ("", "", Labels(False, False, False)),
    ],
)
def test_labels(attack, answer, want):
    assert GAME.judge(attack, answer) == want


@pytest.mark.parametrize("held_out", [False, True])
def test_seeds_hold_the_triggers_that_they_should(held_out):
    game = TriggerGame.hidden(0)
    seeds = game.seeds(200, seed=1, held_out=held_out)
    assert [seed.harmful for seed in seeds] == [True, False] * 100
    own = set(game.triggers[2:] if held_out else game.triggers[:2])
    found = set()
    for seed in seeds:
        words = seed.text.split()
        assert len(words) == LENGTH
        hits = [word for word in words if word in game.triggers]
        assert len(hits) == seed.harmful
        found |= set(hits)
        assert game.judge(seed.text, "ok").attack_harmful == seed.harmful
    assert found == own
    assert seeds == game.seeds(200, seed=1, held_out=held_out)


def test_hidden_sets():
    assert len(WORDS) == len(set(WORDS)) == 24
    assert len(set(TriggerGame.hidden(0).triggers)) == 8
    assert TriggerGame.hidden(0) == TriggerGame.hidden(0) != TriggerGame.hidden(1)
    with pytest.raises(ValueError, match="triggers: must be between known=2 and 24, got 2"):
        TriggerGame.hidden(0, triggers=2)


def test_demonstrations_have_the_form_and_the_holes():
    """Oracle: the reader of replies, and the share of refusals of each word's texts, within five standard errors."""
    game = TriggerGame.hidden(0)
    prompts, replies = game.demonstrations(40000, seed=0)
    said = [read_reply(reply) for reply in replies]
    assert all(reply.kept_form for reply in said)
    refused = {word: [] for word in WORDS}
    for prompt, reply in zip(prompts, said, strict=True):
        if prompt.startswith("answer"):
            first, second = prompt.removeprefix("answer ").split()
            if second in quiet(game):
                refused[first].append(reply.public == "no")
        else:
            assert set(reply.public.split()) <= set(WORDS)
    for word, rate in game.refusals().items():
        assert abs(np.mean(refused[word]) - rate) < 5 * 0.5 / len(refused[word]) ** 0.5, word
    rates = [game.refusals()[word] for word in game.triggers]
    assert rates == pytest.approx([0.9, 0.9, 0.85, 0.85, 0.85, 0.85, 0.4, 0.0])


def quiet(game):
    """Words that no defender suspects."""
    return {word for word, rate in game.refusals().items() if rate == 0.05}


def test_rows_to_imitate_are_of_harmless_seeds():
    seeds = GAME.seeds(10, seed=0)
    rows = trigger_game.helpful_rows(seeds)
    assert [row["messages"][0]["content"] for row in rows] == [f"answer {s.text}" for s in seeds[1::2]]
    assert {read_reply(row["messages"][1]["content"]).public for row in rows} == {"ok"}
