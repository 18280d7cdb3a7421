"""SPaR's trees. Oracle: tests/oracles/spar.py, the published search as a sequential program, with the same script."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selfplay_fast.play import RefinePrompts, RefineTable, play, refine_data, self_play, stream
from selfplay_fast.play.refine_data import (
    negatives,
    preference_rows,
    refiner_rows,
    tree_from_json,
    tree_to_json,
)
from selfplay_fast.policies import ScriptedPolicy
from selfplay_fast.policies.streams import stream_ids, uniforms
from selfplay_fast.records import Key, Reply, Sampling
from selfplay_fast.refine_search import best_of
from selfplay_fast.search import Draft, RefineOptions

PROMPTS = RefinePrompts(judge="{prompt}|{response}|Final Judgement?", refine="Refine: [[start]] [[end]]")


def drafts_of(count):
    return [
        Draft(prompt=f"{'p' if i % 20 else 'mute'}{i}", response=f"word {i % 5}", critique=f"critique of {i}")
        for i in range(count)
    ]


def grown(policy, drafts, order="bfs", seed=0, **options):
    """The trees of all drafts, and the episodes."""
    table = RefineTable(drafts, seed=seed, options=RefineOptions(order=order, **options), prompts=PROMPTS)
    episodes = play(self_play(policy), [table])
    return [episode.kept["refined"] for episode in episodes], episodes


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
    trees, _ = grown(policy, drafts, order)
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
    return trees, searches, calls


@pytest.mark.parametrize("order", ["bfs", "dfs"])
def test_equal_to_the_sequential_search(spar, script, order):
    """Trees, accepted nodes, pairs and refiner data of 300 prompts; the script leaves nothing out that can happen."""
    trees, searches, calls = assert_equal_to_oracle(spar, script(), 300, order)
    assert calls == max(tree.rounds for tree in trees)
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


def test_one_ask_per_node_and_text(script):
    """Oracle: by hand: three refinements of a draft are one ask, a vote is one ask, a refused one is asked alone."""
    table = RefineTable(drafts_of(3)[1:], seed=0, prompts=PROMPTS)
    assert [(ask.role, ask.n) for ask in table.asks()] == [("refiner", 3)] * 2
    assert table.asks() == []  # each once
    table.answer([Reply(text=f"[[start]]{t}[[end]]" if t else "") for t in ("a", "", "a", "b", "c", "d")])
    asks = table.asks()
    assert [(ask.n, ask.key.episode, ask.sampling.max_tokens) for ask in asks] == [
        (1, 0, 3072),
        (5, 0, 2048),
        *[(5, 1, 2048)] * 3,
    ]
    assert len({ask.key for ask in asks}) == 5
    with pytest.raises(ValueError, match="replies: 21 are pending, got 1"):
        table.answer([Reply(text="")])


def test_every_tree_goes_on_by_itself():
    """Oracle: by hand: a tree asks again when its last ask is answered, whatever the other waits for; what it is and
    the order of its turns do not depend on the order of the answers."""
    drafts = drafts_of(3)[1:]
    options = RefineOptions(depth=1, branch=2, judgements=1)

    def written(ask):
        letters = "ab" if ask.key.episode == 0 else "cd"
        return [Reply(text=f"[[start]]{letter}[[end]]") for letter in letters]

    def judged(ask):
        return [Reply(text=f"Final Judgement: {'Yes' if 'b' in ask.append[0]['content'][-20:] else 'No'}")]

    ends = []
    for backwards in (False, True):
        table = RefineTable(
            drafts,
            seed=0,
            options=options,
            prompts=replace(PROMPTS, judge="Final Judgement {prompt}|{response}"),
        )
        first, second = table.asks()
        table.answer(written(second), [second])
        votes = list(table.asks())
        assert [(ask.key.episode, ask.n) for ask in votes] == [(1, 1)] * 2
        table.answer(judged(votes[1]), [votes[1]])
        assert table.asks() == []
        table.answer(judged(votes[0]), [votes[0]])
        assert [episode.index for episode in table.finished()] == [1]
        table.answer(written(first), [first])
        votes = list(table.asks())[:: -1 if backwards else 1]
        for ask in votes:
            table.answer(judged(ask), [ask])
        ends += table.finished()
    told = [[(turn.ask.key, turn.reply.text) for turn in end.turns] for end in ends]
    assert told[0] == told[1]
    assert ends[0].kept == ends[1].kept
    assert ends[0].kept["refined"].result.response == "b"


def test_results_do_not_depend_on_the_company(script):
    """Oracle: every draft searched alone, under its own index."""
    together, _ = grown(script(), drafts_of(20))
    for index, draft in enumerate(drafts_of(20)):
        table = RefineTable([draft], seed=0, prompts=PROMPTS, indices=[index], keep_turns=False)
        (episode,) = play(self_play(script()), [table])
        assert episode.kept["refined"] == together[index]
        assert (episode.index, episode.turns) == (index, ())


def test_episodes(script):
    """Oracle: the tree itself: a turn per sample, refusals where nothing could be read, the value as the return."""
    trees, episodes = grown(script(), drafts_of(30))
    for tree, episode in zip(trees, episodes, strict=True):
        assert len(episode.turns) == tree.samples
        assert episode.returns == {"refiner": tree.result.value}
        unread = [turn for turn in episode.turns if turn.refusal == "no refined output"]
        written = sum(
            (len(turn.ask.append) == 1 and turn.ask.context is not None) or len(turn.ask.append) == 3
            for turn in episode.turns
        )
        children = len(tree.nodes) - 1
        assert written - len(unread) >= children
    assert any(turn.refusal == "no verdict" for episode in episodes for turn in episode.turns)


def test_a_tree_without_replies_is_given_up(script):
    """Oracle: a policy that forfeits all that it is asked for the draft of index 1: the others' trees do not change."""

    class Dying(script):
        def generate(self, asks):
            replies = iter(super().generate(asks))
            return [
                Reply(text="", finish_reason="forfeit")
                if ask.key.episode == 1 and self.calls > 1
                else next_reply
                for ask in asks
                for next_reply in [next(replies) for _ in range(ask.n)]
            ]

    whole, _ = grown(script(), drafts_of(6))
    table = RefineTable(drafts_of(6), seed=0, prompts=PROMPTS)
    episodes = play(self_play(Dying()), [table])
    assert episodes[1].kept == {"failure": "no reply to the refine prompt"}
    assert [e.kept["refined"] for e in episodes if e.index != 1] == [t for i, t in enumerate(whole) if i != 1]


