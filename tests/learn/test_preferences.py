"""Oracle: the formulas of the papers, written out in probabilities, in float64."""

import math

import pytest
import torch

from selfplay_fast.learn.preferences import (
    Completions,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    orpo_loss,
    preference_loss,
    rpo_loss,
    simpo_loss,
    sppo_loss,
)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_hand(name, w, l, w_ref, l_ref, nw, nl):  # noqa: E741
    """One pair: log-probs of chosen and rejected, of the reference, lengths."""
    p, q = math.exp(w / nw), math.exp(l / nl)
    ratio = math.exp(w - w_ref) / math.exp(l - l_ref)
    return {
        "dpo": lambda: -math.log(ratio**0.2 / (1 + ratio**0.2)),
        "smoothed": lambda: -0.9 * math.log(sigmoid(0.2 * math.log(ratio)))
        - 0.1 * math.log(sigmoid(-0.2 * math.log(ratio))),
        "ipo": lambda: (math.log(ratio) - 2.5) ** 2,
        "ipo per token": lambda: ((w - w_ref) / nw - (l - l_ref) / nl - 2.5) ** 2,
        "rpo": lambda: -math.log(ratio**0.2 / (1 + ratio**0.2)) - 0.7 * math.log(p),
        "sppo": lambda: ((w - w_ref - 0.3 / 0.2) ** 2 + (l - l_ref - (0.2 - 0.5) / 0.2) ** 2) / 2,
        "hinge": lambda: max(0.0, 1 - 0.2 * math.log(ratio)),
        "simpo": lambda: math.log(1 + math.exp(0.5) * (q / p) ** 2),
        "orpo": lambda: -math.log(p) + 0.3 * math.log(1 + (q / (1 - q)) / (p / (1 - p))),
    }[name]()  # fmt: skip


LOSSES = {
    "dpo": dpo_loss(0.2),
    "smoothed": dpo_loss(0.2, label_smoothing=0.1),
    "ipo": ipo_loss(0.2),
    "ipo per token": ipo_loss(0.2, per_token=True),
    "rpo": rpo_loss(0.2, nll_weight=0.7),
    "sppo": sppo_loss(0.2, chosen_wins=0.8),
    "hinge": hinge_loss(0.2),
    "simpo": simpo_loss(2.0, margin=0.5),
    "orpo": orpo_loss(0.3),
}
CHOSEN = Completions(*torch.tensor([[-3.0, -9.0, -0.4], [2, 5, 1], [-4.0, -6.0, -0.9]], dtype=torch.float64))
REJECTED = Completions(
    *torch.tensor([[-8.0, -2.0, -7.0], [4, 3, 6], [-7.5, -6.0, -7.0]], dtype=torch.float64)
)


@pytest.mark.parametrize("name", LOSSES)
def test_formulas(name):
    """To 1e-12, for three pairs of which one prefers the rejected side."""
    found = LOSSES[name](CHOSEN, REJECTED).tolist()
    rows = zip(*(column.tolist() for side in (CHOSEN, REJECTED) for column in side), strict=True)
    want = [by_hand(name, w, l, w_ref, l_ref, nw, nl) for w, nw, w_ref, l, nl, l_ref in rows]  # noqa: E741
    assert found == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    """Oracle: torch.autograd.gradcheck, by both log-probs."""
    inputs = [side.logprobs.clone().requires_grad_() for side in (CHOSEN, REJECTED)]

    def loss(w, l):  # noqa: E741
        return LOSSES[name](CHOSEN._replace(logprobs=w), REJECTED._replace(logprobs=l))

    assert torch.autograd.gradcheck(loss, inputs)


