"""Oracle: SPIRAL's objective written out, (1/N) sum over samples (1/L) sum over their trained tokens."""

from dataclasses import replace

import numpy as np
import pytest

from selfplay_fast.learn import only_turns, pack, pack_chats, pack_replies
from selfplay_fast.learn.packing import dealt, minibatches
from selfplay_fast.records import Ask, Episode, Key, Reply, Sampling, Turn


def turn(tokens, *, prompt=(7, 8, 9), forced=0, logprobs=None, temperature=1.0, role="player_0") -> Turn:
    """A reply of these tokens, the first ``forced`` of them not sampled; no tokens: said by no language model."""
    ask = Ask(role=role, append="", key=Key(0, 0, 0), sampling=Sampling(temperature=temperature))
    if not tokens:
        return Turn(ask=ask, reply=Reply(text="bet"))
    reply = Reply(
        text="",
        tokens=np.array(tokens, np.int32),
        logprobs=np.array(logprobs or [-0.5 * t for t in tokens], np.float32),
        train_mask=np.arange(len(tokens)) >= forced,
        context=np.array([*prompt, *tokens], np.int32),
    )
    return Turn(ask=ask, reply=reply)


def episode(*turns: Turn) -> Episode:
    return Episode(game="g", index=0, seed=0, group=0, turns=turns, returns={"player_0": 1.0})


def test_arrays_are_the_sampled_tokens_in_order() -> None:
    """Oracle: three samples of two episodes laid out by hand."""
    episodes = [episode(turn([1, 2]), turn([3], prompt=(7,))), episode(turn([4, 5, 6], prompt=(7, 7)))]
    batch = pack(episodes, [[0.5, -1.0], [2.0]], token_normaliser=10)
    assert [sequence.tolist() for sequence in batch.sequences] == [[7, 8, 9, 1, 2], [7, 3], [7, 7, 4, 5, 6]]
    assert batch.first.tolist() == [3, 1, 2]
    assert batch.offsets.tolist() == [0, 2, 3, 6]
    assert batch.advantages.tolist() == [0.5, 0.5, -1.0, 2.0, 2.0, 2.0]
    assert batch.sampler_logprobs.tolist() == [-0.5, -1.0, -1.5, -2.0, -2.5, -3.0]
    assert (batch.num_samples, batch.num_tokens, batch.temperature) == (3, 12, 1.0)
    for sequence, first, start, stop in zip(
        batch.sequences, batch.first, batch.offsets[:-1], batch.offsets[1:], strict=True
    ):
        assert len(sequence) - first == stop - start


@pytest.mark.parametrize("normaliser", [1, 16, 4096])
def test_every_token_weighs_one_over_n_times_l(normaliser: int) -> None:
    """Oracle: 1 / (N L) for every token, whatever the length of its sample: a long reply is not scaled down."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 20, size=7)
    episodes = [episode(turn([1] * int(length))) for length in lengths]
    batch = pack(episodes, [[1.0]] * 7, token_normaliser=normaliser)
    assert batch.weights == pytest.approx(np.full(lengths.sum(), 1 / (7 * normaliser)), rel=1e-6)
    loss = rng.normal(size=lengths.sum())
    by_sample = [part.sum() / normaliser for part in np.split(loss, batch.offsets[1:-1])]
    assert (batch.weights * loss).sum() == pytest.approx(np.mean(by_sample), rel=1e-5)


def test_zero_advantages_are_left_out_but_counted() -> None:
    """Oracle: N = 3 in the weights with one of three samples left, and all three where nothing is skipped."""
    episodes = [episode(turn([1, 2]), turn([3]), turn([4]))]
    batch = pack(episodes, [[0.0, 1.0, -0.0]], token_normaliser=2)
    assert [sequence.tolist() for sequence in batch.sequences] == [[7, 8, 9, 3]]
    assert batch.weights == pytest.approx([1 / 6])
    batch = pack(episodes, [[0.0, 1.0, -0.0]], token_normaliser=2, skip_zero_advantages=False)
    assert batch.num_samples == 3
    assert batch.weights == pytest.approx([1 / 6] * 4)


def test_all_advantages_zero_gives_no_gradient() -> None:
    """Oracle: a batch that can still be run, whose weighted advantages sum to 0."""
    batch = pack([episode(turn([1, 2]), turn([3]))], [[0.0, 0.0]], token_normaliser=2)
    assert batch.num_samples == 1
    assert (batch.weights * batch.advantages).tolist() == [0.0, 0.0]


def test_turns_of_others_are_left_out() -> None:
    """Oracle: only the language model's turn is trained, and only it counts in N."""
    episodes = [episode(turn([]), turn([1, 2]), turn([]))]
    batch = pack(episodes, [[1.0, -1.0, 1.0]], token_normaliser=4)
    assert [sequence.tolist() for sequence in batch.sequences] == [[7, 8, 9, 1, 2]]
    assert batch.advantages.tolist() == [-1.0, -1.0]
    assert batch.weights == pytest.approx([1 / 4, 1 / 4])


