"""FlexAttention over whole trees. Oracles: the mask's definition token by token, and the dense blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay_fast import _native
from selfplay_fast.learn.losses import ppo_clip_loss
from selfplay_fast.learn.update import Update, update
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.prefix_forward import block_batches, prefix_trees
from selfplay_fast.policies.tree_attention import TREE_ATTENTION, tree_block_mask
from selfplay_fast.records import Ask, Key, Sampling

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings(
        "ignore:.*torch.jit.script_method.*deprecated"
    ),  # torch's compiler, when it is loaded
]


@pytest.fixture
def uncompiled():
    """FlexAttention as plain PyTorch: compiling it for a CPU takes half a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


def random_sequences(rng, count=16, longest=60):
    """Sequences of 3 letters with a long common start: much is shared, and at many depths."""
    start = rng.integers(3, 300, 40).astype(np.int32)
    ends = [rng.integers(3, 6, rng.integers(2, longest)).astype(np.int32) for _ in range(count)]
    return [np.concatenate([start, end]) for end in ends]


def cells(mask, queries, keys):
    """bool [M, P + M] that the blocks of a BlockMask and its function allow together."""
    block = mask.BLOCK_SIZE[0]
    allowed = np.zeros((queries, keys), bool)
    q, k = (torch.arange(n) for n in (queries, keys))
    by_token = mask.mask_mod(0, 0, q[:, None], k[None]).numpy()
    for row in range(-(-queries // block)):
        here = slice(row * block, (row + 1) * block)
        for count, index, every in (
            (mask.kv_num_blocks, mask.kv_indices, False),
            (mask.full_kv_num_blocks, mask.full_kv_indices, True),
        ):
            for column in index[0, 0, row, : count[0, 0, row]].tolist():
                there = slice(column * block, (column + 1) * block)
                allowed[here, there] |= True if every else by_token[here, there]
    return allowed


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=9), min_size=1, max_size=12),
    st.integers(0, 9),
    st.sampled_from([1, 2, 4, 16]),
)
def test_blocks_and_function_make_the_mask(sequences, shared, block):
    """Oracle: `_native.tree_mask`, itself held against its definition; what is listed as full is never masked."""
    tokens = np.concatenate(sequences).astype(np.int64)
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    tree = _native.TokenTree(tokens, offsets, np.ones(len(sequences), np.int64), 1000)
    nodes = len(tree.node_exit)
    mask = tree_block_mask(tree.node_exit, shared, "cpu", block)
    want = _native.tree_mask(tree.node_exit, tree.block_offsets, shared)[0]
    np.testing.assert_array_equal(cells(mask, nodes, shared + nodes), want)
    assert tuple(mask.shape[-2:]) == (nodes, shared + nodes)


def test_a_tree_of_branches_is_sparse():
    """Oracle: counted by hand: 8 branches of a block each see their stem and themselves, and no branch another."""
    exits = np.concatenate([np.full(128, 9 * 128), *[np.full(128, (b + 2) * 128) for b in range(8)]])
    mask = tree_block_mask(exits, 128, "cpu")
    assert (mask.kv_num_blocks.tolist(), mask.full_kv_num_blocks.tolist()) == ([[[1] * 9]], [[[1] + [2] * 8]])
    assert mask.full_kv_indices[0, 0, 5, :2].tolist() == [0, 1]
    assert mask.kv_indices[0, 0, 5, 0] == 6


@pytest.mark.parametrize("max_tokens", [16384, 200])
@torch.no_grad()
def test_forward_equals_dense_blocks(toy_policy, uncompiled, max_tokens):
    """Oracle: the log-probs by dense blocks; one tree has more than 128 nodes and holds two games, or is cut."""
    rng = np.random.default_rng(0)
    sequences = random_sequences(rng) + random_sequences(rng)
    first = [41] * len(sequences)
    want = toy_policy.sequence_logprobs(sequences, first, [1.0] * len(sequences))
    flex = LanguageModel(toy_policy.model, toy_policy.tokenizer, attention="flex")
    flex.max_batch_tokens = max_tokens
    (tree,) = prefix_trees(sequences, first, "flex", block_tokens=1, max_tokens=max_tokens)
    assert np.diff(tree.nodes.block_offsets).max() > 128
    assert (len(block_batches(tree, max_tokens)) > 1) == (max_tokens == 200)
    got = flex.sequence_logprobs(sequences, first, [1.0] * len(sequences))
    assert got == pytest.approx(want, abs=1e-4)


@torch.no_grad()
def test_decoding_is_as_before(toy_policy, toy_texts, uncompiled):
    """Oracle: replies of the same model under SDPA, token by token; and the switch is not saved with the model."""
    asks = [
        Ask(role="a", append=text, key=Key(0, i, 0), sampling=Sampling(max_tokens=6))
        for i, text in enumerate(toy_texts)
    ]
    want = toy_policy.generate(asks)
    flex = LanguageModel(toy_policy.model, toy_policy.tokenizer, attention="flex")
    assert flex.model.config._attn_implementation == TREE_ATTENTION
    for reply, other in zip(flex.generate(asks), want, strict=True):
        assert reply.tokens.tolist() == other.tokens.tolist()
    assert TREE_ATTENTION not in flex.model.config.to_json_string()


def test_updates_on_a_cpu_are_refused(toy_policy, toy_texts, uncompiled):
    """Oracle: one line that names the argument; torch itself has no such backward pass, and says so much later."""
    policy = LanguageModel(toy_policy.model, toy_policy.tokenizer, attention="flex")
    with pytest.raises(ValueError, match="attention: 'flex' has no backward pass on a CPU"):
        update(policy, None, None, Update(loss=ppo_clip_loss()))


@pytest.mark.gpu
def test_compiled_forward_on_a_gpu(toy_policy):
    """Oracle: dense blocks on the same GPU, for trees of more sizes than torch compiles one by one."""
    policy = LanguageModel(toy_policy.model.cuda(), toy_policy.tokenizer)
    assert policy.attention == "flex"
    dense = LanguageModel(toy_policy.model, toy_policy.tokenizer, attention="dense")
    for seed in range(12):
        sequences = random_sequences(np.random.default_rng(seed), count=5 + 7 * seed)
        args = sequences, [41] * len(sequences), [1.0] * len(sequences)
        assert policy.sequence_logprobs(*args) == pytest.approx(dense.sequence_logprobs(*args), abs=1e-3)