def problem(lengths=(3, 0, 5, 2, 4, 1), width=8, vocabulary=37):
    tokens = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return (
        torch.randn(tokens, width),
        torch.randn(vocabulary, width),
        torch.randint(vocabulary, (tokens,)),
        offsets,
    )


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "orpo"])
def test_preference_loss_equals_the_formula_on_whole_logits(name):
    """Oracle: log_softmax in float64, sums by slices, the same formula; a mask, an empty completion."""
    h, w, t, offsets = problem()
    mask, reference = torch.rand(15) < 0.7, -torch.rand(6) * 9
    a = [x.clone().requires_grad_() for x in (h, w)]
    loss, chosen, rejected = preference_loss(
        *a, t, offsets, LOSSES[name], reference_logprobs=reference, mask=mask, temperature=0.8
    )
    loss.backward()
    b = [x.double().requires_grad_() for x in (h, w)]
    logp = torch.log_softmax(b[0] @ b[1].T / 0.8, -1).gather(-1, t[:, None])[:, 0] * mask
    spans = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
    sums = torch.stack([logp[i:j].sum() for i, j in spans])
    lengths = torch.stack([mask[i:j].sum() for i, j in spans])
    sides = [Completions(sums[i], lengths[i], reference[i]) for i in (slice(3), slice(3, 6))]
    want = LOSSES[name](*sides).mean()
    want.backward()
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    assert torch.allclose(torch.cat([chosen.logprobs, rejected.logprobs]).double(), sums, atol=1e-4)
    assert torch.cat([chosen.lengths, rejected.lengths]).tolist() == lengths.tolist()
    assert not chosen.logprobs.requires_grad
    for x, y in zip(a, b, strict=True):
        assert (x.grad - y.grad).abs().max() <= 2e-5 * y.grad.abs().max()


def test_orpo_of_what_is_certain():
    """Oracle: finite gradients where a completion has probability 1."""
    logprobs = torch.tensor([0.0], requires_grad=True)
    loss = orpo_loss()(Completions(logprobs, torch.ones(1)), Completions(torch.tensor([-3.0]), torch.ones(1)))
    loss.backward()
    assert loss.isfinite()
    assert logprobs.grad.isfinite()


def test_reference_of_every_token():
    """Oracle: its sums, given instead; what is masked is NaN."""
    h, w, t, offsets = problem()
    mask, reference = torch.rand(15) < 0.7, -torch.rand(15)
    sums = torch.segment_reduce(reference * mask, "sum", offsets=offsets)
    reference[~mask] = float("nan")
    found = [
        preference_loss(h, w, t, offsets.tolist(), dpo_loss(), reference_logprobs=x, mask=mask)[0]
        for x in (reference, sums)
    ]
    assert torch.allclose(*found, atol=1e-6)


def test_all_of_dpo_learns_to_prefer():
    """Oracle: the definition of preference: after some steps on one pair chosen gains on rejected under every loss."""
    for name, formula in LOSSES.items():
        h, w, t, offsets = problem((4, 4))
        reference = -torch.full((2,), 4 * math.log(37.0))
        w = (0.1 * w).requires_grad_()
        optimizer = torch.optim.SGD([w], lr=0.02)
        margins = []
        for _ in range(20):
            loss, chosen, rejected = preference_loss(h, w, t, offsets, formula, reference_logprobs=reference)
            margins.append((chosen.logprobs - rejected.logprobs).item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert margins[-1] > margins[0] + 0.1, name


def test_bad_input_names_the_argument():
    """Oracle: the documented ValueErrors."""
    h, w, t, offsets = problem()
    for name, make in {
        "beta": lambda: dpo_loss(0.0),
        "label_smoothing": lambda: dpo_loss(label_smoothing=0.5),
        "nll_weight": lambda: rpo_loss(nll_weight=-1.0),
        "chosen_wins": lambda: sppo_loss(chosen_wins=1.1),
        "weight": lambda: orpo_loss(0.0),
        "offsets must be int64": lambda: preference_loss(h, w, t, offsets[:-1], dpo_loss()),
        "offsets must rise": lambda: preference_loss(h, w, t, offsets + 1, dpo_loss()),
        "reference_logprobs must": lambda: preference_loss(
            h, w, t, offsets, dpo_loss(), reference_logprobs=torch.zeros(3)
        ),
        "must be a formula": lambda: preference_loss(h, w, t, offsets, dpo_loss),
        "one number a pair": lambda: preference_loss(h, w, t, offsets, lambda c, r: c.logprobs.sum()),
        "reference_logprobs: none": lambda: preference_loss(h, w, t, offsets, dpo_loss()),
        "return_": lambda: preference_loss(h, w, t, offsets, simpo_loss(), return_entropy=True),
    }.items():
        with pytest.raises(ValueError, match=name):
            make()
