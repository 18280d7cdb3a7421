"""SPaR's trees. Oracle: tests/oracles/spar.py, the published search as a sequential program, with the same script."""

import pytest

from selfplay_fast.play import RefinePrompts, RefineTable, play, self_play
from selfplay_fast.play.refine_data import preference_rows, refiner_rows
from selfplay_fast.policies.streams import stream_ids, uniforms
from selfplay_fast.records import Key
from selfplay_fast.search import Draft, RefineOptions

PROMPTS = RefinePrompts(judge="{prompt}|{response}|Final Judgement?", refine="Refine: [[start]] [[end]]")


def drafts_of(count):
    return [
        Draft(prompt=f"{'p' if i % 20 else 'mute'}{i}", response=f"word {i % 5}", critique=f"critique of {i}")
        for i in range(count)
    ]


def grown(policy, drafts, order="bfs", seed=0, **options):
    """The trees of all drafts, and the table."""
    table = RefineTable(drafts, seed=seed, options=RefineOptions(order=order, **options), prompts=PROMPTS)
    episodes = play(self_play(policy), [table])
    return [episode.kept["refined"] for episode in episodes], episodes, table


def sequential(spar, policy, draft, order):
    """The oracle's search and its final node."""
    search = spar.Search(
        lambda chat, role, draw, sample: policy.say(chat, draw, sample),
        lambda prompt, response: f"{prompt}|{response}|Final Judgement?",
        PROMPTS.refine,
        draft.prompt,
        draft.response,
        draft.critique,
        depth_first=order == "dfs",
    )
    return search, search.run()


def described(search, final):
    """The oracle's tree as plain values, and the place of its final node."""
    nodes = [search.root, *search.nodes]
    place = {id(node): k for k, node in enumerate(nodes)}
    rows = [
        (place[id(n.parent)], n.branch, n.depth, n.response, n.value, n.critique, n.refinement)
        for n in search.nodes
    ]
    return rows, place[id(final)]


def assert_equal_to_oracle(spar, policy, count, order):
    """Trees, final nodes, pairs and refiner data of ``count`` prompts."""
    drafts = drafts_of(count)
    trees, _, table = grown(policy, drafts, order)
    calls = policy.calls
    pairs = [sequential(spar, policy, draft, order) for draft in drafts]
    searches, finals = zip(*pairs, strict=True)
    for tree, (search, final) in zip(trees, pairs, strict=True):
        rows = [
            (n.parent, n.branch, n.depth, n.response, n.value, n.critique, n.refinement)
            for n in tree.nodes[1:]
        ]
        assert (rows, tree.final) == described(search, final)
        assert tree.accepted == (final.value > 0.5)
    expected = [spar.dpo_pair(search, final) for search, final in pairs]
    assert preference_rows(trees) == [pair for pair in expected if pair is not None]

    import numpy as np

    def choose(number, items):
        kind = 1 if items[0] in positives[number] else 2
        (u,) = uniforms(stream_ids([Key(7, number, kind)]), 0)
        return items[int(u * len(items))]

    positives = [
        [
            [
                {"role": "user", "content": f"{s.prompt}|{n.response}|Final Judgement?"},
                {"role": "assistant", "content": n.critique},
            ]
            for n in s.nodes
            if 0.5 < n.value < 1
        ]
        for s in searches
    ]
    expected = spar.refiner_data(searches, finals, choose, np.random.default_rng(7))
    assert refiner_rows(trees, seed=7, prompts=PROMPTS) == expected
    return trees, searches, table, calls


@pytest.mark.parametrize("order", ["bfs", "dfs"])
def test_equal_to_the_sequential_search(spar, script, order):
    """Trees, accepted nodes, pairs and refiner data of 300 prompts; the script leaves nothing out that can happen."""
    trees, searches, table, calls = assert_equal_to_oracle(spar, script(), 300, order)
    assert calls == table.rounds == max(tree.rounds for tree in trees)
    assert sum(tree.accepted for tree in trees) > 30
    assert sum(not tree.accepted and tree.final > 0 for tree in trees) > 30
    assert [tree.final for tree in trees[::20]] == [0] * 15, "no child was ever made"
    assert max(len(tree.nodes) for tree in trees) == (16 if order == "bfs" else 22)
    assert any(len({n.response for n in t.nodes}) < len(t.nodes) for t in trees), "some responses are equal"
    for tree, search in zip(
        trees, searches, strict=True
    ):  # which asks again about a response that was tied before
        assert tree.requests <= search.requests


@pytest.mark.long
@pytest.mark.parametrize("order", ["bfs", "dfs"])
def test_equal_to_the_sequential_search_10000(spar, script, order):
    """The same of 10,000 prompts."""
    assert_equal_to_oracle(spar, script(), 10_000, order)
