"""What is asked of creators and reward models, and read of their replies. Oracle: cases by hand."""

import pytest

from selfplay_fast.play.evolve_prompts import (
    GRADED,
    IN_BREADTH,
    IN_DEPTH,
    METHODS,
    EvolvePrompts,
    chosen_methods,
    read_evolved,
    read_score,
)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("8.5", 8.5),
        (" -0.25\n", -0.25),
        ("1e-3", 0.001),
        ("It is fine.\nScore: 7", 7.0),
        ("**Score:** 7/10", 7.0),
        ("Score: 3? No, score = 4.", 4.0),
        ("score 12 of many", 12.0),
        ("7 out of 10", None),  # nobody said that it is the score
        ("", None),
        ("no idea", None),
        ("nan", None),
        ("inf", None),
        ("Score: 1e999", None),
        ("Score: high", None),
    ],
)
def test_scores(said: str, found: float | None) -> None:
    assert read_score(said) == found


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Why is the sea salt?", "Why is the sea salt?"),
        ("  New prompt:\nWhy?\n", "Why?"),
        ("rewritten prompt : Why?", "Why?"),
        ("", None),
        (" \n", None),
        ("New prompt:", None),
        ("What?", None),  # the given one
        (" What? ", None),
    ],
)
def test_evolved_prompts(said: str, found: str | None) -> None:
    assert read_evolved(said, "What? ") == found


def test_there_are_five_ways_in_depth_and_five_in_breadth() -> None:
    """Oracle: the kinds of the published template."""
    assert set(IN_DEPTH) == {"constraints", "deepening", "concretizing", "reasoning", "expansion"}
    assert set(IN_BREADTH) == {"persona", "shift_in", "shift_out", "mix", "abstract"}
    assert len(set(METHODS.values())) == 10
    assert list(chosen_methods(["mix", "reasoning"])) == ["mix", "reasoning"]


def test_a_creator_reads_the_method_and_the_prompt_as_it_is() -> None:
    prompt = "Write {method} and {prompt} in braces"
    (message,) = EvolvePrompts().creator_chat(prompt, "deepening")
    assert message["role"] == "user"
    assert METHODS["deepening"] in message["content"]
    assert message["content"].count(prompt) == 1
    assert message["content"].count("{method}") == 1


def test_a_reward_model_reads_a_conversation_or_a_question() -> None:
    said = EvolvePrompts().score_chat("What?", "That.")
    assert [message["content"] for message in said] == ["What?", "That."]
    assert [message["role"] for message in said] == ["user", "assistant"]
    (question,) = GRADED.score_chat("What {response}?", "That.")
    assert "What {response}?" in question["content"]
    assert "That." in question["content"]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="evolve_methods: 'depth' is none of constraints"):
        chosen_methods(["depth"])
    with pytest.raises(ValueError, match="evolve_methods: name at least one"):
        chosen_methods([])
    with pytest.raises(ValueError, match="methods: name at least one"):
        EvolvePrompts(methods={})
    with pytest.raises(ValueError, match="rewrite: must hold"):
        EvolvePrompts(rewrite="anything")
