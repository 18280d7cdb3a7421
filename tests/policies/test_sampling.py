"""Oracle: truncation written out per row in numpy, and transformers' own logits processors."""

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from selfplay_fast.policies.sampling import SamplingColumns, draw, truncate
from selfplay_fast.records import Sampling


def columns(n, **options):
    return SamplingColumns.of([Sampling(**options)] * n, torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "peer"),
    [
        ({"top_k": 5}, TopKLogitsWarper(5)),
        ({"top_p": 0.7}, TopPLogitsWarper(0.7)),
        ({"min_p": 0.1}, MinPLogitsWarper(0.1)),
        (
            {"top_k": 9, "top_p": 0.8, "min_p": 0.1},
            LogitsProcessorList([TopKLogitsWarper(9), TopPLogitsWarper(0.8), MinPLogitsWarper(0.1)]),
        ),
    ],
)
def test_truncation_equals_transformers(options, peer):
    """The kept set and the renormalised log-probs equal those of the peer's processors."""
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(1)) * 2
    want = torch.log_softmax(peer(None, logits.clone()), -1)
    got = truncate(torch.log_softmax(logits, -1), columns(50, **options))
    assert torch.equal(torch.isinf(got), torch.isinf(want))
    finite = ~torch.isinf(want)
    assert torch.allclose(got[finite], want[finite], atol=1e-5)


def test_draw_is_the_inverse_cdf():
    """Tokens are where the cumulative distribution passes u (numpy searchsorted), log-probs those of the draw."""
    logits = torch.randn(200, 30, generator=torch.Generator().manual_seed(2))
    u = np.random.default_rng(0).random(200)
    tokens, logprobs = draw(logits, columns(200, temperature=0.8), u)
    logp = torch.log_softmax(logits / 0.8, -1).numpy()
    for row in range(200):
        cdf = np.cumsum(np.exp(logp[row].astype(np.float64)))
        assert tokens[row] == np.searchsorted(cdf / cdf[-1], u[row], side="right")
        assert logprobs[row].item() == pytest.approx(logp[row, tokens[row]], abs=1e-6)


def test_greedy_rows_and_sampled_rows_mix():
    """Temperature 0 takes the most likely token with log-prob 0, beside rows that sample."""
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(3))
    options = SamplingColumns.of([Sampling(temperature=t) for t in (0, 1, 0, 1)], torch.device("cpu"))
    tokens, logprobs = draw(logits, options, np.full(4, 0.5))
    assert tokens[[0, 2]].tolist() == logits[[0, 2]].argmax(-1).tolist()
    assert logprobs[[0, 2]].tolist() == [0, 0]
    assert (logprobs[[1, 3]] < 0).all()


@pytest.mark.parametrize(
    "bad", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": 1}, {"max_tokens": 0}]
)
def test_bad_options_name_the_argument(bad):
    """Oracle: the documented ValueError."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)
