"""Oracle: plain autograd with one forward pass per completion, and the loss as a formula of their sums."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from selfplay_fast.learn import (
    dpo_loss,
    hinge_loss,
    ipo_loss,
    orpo_loss,
    pack_dialogues,
    pack_pairs,
    preference_update,
    rpo_loss,
    simpo_loss,
    sppo_loss,
)
from selfplay_fast.learn.losses import negative_log_likelihood
from selfplay_fast.learn.preferences import Completions
from selfplay_fast.learn.update import Update, update


def said(role, content):
    return {"role": role, "content": content}


ROWS = [
    {
        "prompt": [said("user", f"Two players take turns; number {i // 2}")],
        "chosen": [said("assistant", f"Free: {i}" + " and more" * (i % 3))],
        "rejected": [said("assistant", f"Free: {'OX'[i % 2]}")],
    }
    for i in range(8)
]


def plain_logprob(policy, sequence, first):
    ids = torch.as_tensor(sequence.astype(np.int64))[None]
    logp = torch.log_softmax(policy.model(ids, use_cache=False).logits[0, first - 1 : -1], -1)
    return logp.gather(-1, ids[0, first:, None]).sum()


def plain_gradients(policy, pairs, loss):
    """Gradients of the mean loss, and the loss."""
    policy.model.zero_grad()
    sides = []
    for k, sequences in enumerate((pairs.chosen, pairs.rejected)):
        sums = torch.stack(
            [plain_logprob(policy, s, int(f)) for s, f in zip(sequences, pairs.first, strict=True)]
        )
        lengths = torch.tensor([len(s) - int(f) for s, f in zip(sequences, pairs.first, strict=True)])
        reference = None if pairs.reference_logprobs is None else torch.as_tensor(pairs.reference_logprobs[k])
        sides.append(Completions(sums, lengths, reference))
    value = loss(*sides).mean()
    value.backward()
    return [parameter.grad.clone() for parameter in policy.model.parameters()], value.item()


@pytest.mark.parametrize(
    "loss",
    [
        dpo_loss(0.1),
        ipo_loss(0.5),
        rpo_loss(0.1, nll_weight=0.1),
        sppo_loss(0.5),
        hinge_loss(0.1),
        simpo_loss(2.0),
        orpo_loss(0.1),
    ],
    ids=["dpo", "ipo", "rpo", "sppo", "hinge", "simpo", "orpo"],
)
def test_gradients_equal_independent_completions(toy_policy, watched, loss):
    """Oracle: one forward pass per completion; to 1e-5 of the largest gradient, however the pairs are cut."""
    pairs = pack_pairs(toy_policy, ROWS).compared_with(toy_policy)
    shift = np.random.default_rng(0).normal(size=(2, len(ROWS))).astype(np.float32)
    pairs = replace(pairs, reference_logprobs=pairs.reference_logprobs + shift)
    want, value = plain_gradients(toy_policy, pairs, loss)
    scale = max(gradient.abs().max() for gradient in want)
    optimizer = watched(toy_policy.model.parameters())
    metrics = preference_update(toy_policy, optimizer, pairs, loss, max_grad_norm=1e9, max_batch_tokens=60)
    for own, gradient in zip(optimizer.gradients, want, strict=True):
        assert (own - gradient).abs().max() <= 1e-5 * scale
    assert metrics["loss"] == pytest.approx(value, rel=1e-5)
    assert metrics["sharing"] > 1.2


def test_it_prefers_what_was_chosen(toy_policy):
    """Oracle: log 2 for a policy that is its own reference; then the margin and the accuracy of the pairs rise."""
    pairs = pack_pairs(toy_policy, ROWS).compared_with(toy_policy)
    optimizer = torch.optim.SGD(toy_policy.model.parameters(), lr=0.0)
    first = preference_update(toy_policy, optimizer, pairs, dpo_loss(0.1))
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert first["margin"] == pytest.approx(0, abs=1e-4)
    optimizer = torch.optim.AdamW(toy_policy.model.parameters(), lr=1e-3)
    preference_update(toy_policy, optimizer, pairs, dpo_loss(0.1), minibatch=3, epochs=2, rates=[1e-3, 3e-4])
    assert {group["lr"] for group in optimizer.param_groups} == {3e-4}
    optimizer = torch.optim.SGD(toy_policy.model.parameters(), lr=0.0)
    last = preference_update(toy_policy, optimizer, pairs, dpo_loss(0.1))
    assert last["accuracy"] == 1
    assert last["margin"] > 0.5


def test_dialogues(toy_policy):
    """Oracle: one forward pass over the whole dialogue: the mean negative log-prob of what the assistant said."""
    chats = [
        [
            said("user", "Free?"),
            said("assistant", "X"),
            said("user", "Two players?"),
            said("assistant", f"O {i}"),
        ]
        for i in range(3)
    ] + [[said("user", "more"), said("assistant", "and more")]]
    batch = pack_dialogues(toy_policy, [{"messages": chat} for chat in chats])
    logps = []
    for chat in chats:
        text, spans = "", []
        for k in range(0, len(chat), 2):
            text += toy_policy.tokenizer.apply_chat_template(
                chat[k : k + 1], tokenize=False, add_generation_prompt=True
            )
            start = len(toy_policy.tokenizer(text)["input_ids"])
            text += chat[k + 1]["content"] + "<|im_end|>"
            spans.append((start, len(toy_policy.tokenizer(text)["input_ids"])))
            text += "\n"
        ids = torch.as_tensor(toy_policy.tokenizer(text)["input_ids"])
        all_logps = torch.log_softmax(toy_policy.model(ids[None], use_cache=False).logits[0, :-1], -1)
        own = all_logps.gather(-1, ids[1:, None])[:, 0]
        logps += [own[start - 1 : stop - 1] for start, stop in spans]
    optimizer = torch.optim.SGD(toy_policy.model.parameters(), lr=0.0)
    metrics = update(toy_policy, optimizer, batch, Update(loss=negative_log_likelihood))
    assert metrics["loss"] == pytest.approx(-torch.cat(logps).mean().item(), rel=1e-5)
    assert metrics["trained_tokens"] == sum(map(len, logps))


def test_what_is_too_long_is_left_out(toy_policy):
    """Oracle: the lengths themselves."""
    lengths = [
        max(len(p.chosen[0]), len(p.rejected[0])) for p in (pack_pairs(toy_policy, [row]) for row in ROWS)
    ]
    limit = sorted(lengths)[4]
    assert (
        pack_pairs(toy_policy, ROWS, max_tokens=limit).num_pairs
        == sum(n <= limit for n in lengths)
        < len(ROWS)
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: pack_pairs(p, [{"prompt": "?"}]), "rows: row 0: chosen must be messages"),
        (
            lambda p: pack_pairs(p, [{**ROWS[0], "prompt": "?"}]),
            "row 0: prompt must be messages .* got '\\?'",
        ),
        (
            lambda p: pack_pairs(p, [{**ROWS[0], "chosen": ROWS[0]["prompt"] * 2}]),
            "chosen must be one message, got 2",
        ),
        (lambda p: pack_dialogues(p, [{"messages": [said("user", "a")]}]), "do not end with the assistant's"),
        (lambda p: pack_dialogues(p, [{"messages": [said("assistant", "a")]}]), "speaks before it is asked"),
        (lambda p: pack_dialogues(p, []), "rows: none of 0 is a dialogue"),
        (lambda p: preference_update(p, None, pack_pairs(p, []), dpo_loss()), "pairs: there are none"),
        (
            lambda p: preference_update(p, None, pack_pairs(p, ROWS), dpo_loss()),
            "reference_logprobs: none were given",
        ),
        (
            lambda p: preference_update(p, None, pack_pairs(p, ROWS), dpo_loss(), minibatch=0),
            "minibatch: must be",
        ),
    ],
)
def test_refusals(toy_policy, call, words):
    """Oracle: one line that names the argument."""
    with pytest.raises(ValueError, match=words) as raised:
        call(toy_policy)
    assert "\n" not in str(raised.value)