def test_forced_tokens_are_not_trained() -> None:
    """Oracle: weight 0 on the two forced tokens and the full weight on the sampled ones."""
    batch = pack([episode(turn([1, 2, 3, 4], forced=2), turn([5]))], [[1.0, 1.0]], token_normaliser=5)
    assert batch.weights == pytest.approx([0, 0, 0.1, 0.1, 0.1])
    assert batch.offsets.tolist() == [0, 4, 5]


def test_temperatures_are_not_mixed() -> None:
    """Oracle: an error naming both temperatures; one temperature is handed on; greedy counts as 1."""
    with pytest.raises(ValueError, match=r"different temperatures \[0\.7, 1\.0\]"):
        pack([episode(turn([1]), turn([2], temperature=0.7))], [[1.0, 1.0]], token_normaliser=1)
    batch = pack([episode(turn([1], temperature=0.7))], [[1.0]], token_normaliser=1)
    assert batch.temperature == 0.7
    batch = pack([episode(turn([1], temperature=0.0), turn([2]))], [[1.0, 1.0]], token_normaliser=1)
    assert batch.temperature == 1.0


@pytest.mark.parametrize(
    ("episodes", "advantages", "normaliser", "word"),
    [
        ([], [], 1, "nothing to train on"),
        ([episode(turn([]))], [[1.0]], 1, "nothing to train on"),
        ([episode(turn([1]))], [[1.0]], 0, "token_normaliser"),
        ([episode(turn([1]))], [[1.0, 2.0]], 1, "zip"),
        ([episode(turn([1]))], [], 1, "zip"),
    ],
)
def test_what_cannot_be_packed_is_refused(episodes, advantages, normaliser, word) -> None:
    """Oracle: ValueError for no samples, no normaliser, and advantages that do not fit the turns."""
    with pytest.raises(ValueError, match=word):
        pack(episodes, advantages, token_normaliser=normaliser)


def chat(*turns: Turn, role: str = "player_0") -> list[Turn]:
    """The turns with contexts that grow: each prompt is all before it and one token, 100 + its number."""
    context: list[int] = []
    grown = []
    for k, said in enumerate(turns):
        context += [100 + k, *said.reply.tokens.tolist()]
        reply = replace(said.reply, context=np.array(context, np.int32))
        grown.append(replace(said, ask=replace(said.ask, role=role), reply=reply))
    return grown


def test_a_conversation_is_one_sample() -> None:
    """Oracle: MARS's objective laid out by hand: two seats whose turns alternate, one of them with a forced token; a
    token weighs 1 / (2 samples x trained tokens of its sample), prompts in between nothing."""
    first = chat(turn([1, 2], forced=1), turn([3]))
    (second,) = chat(turn([4, 5]), role="player_1")
    batch = pack_chats([episode(first[0], second, first[1])], [[0.5, 2.0, -1.0]], logprob_temperature=0.7)
    assert [sequence.tolist() for sequence in batch.sequences] == [[100, 1, 2, 101, 3], [100, 4, 5]]
    assert batch.first.tolist() == [1, 1]
    assert batch.offsets.tolist() == [0, 4, 6]
    assert batch.advantages.tolist() == [0.5, 0.5, 0.0, -1.0, 2.0, 2.0]
    assert batch.weights.tolist() == [0.0, 0.25, 0.0, 0.25, 0.25, 0.25]
    assert batch.sampler_logprobs.tolist() == [-0.5, -1.0, 0.0, -1.5, -2.0, -2.5]
    assert batch.temperature == 0.7