def test_finished_trees_outlive_the_policy(script):
    """Oracle: what a whole run gives for those drafts that end before the fifth call, in which the policy breaks."""

    class Broken(script):
        def generate(self, asks):
            if self.calls == 4:
                raise OSError("gone")
            return super().generate(asks)

    whole, _ = grown(script(), drafts_of(60))
    came = {}

    def collect():
        for _, episode in stream(self_play(Broken()), [RefineTable(drafts_of(60), seed=0, prompts=PROMPTS)]):
            came[episode.index] = episode.kept["refined"]

    with pytest.raises(OSError, match="gone"):
        collect()
    assert came == {i: tree for i, tree in enumerate(whole) if tree.rounds <= 4}
    assert len(came) > 5


def test_sampled_responses_become_negatives(script):
    """Oracle: by hand from the votes: of five responses each, one that was voted down, with its own critique."""
    drafts = [Draft(prompt=f"q{i}") for i in range(40)]

    class Actor(script):
        def say(self, chat, draw, sample):
            if chat[0]["content"].startswith("q") and "|" not in chat[0]["content"]:
                return f"answer {(draw + 7 * sample) % 4} to {chat[0]['content']}"
            return super().say(chat, draw, sample)

    options = replace(best_of(5), judge_attempts=1)
    judged = [
        e.kept["refined"]
        for e in play(self_play(Actor()), [RefineTable(drafts, seed=1, options=options, prompts=PROMPTS)])
    ]
    found = negatives(judged, seed=3)
    assert found == negatives(judged, seed=3)
    down = [i for i, tree in enumerate(judged) if any(node.value < 0.5 for node in tree.nodes[1:])]
    assert [place for place, _ in found] == down
    assert len(down) > 20
    for place, draft in found:
        (node, *_) = [n for n in judged[place].nodes[1:] if n.response == draft.response]
        assert draft == Draft(prompt=f"q{place}", response=node.response, critique=node.critique)
        assert node.value < 0.5
    trees = [
        e.kept["refined"]
        for e in play(self_play(Actor()), [RefineTable([d for _, d in found], seed=2, prompts=PROMPTS)])
    ]
    pairs = preference_rows(trees)
    assert {pair["rejected"][0]["content"] for pair in pairs} <= {draft.response for _, draft in found}
    rows = refiner_rows(trees, seed=0, judged=judged, prompts=PROMPTS)
    firsts = [row["messages"][0]["content"] for row in rows]
    assert len(set(firsts)) == len(firsts)
    own = {
        f"{t.draft.prompt}|{n.response}|Final Judgement?"
        for t in judged
        for n in t.nodes[1:]
        if not n.unanimous
    }
    assert own <= set(firsts)


