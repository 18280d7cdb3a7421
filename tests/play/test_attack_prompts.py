"""Oracle: the texts themselves; braces in what models say are left alone."""

import pytest

from selfplay_fast.play.attack_prompts import DIRECT_PROMPTS, AttackPrompts
from selfplay_fast.play.attack_rules import Labels, read_labels, read_reply


def test_texts_are_filled_in_once():
    prompts = AttackPrompts()
    (attacker,) = prompts.attacker_chat("SEED {attack}", harmful=True)
    assert "SEED {attack}" in attacker["content"]
    assert "harmful" in attacker["content"]
    (defender,) = prompts.defender_chat("{attack} {answer}")
    assert defender["content"].endswith("User: {attack} {answer}")
    (judge,) = prompts.judge_chat("{answer}", "{attack}")
    assert judge["content"].endswith("Request:\n{answer}\n\nResponse:\n{attack}")
    assert "{kind}" not in attacker["content"] + prompts.attacker_benign
    assert "{what}" not in attacker["content"] + defender["content"]
    assert prompts.attacker_chat("s", harmful=True) != prompts.attacker_chat("s", harmful=False)
    bare = AttackPrompts(judge=None).judge_chat("a", "b")
    assert [(m["role"], m["content"]) for m in bare] == [("user", "a"), ("assistant", "b")]


def test_prompts_show_the_form_that_is_read():
    """Oracle: the readers of replies and labels, on the examples that the prompts give."""
    prompts = AttackPrompts()
    example = prompts.attacker_harmful.split("nothing else:\n")[1]
    assert read_reply(example.removeprefix("<think>")).kept_form
    assert read_labels(prompts.judge) == Labels(True, False, True)
    assert "<think>" not in DIRECT_PROMPTS.attacker_harmful + DIRECT_PROMPTS.opening


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"attacker_harmful": "x"}, "attacker_harmful: must be a text that contains {seed}"),
        ({"defender": "{seed}"}, "defender: must be a text that contains {attack}"),
        ({"judge": "{attack}"}, "judge: must be a text that contains {answer}"),
        ({"attacker_benign": None}, "attacker_benign: must be"),
    ],
)
def test_templates_that_lack_a_text(change, problem):
    with pytest.raises(ValueError, match=problem):
        AttackPrompts(**change)