def test_a_context_that_does_not_grow_begins_a_sample() -> None:
    """Oracle: by hand. The third prompt drops what was said before; turns without tokens are nobody's."""
    grown = chat(turn([1]), turn([2]))
    turns = [*grown, turn([]), turn([3], prompt=(100, 9))]
    batch = pack_chats([episode(*turns)], [[1.0, 2.0, 9.0, 3.0]])
    assert [sequence.tolist() for sequence in batch.sequences] == [[100, 1, 101, 2], [100, 9, 3]]
    assert batch.weights.tolist() == [0.25, 0.0, 0.25, 0.5]


def test_what_chats_are_not_packed_from() -> None:
    """Oracle: the documented ValueErrors."""
    with pytest.raises(ValueError, match="nothing to train on"):
        pack_chats([episode(turn([]))], [[1.0]])
    with pytest.raises(ValueError, match="logprob_temperature"):
        pack_chats([episode(*chat(turn([1])))], [[1.0]], logprob_temperature=0.0)


def test_minibatches_are_batches_of_their_own() -> None:
    """Oracle: packing the same samples apart; weights are to rounding."""
    episodes = [episode(turn([k] * (k + 1))) for k in range(5)]
    parts = minibatches(pack_chats(episodes, [[float(k)] for k in range(5)]), 2)
    alone = [pack_chats(episodes[k : k + 2], [[float(k)], [k + 1.0]][: 5 - k]) for k in (0, 2, 4)]
    assert len(parts) == len(alone) == 3
    for ours, theirs in zip(parts, alone, strict=True):
        assert [s.tolist() for s in ours.sequences] == [s.tolist() for s in theirs.sequences]
        assert ours.offsets.tolist() == theirs.offsets.tolist()
        assert ours.advantages.tolist() == theirs.advantages.tolist()
        assert ours.weights == pytest.approx(theirs.weights, rel=1e-6)


def test_parts_are_empty_only_where_samples_are_too_few() -> None:
    """Oracle: the parts together are the samples, each once; where one is far longer than the others, too."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        samples, parts = rng.integers(1, 9, 2).tolist()
        sizes = np.where(rng.random(samples) < 0.3, 200, rng.integers(1, 9, samples))
        episodes = [episode(turn([k] * size)) for k, size in enumerate(sizes.tolist())]
        batch = pack(episodes, [[1.0]] * samples, token_normaliser=4)
        own = [dealt(batch, (i, parts)) for i in range(parts)]
        assert sorted(int(s[-1]) for part in own for s in part.sequences) == list(range(samples))
        assert sum(part.num_samples > 0 for part in own) == min(samples, parts)
        assert sum(len(part.weights) for part in own) == sizes.sum()


def test_shuffled_is_an_order_of_the_same_samples() -> None:
    """Oracle: sequences keep their advantages, the order follows from the seed and is another than before."""
    episodes = [episode(turn([k] * (k + 1))) for k in range(8)]
    batch = pack_chats(episodes, [[float(k)] for k in range(8)])
    mixed, again = batch.shuffled(3), batch.shuffled(3)
    order = [int(sequence[-1]) for sequence in mixed.sequences]
    assert sorted(order) == list(range(8)) != order
    assert order == [int(sequence[-1]) for sequence in again.sequences]
    assert mixed.advantages.tolist() == [float(k) for k in order for _ in range(k + 1)]


def test_chosen_turns_are_samples_with_their_rewards() -> None:
    """Oracle: by hand: two of three turns, every token with weight 1 / 2, also where the reward is 0."""
    said = [
        replace(turn([1, 2]), reward=0.0),
        replace(turn([3]), reward=5.0),
        replace(turn([4]), reward=-1.0),
    ]
    batch = pack_replies(only_turns([episode(*said)], [[0, 2]]))
    assert batch is not None
    assert [sequence.tolist() for sequence in batch.sequences] == [[7, 8, 9, 1, 2], [7, 8, 9, 4]]
    assert batch.advantages.tolist() == [0.0, 0.0, -1.0]
    assert batch.weights.tolist() == [0.5, 0.5, 0.5]
    own = pack_replies(only_turns([episode(*said)], [[1]]), [[2.0]])
    assert own is not None
    assert own.advantages.tolist() == [2.0]
    assert pack_replies([episode(turn([])), episode()]) is None