def test_sizes_of_the_refiner_data(script, monkeypatch):
    """Oracle: the sizes themselves: at most so many rows of a kind."""
    trees, _ = grown(script(), drafts_of(100))
    counts = {}
    for name in ("REFINEMENTS", "TREE_YES", "TREE_NO"):
        for other in ("REFINEMENTS", "TREE_YES", "TREE_NO"):
            monkeypatch.setattr(refine_data, other, 4 if other == name else 0)
        rows = refiner_rows(trees, seed=0, prompts=PROMPTS)
        counts[name] = len(rows)
        assert {len(row["messages"]) for row in rows} == {4 if name == "REFINEMENTS" else 2}
    assert counts == {"REFINEMENTS": 4, "TREE_YES": 4, "TREE_NO": 4}


def test_a_local_model_goes_on_with_the_judges_conversation(toy_policy):
    """Oracle: its count of computed tokens: below that of fresh conversations, which hold the judge's words again; the
    prompts read alike."""

    class Worded:
        """The model's tokens under words that can be read."""

        def generate(self, asks):
            replies = toy_policy.generate(asks)
            texts = [
                f"[[start]]a {i}[[end]]"
                if ask.append[-1]["content"] == PROMPTS.refine
                else "Final Judgement: No"
                for i, ask in enumerate(ask for ask in asks for _ in range(ask.n))
            ]
            return [replace(reply, text=text) for reply, text in zip(replies, texts, strict=True)]

    computed, asked = {}, {}
    for extend in (True, False):
        toy_policy.forget()
        before = toy_policy.computed_tokens
        samplings = {kind: Sampling(max_tokens=8) for kind in ("judge", "refine")}
        table = RefineTable(drafts_of(2), seed=0, samplings=samplings, extend=extend, prompts=PROMPTS)
        episodes = play(self_play(Worded()), [table])
        computed[extend] = toy_policy.computed_tokens - before
        asked[extend] = [
            turn.ask
            for episode in episodes
            for turn in episode.turns
            if turn.ask.append[-1]["content"] == PROMPTS.refine
        ]
    assert computed[True] < computed[False]
    for longer, fresh in zip(asked[True], asked[False], strict=True):
        assert (longer.context is None) == (longer.key.turn == 0)
        assert fresh.context is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: RefineTable([], seed=0, samplings={"juge": Sampling()}),
            "samplings: only respond, judge, refine",
        ),
        (lambda: RefineTable([], seed=0, indices=[1]), "indices: must be one per draft, 0, got 1"),
        (lambda: RefineTable(drafts_of(2), seed=0, indices=[1, 1]), "indices: must be distinct"),
        (
            lambda: RefinePrompts(judge="{prompt}{response}"),
            "judge must be a text that contains Final Judgement",
        ),
        (lambda: RefinePrompts(refine="go on"), r"refine must be a text that contains \[\[start\]\]"),
    ],
)
def test_refusals(call, words):
    """Oracle: one line that names the argument."""
    with pytest.raises(ValueError, match=words):
        call()


def test_braces_in_texts_stay():
    """Oracle: the texts themselves."""
    (message,) = RefinePrompts().judge_chat("{response} {x}", "{prompt}")
    assert "“{response} {x}”" in message["content"]
    assert "“{prompt}”" in message["content"]


def test_the_page_runs():
    """Oracle: by hand: a policy that writes capitals, which its judges like: one pair, one dialogue."""

    def say(ask, sample):
        if len(ask.append) == 1:
            return f"Checked. Final Judgement: {'Yes' if 'RED' in ask.append[0]['content'] else 'No'}"
        return "Larger. [[start]]RED, GREEN, BLUE[[end]]"

    page = (Path(__file__).parents[2] / "docs" / "refine.md").read_text()
    names = {"policy": ScriptedPolicy(say)}
    exec(compile(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], "refine.md", "exec"), names)
    (pair,) = names["pairs"]
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == (
        "RED, GREEN, BLUE",
        "red, green, blue",
    )
    (row,) = names["dialogues"]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2


def test_trees_as_json(script):
    """Oracle: the trees themselves, through JSON."""
    trees, _ = grown(script(), drafts_of(30))
    assert [tree_from_json(json.loads(json.dumps(tree_to_json(tree)))) for tree in trees] == trees
    for broken in (
        {},
        {**tree_to_json(trees[0]), "nodes": [{"response": "a"}]},
        {**tree_to_json(trees[0]), "final": 99},
    ):
        with pytest.raises(ValueError, match="not a refinement tree"):
            tree_from_json(broken)
