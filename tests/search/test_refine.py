"""Search by refinement. Oracles: numbers of the published description, binomial sums, and traces written by hand."""

from math import comb

import numpy as np
import pytest

from selfplay_fast import search
from selfplay_fast.refine_search import best_of, one_by_one, read_refinement, read_verdict
from selfplay_fast.search import Draft, RefineOptions

DRAFT = Draft(prompt="p", response="r", critique="c")


class Chance:
    """Refinements are new, and pass with probability ``accept``: all judges agree."""

    def __init__(self, accept, seed=0):
        self.accept = accept
        self.rng = np.random.default_rng(seed)
        self.passes = {}
        self.calls = 0

    def __call__(self, wants):
        self.calls += 1
        return [self._judged(w) if w.kind == "judge" else self._written(w) for w in wants]

    def _judged(self, want):
        return [f"Final Judgement: {'Yes' if self.passes[want.response] else 'No'}"] * want.samples

    def _written(self, want):
        texts = [f"text {len(self.passes) + i}" for i in range(want.samples)]
        self.passes.update({text: self.rng.random() < self.accept for text in texts})
        return [f"[[start]]{text}[[end]]" if want.kind == "refine" else text for text in texts]


def searched(accept, count, **options):
    """The trees, and the number of calls."""
    chance = Chance(accept)
    return search.refine([DRAFT] * count, chance, RefineOptions(**options)), chance.calls


@pytest.mark.parametrize(("order", "requests", "rounds", "nodes"), [("bfs", 30, 6, 15), ("dfs", 42, 14, 21)])
def test_worst_cases(order, requests, rounds, nodes):
    """Oracle: by hand: BFS makes 3 + 6 + 6 children, DFS 3 + 6 + 12, with two requests each; a round is a phase of a
    level (of a node). A hundred trees take as many calls as one."""
    trees, calls = searched(0.0, 100, order=order)
    assert calls == rounds
    for tree in trees:
        assert (tree.requests, tree.rounds, len(tree.nodes) - 1) == (requests, rounds, nodes)
        assert tree.samples == nodes * (1 + 5)
        assert not tree.accepted
        assert tree.final == 3  # all worth nothing: the last child of the root, behind its siblings' children


@pytest.mark.parametrize(
    ("order", "accept", "requests", "rounds", "samples"),
    [
        ("bfs", 0.1, 19.5, 4.3, 59),
        ("bfs", 0.2, 13.6, 3.3, 41),
        ("bfs", 0.3, 10.6, 2.8, 32),
        ("dfs", 0.1, 19.6, 6.5, 59),
        ("dfs", 0.2, 12.1, 4.0, 36),
        ("dfs", 0.3, 9.1, 3.0, 27),
    ],
)
def test_published_means(order, accept, requests, rounds, samples):
    """Oracle: means of a simulation of the released code with 20,000 trees; samples of DFS are 3 a request by hand. One
    standard error of these 500 trees is below 2.6 % of each."""
    trees, _ = searched(accept, 500, order=order)
    means = [np.mean([getattr(t, name) for t in trees]) for name in ("requests", "rounds", "samples")]
    assert means == pytest.approx([requests, rounds, samples], rel=0.08)


def test_probability_of_success():
    """Oracle: 1 - (1 - p)^15 for BFS, whose 15 children are all made before it fails: .794 and .965."""
    for accept, expected in ((0.1, 0.794), (0.2, 0.965)):
        trees, _ = searched(accept, 500)
        assert 1 - (1 - accept) ** 15 == pytest.approx(expected, abs=5e-4)
        assert np.mean([tree.accepted for tree in trees]) == pytest.approx(expected, abs=0.05)


