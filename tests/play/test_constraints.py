"""Prompts with constraints. Oracles: the families as published, a scripted creator's words, chi-square of the draws."""

import re
from collections import Counter
from pathlib import Path

import pytest
from scipy import stats

from selfplay_fast.play.constraints import FAMILIES, INSTRUCTION, Evolved, draw_families, evolve
from selfplay_fast.policies import ScriptedPolicy
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.records import Reply, Sampling
from selfplay_fast.search import Draft

PUBLISHED = {
    "format": ["length", "text format", "character format", "template", "punctuation", "numeric"],
    "content": ["keyword", "symbol", "sentence", "genre"],
    "general": ["language", "situation", "style", "sentiment"],
}


def test_the_families_are_the_published_ones():
    """Oracle: names and groups of the paper."""
    found = {}
    for family in FAMILIES:
        found.setdefault(family.group, []).append(family.name)
    assert found == PUBLISHED


def test_draws_are_even_and_repeat():
    """Oracle: chi-square of 2,800 main families and of the number of further ones; the same call; no family twice."""
    draws = [draw_families(3, index) for index in range(2800)]
    assert draws == [draw_families(3, index) for index in range(2800)]
    mains = Counter(main.name for main, _ in draws)
    assert len(mains) == 14
    assert stats.chisquare(list(mains.values())).pvalue > 0.001
    numbers = Counter(len(further) for _, further in draws)
    assert set(numbers) == {1, 2, 3}
    assert stats.chisquare(list(numbers.values())).pvalue > 0.001
    others = Counter(family.name for _, further in draws for family in further)
    assert stats.chisquare(list(others.values())).pvalue > 0.001
    for main, further in draws:
        assert len({main, *further}) == 1 + len(further)
    assert draws != [draw_families(4, index) for index in range(2800)]


def listed(asked):
    """The names in the list of kinds that a creator reads, the main one first."""
    kinds = asked.split("Kinds of constraints:\n")[1].split("\n\nSeed prompt:")[0]
    return [line.removeprefix("- ").split(":")[0] for line in kinds.splitlines()]


def test_a_function_rewrites():
    """Oracle: what the function was asked: the seed prompt as it stands, braces too, and the families drawn for it."""
    read = []

    def creator(asked):
        read.append(asked)
        return f"Here you are: [[start]]\nNew {len(read)}\n[[end]] Good luck."

    prompts = ["Describe {constraints} of {prompt}.", "Name three birds."]
    found = evolve(creator, prompts, seed=5)
    for index, (asked, one) in enumerate(zip(read, found, strict=True)):
        main, further = draw_families(5, index)
        assert one == Evolved(
            seed_prompt=prompts[index], main=main, further=further, fate="evolved", prompt=f"New {index + 1}"
        )
        assert listed(asked) == [main.name, *(family.name for family in further)]
        assert asked.endswith(f"Seed prompt:\n“{prompts[index]}”")
        assert asked.startswith(INSTRUCTION.split("{constraints}")[0])


@pytest.mark.parametrize(
    ("said", "fate"),
    [
        ("[[start]]None[[end]]", "unsuitable"),
        ("[[start]]\n none.\n[[end]]", "unsuitable"),
        ("None", "unsuitable"),
        ("[[start]]None of your words may rhyme.[[end]]", "evolved"),
        ("", "malformed"),
        ("A new prompt", "malformed"),
        ("[[start]]A new prompt", "malformed"),
        ("[[start]] \n[[end]]", "malformed"),
        ("[[end]]A new prompt[[start]]", "malformed"),
        ("[[start]] Add two and two. [[end]]", "malformed"),
        ("[[start]]Add [[start]] more[[end]]", "evolved"),
    ],
)
def test_what_a_creator_may_write(said, fate):
    """Oracle: by hand; there is a new prompt where, and only where, the fate is `evolved`."""
    (one,) = evolve(lambda asked: said, ["Add two and two."], seed=0)
    assert one.fate == fate
    assert (one.prompt is None) == (fate != "evolved")


class Failing:
    """A policy that does not answer the second ask, and never ends its reasoning at the third."""

    def generate(self, asks):
        said = Reply(text="<think>a</think>[[start]]new[[end]]", hidden=16)
        lost, thinking = Reply(text="", finish_reason="forfeit"), Reply(text="x", hidden=1, unclosed=True)
        return [(said, lost, thinking)[ask.key.episode] for ask in asks]


def test_replies_that_do_not_come():
    """Oracle: one fate each; reasoning is not read."""
    found = evolve(Failing(), ["a", "b", "c"], seed=0)
    assert [(one.fate, one.prompt) for one in found] == [
        ("evolved", "new"),
        ("unanswered", None),
        ("malformed", None),
    ]


def test_all_prompts_are_one_batch_at_the_paper_s_temperature():
    """Oracle: what the policy was handed. The draws of a prompt do not depend on what comes after it."""
    batches = []

    class Counting(ScriptedPolicy):
        def generate(self, asks):
            batches.append([ask.sampling.temperature for ask in asks])
            return super().generate(asks)

    policy = Counting(lambda ask, sample: "[[start]]new[[end]]")
    found = evolve(policy, [f"Prompt {k}" for k in range(500)], seed=1)
    assert batches == [[0.7] * 500]
    assert evolve(policy, [f"Prompt {k}" for k in range(20)], seed=1) == found[:20]


def test_a_language_model_creates():
    """Oracle: the untrained nano model writes noise, so nothing is evolved, and nothing fails."""
    policy = LanguageModel(*build_nano(["kuhn_poker"], seed=0))
    found = evolve(policy, ["Name three birds."] * 3, seed=0, sampling=Sampling(max_tokens=8))
    assert [one.fate for one in found] == ["malformed"] * 3


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompts": ["a", " "]}, "prompts: number 1 must be a text that is not empty"),
        ({"prompts": [5]}, "prompts: number 0 must be a text"),
        ({"instruction": "Rewrite {prompt}."}, "instruction must contain {constraints}"),
        ({"families": FAMILIES[:3]}, "families must be at least 4 of different names, got 3"),
        ({"families": FAMILIES[:4] * 2}, "of different names, got 8"),
    ],
)
def test_wrong_arguments(changed, words):
    """Oracle: the name of the argument."""
    arguments = {"prompts": ["Name three birds."]} | changed
    with pytest.raises(ValueError, match=re.escape(words) + "[^\n]*$"):
        evolve(lambda asked: "", seed=0, **arguments)


def test_the_page_s_example():
    """Oracle: docs/refine.md as written, with a creator that finds sums unsuitable."""
    page = (Path(__file__).parents[2] / "docs" / "refine.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "evolve(" in block)
    said = {True: "[[start]]None[[end]]", False: "[[start]]In ten words.[[end]]"}
    names = {"policy": ScriptedPolicy(lambda ask, sample: said["“Add" in ask.prompt_text]), "Draft": Draft}
    exec(compile(code, "refine.md", "exec"), names)
    assert [draft.prompt for draft in names["drafts"]] == ["In ten words."] * 2