def test_majority_of_five():
    """Oracle: sum of binomials; a judge that is right with 0.7 is right with .837 after five votes."""
    q = 0.7
    expected = sum(comb(5, k) * q**k * (1 - q) ** (5 - k) for k in (3, 4, 5))
    assert expected == pytest.approx(0.837, abs=5e-4)
    rng = np.random.default_rng(1)

    def reply(wants):
        return [[f"Final Judgement: {'Yes' if rng.random() < q else 'No'}" for _ in range(5)] for w in wants]

    # a good response without a critique is judged first
    drafts = [Draft(prompt="p", response="good")] * 2000

    def first(wants):
        return reply(wants) if wants[0].kind == "judge" else [["unread"] * w.samples for w in wants]

    trees = search.refine(drafts, first, RefineOptions(refine_attempts=1))
    assert np.mean([tree.accepted for tree in trees]) == pytest.approx(expected, abs=0.02)
    assert all(tree.final == 0 for tree in trees)
    assert {tree.result.votes[0] > 2 for tree in trees if tree.accepted} == {True}


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("fine. Final Judgement: Yes", 1),
        ("Final Judgement: No", 0),
        ("Yes", -1),
        ("Final Judgement:", -1),
        ("Final Judgement: yes", -1),
        ("Final Judgement: Not sure", 0),
        ("Final Judgement (Yes or No): No", 1),
        ("Final Judgement: No. Yes", 0),
        ("Yes Final Judgement: maybe Final Judgement: Yes", -1),
        ("Final Judgement: No Final Judgement: Yes", 0),
        ("final judgement: Yes", -1),
        ("", -1),
    ],
)
def test_verdicts(text, verdict):
    """Oracle: the published parser's rules, case by case, with its traps."""
    assert read_verdict(text) == verdict


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("so [[start]]\n a b \n[[end]] c", "a b"),
        ("[[start]]a[[end]][[start]]b[[end]]", "a"),
        ("[[start]]a[[start]]b[[end]]", "a[[start]]b"),
        ("[[end]][[start]]a[[end]]", "a"),
        ("[[start]] \n[[end]]", None),
        ("[[start]]a", None),
        ("a[[end]]", None),
        ("", None),
    ],
)
def test_refinements(text, response):
    """Oracle: the text between the first start and the next end, stripped, by hand."""
    assert read_refinement(text) == response


def test_best_of_n():
    """Oracle: by hand: four responses with 1, 3, 3 and 2 of five votes; the first of the best is taken."""
    votes = {"a": 1, "b": 3, "c": 3, "d": 2}

    def reply(wants):
        return [
            list(votes)
            if w.kind == "respond"
            else ["Final Judgement: Yes"] * votes[w.response]
            + ["Final Judgement: No"] * (5 - votes[w.response])
            for w in wants
        ]

    (tree,) = search.refine([Draft(prompt="p")], reply, best_of(4))
    assert (tree.result.response, tree.result.value, tree.accepted, tree.rounds) == ("b", 0.6, True, 2)
    votes = {"a": 1, "b": 2, "c": 2, "d": 0}
    (tree,) = search.refine([Draft(prompt="p")], reply, best_of(4))
    assert (tree.result.response, tree.accepted) == ("c", False)  # of the best that did not pass the latest
    (tree,) = search.refine([Draft(prompt="p")], lambda wants: [[" "] * w.samples for w in wants], best_of(4))
    assert tree.final is None
    assert tree.result is None


def test_one_by_one():
    """Oracle: by hand: each refinement is of the last one, and the fourth passes."""

    def reply(wants):
        (want,) = wants
        if want.kind == "judge":
            return [["Final Judgement: Yes" if want.response == "r+++" else "Final Judgement: No"] * 5]
        return [[f"[[start]]{want.response}+[[end]]"]]

    draft = Draft(prompt="p", response="r", critique="c")
    (tree,) = search.refine([draft], reply, one_by_one(10))
    assert [node.response for node in tree.nodes] == ["r", "r+", "r++", "r+++"]
    assert tree.accepted
    (tree,) = search.refine([draft], reply, one_by_one(2))
    assert (tree.result.response, tree.accepted) == ("r++", False)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: RefineOptions(order="best"), "order must be 'bfs' or 'dfs', got 'best'"),
        (lambda: RefineOptions(branch=0), "branch must be at least 1, got 0"),
        (lambda: RefineOptions(accept=1.5), "accept must be a number from 0 to 1, got 1.5"),
        (lambda: RefineOptions(accept=float("nan")), "accept must be a number from 0 to 1, got nan"),
        (lambda: Draft(prompt="p", critique="c"), "critique goes with the response"),
        (lambda: search.refine([DRAFT], Chance(0), RefineOptions(depth=99)), "branch and depth: "),
        (lambda: search.refine([DRAFT], lambda wants: [["a"]]), "replies: 3 in 1 lists are wanted"),
    ],
)
def test_refusals(call, words):
    """Oracle: one line that names the argument."""
    with pytest.raises(ValueError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)
