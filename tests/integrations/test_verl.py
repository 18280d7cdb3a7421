"""Inside verl: estimators, policy losses and the fused head.

Oracles: verl 0.9.1's own functions where the settings coincide; `selfplay_fast.learn`; golden numbers derived in
float64, independently of both; and the formula of the head in float64.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from selfplay_fast.kernels.token_logprobs import token_logprobs_reference

from selfplay_fast.learn import RoleBaseline, role_conditioned_advantages
from selfplay_fast.records import Ask, Episode, Key, Reply, Turn

pytest.importorskip("verl", exc_type=ImportError, reason="needs verl 0.9.1")
import verl
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.utils import tensordict_utils
from verl.utils.experimental import torch_functional
from verl.utils.kernel import linear_cross_entropy as verl_head
from verl.workers.config import ActorConfig

from selfplay_fast.integrations.verl import Installed, install, role_uids

MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"]


@pytest.fixture
def installed() -> Iterator[Installed]:
    with install() as inside:
        yield inside


def spans(*lengths: tuple[int, ...], width: int = 12) -> torch.Tensor:
    """Rows of a response mask: runs of 1 and 0 in turn, the first of 1, then padding."""
    rows = []
    for row in lengths:
        bits = [1 - k % 2 for k, length in enumerate(row) for _ in range(length)]
        rows.append(bits + [0] * (width - len(bits)))
    return torch.tensor(rows)


def at_the_end(mask: torch.Tensor, returns: list[float]) -> torch.Tensor:
    """Each row's reward on its last token, where verl puts it."""
    rewards = torch.zeros(mask.shape)
    for row, value in enumerate(returns):
        rewards[row, mask[row].nonzero()[-1, 0]] = value
    return rewards


def compute(name: str, rewards: Any, mask: Any, index: Any, **config: Any) -> tuple[Any, Any]:
    """As `verl.trainer.ppo.ray_trainer.compute_advantage` calls what is registered."""
    estimator = core_algos.get_adv_estimator_fn(name)
    return estimator(
        token_level_rewards=rewards, response_mask=mask, config=AlgoConfig(**config), index=index
    )


# ---- role-conditioned advantages ----

REWARDS = [(1, -1), (-1, 1), (0.5, -1.5), (0, 0), (1, -1)]
GOLDEN = {
    "pre": [(1, -1), (-1.05, 1.05), (0.5025, -1.5025), (-0.022625, 0.072625), (0.978506, -0.931006)],
    "post": [
        (0.95, -0.95),
        (-0.9975, 0.9975),
        (0.477375, -1.427375),
        (-0.021494, 0.068994),
        (0.929581, -0.884456),
    ],
    "batch": REWARDS,
}
FINAL = {"pre": (0.07041906, -0.11554406), "post": (0.07041906, -0.11554406), "batch": (0.015, -0.025)}


def two_seats(games: int) -> np.ndarray:
    uids = [f"episode {k // 2}" for k in range(2 * games)]
    return role_uids(uids, "g", ["player_0", "player_1"] * games)


@pytest.mark.parametrize("order", ["pre", "post", "batch"])
def test_role_advantages_are_the_golden_numbers(order: Any) -> None:
    """Oracle: golden numbers of SPIRAL's Eq. 2 in its three orders; one row per episode and seat."""
    mask = spans(*[(3,)] * 10)
    rewards = at_the_end(mask, [value for pair in REWARDS for value in pair])
    with install(order=order) as inside:
        advantages, returns = compute("selfplay_rae", rewards, mask, two_seats(5))
        baseline = inside.role_advantages.baseline
    want = torch.tensor(GOLDEN[order]).float().reshape(-1, 1) * mask
    assert torch.allclose(advantages, want, atol=1e-6)
    assert torch.equal(returns, rewards.sum(1, keepdim=True) * mask)
    final = (baseline["g", "player_0"], baseline["g", "player_1"])
    assert final == pytest.approx(FINAL[order], abs=1e-8)


@pytest.mark.parametrize("order", ["pre", "post", "batch"])
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_role_advantages_are_those_of_learn(order: Any, gamma: float) -> None:
    """Oracle: `role_conditioned_advantages` of the same episodes: two batches, two games, turns of both seats."""
    rng = np.random.default_rng(0)
    baseline = RoleBaseline(decay=0.8, values={("kuhn", "player_0"): 0.25})
    with install(baseline=baseline, order=order) as inside:
        for batch in range(2):
            episodes, rows, uids = [], [], []
            for k in range(6):
                game, counts = ("kuhn", "nim")[k % 2], rng.integers(1, 4, 2)
                seats = [f"player_{seat}" for seat in (0, 1) for _ in range(counts[seat])]
                turns = [
                    Turn(ask=Ask(role=role, append="", key=Key(0, k, t)), reply=Reply(text=""))
                    for t, role in enumerate(seats)
                ]
                won = float(rng.normal())
                episodes.append(
                    Episode(
                        game=game,
                        index=k,
                        seed=0,
                        group=k,
                        turns=tuple(turns),
                        returns={"player_0": won, "player_1": -won},
                    )
                )
                rows += [(won, counts[0]), (-won, counts[1])]
                uids += [f"{batch} {k}|{game}|player_0", f"{batch} {k}|{game}|player_1"]
            want, baseline = role_conditioned_advantages(episodes, baseline, order=order, discount=gamma)
            mask = spans(*[(2, 1) * int(count) for _, count in rows])
            rewards = at_the_end(mask, [value for value, _ in rows])
            got, _ = compute("selfplay_rae", rewards, mask, np.array(uids, dtype=object), gamma=gamma)
            first_tokens = (mask == 1) & (torch.nn.functional.pad(mask, (1, 0))[:, :-1] == 0)
            assert got[first_tokens].tolist() == pytest.approx([a for row in want for a in row], abs=1e-5)
            assert (got[mask == 0] == 0).all()
            values = inside.role_advantages.baseline.values
            assert values == pytest.approx(dict(baseline.values), abs=1e-6)


def test_turns_as_rows_move_the_baseline_once() -> None:
    """Oracle: the same episodes, one row each; a row's uid says which turns belong together, in any order."""
    mask, once = spans((3,), (2,)), two_seats(1)
    with install() as inside:
        want, _ = compute("selfplay_rae", at_the_end(mask, [1.0, -1.0]), mask, once)
        state = inside.role_advantages.baseline
    order = [0, 1, 0, 1, 0]
    many = mask[order]
    with install(rows="turns") as inside:
        got, _ = compute("selfplay_rae", at_the_end(many, [1.0, -1, 1, -1, 1]), many, once[order])
        assert inside.role_advantages.baseline == state
        assert torch.equal(got, want[order])
        with pytest.raises(
            ValueError, match=r"'episode 0\|g\|player%5F0' must have the same sum in rows 0 and 2"
        ):
            compute("selfplay_rae", at_the_end(many, [1.0, -1, 0, -1, 1]), many, once[order])
        assert inside.role_advantages.baseline == state


def test_padding_rows_need_no_role(installed: Installed) -> None:
    """Oracle: the rows without them; verl fills batches up with rows that are masked whole, of a uid of its own."""
    mask = spans((3,), (1, 1, 2), (4,))
    rewards, index = at_the_end(mask, [1.0, -1, 0.5]), role_uids(["a", "b", "pad1f"], "g", "r")
    index[2] = "pad1f"
    mask[2] = 0
    for name in ("selfplay_rae", "selfplay_turns"):
        installed.role_advantages.baseline = RoleBaseline()
        got = compute(name, rewards, mask, index)
        installed.role_advantages.baseline = RoleBaseline()
        want = compute(name, rewards[:2], mask[:2], index[:2])
        for padded, plain in zip(got, want, strict=True):
            assert torch.equal(padded[:2], plain)
            assert (padded[2] == 0).all()


# ---- turns ----

MARS_ROWS = [
    ("ttt", 0, (0.05, 1.05)),
    ("ttt", 1, (0.05, -0.95)),
    ("ttt", 0, (0.05, -10.95)),
    ("ttt", 1, (0.05,)),
    ("kuhn", 0, (0.05, -0.95)),
    ("kuhn", 1, (1.05,)),
    ("kuhn", 0, (2.05,)),
    ("kuhn", 1, (-1.95,)),
]
BY_SEAT = [3.885714, 3.835714, -0.36, -0.41, -8.114286, -8.164286, 0.59, 1.885714, 1.835714, 1.59]
BY_SEAT += [4.835714, -1.41]
BY_SEAT_AND_GAME = [6.025, 5.975, -0.3, -0.35, -5.975, -6.025, 0.65, -0.966667, -1.016667, 1.5]
BY_SEAT_AND_GAME += [1.983333, -1.5]


def turn_rows() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """A turn of three tokens, two of the environment's; the reward on the last token of the turn, or on the next."""
    mask = spans(*[(3, 2) * len(turns) for _, _, turns in MARS_ROWS])
    rewards = torch.zeros(mask.shape)
    for row, (_, _, turns) in enumerate(MARS_ROWS):
        for k, reward in enumerate(turns):
            rewards[row, 5 * k + 2 + row % 2] = reward
    uids = [f"u{k}" for k in range(len(MARS_ROWS))]
    games, roles = [game for game, _, _ in MARS_ROWS], [f"player_{seat}" for _, seat, _ in MARS_ROWS]
    return rewards, mask, role_uids(uids, games, roles)


@pytest.mark.parametrize(("pool", "golden"), [("role", BY_SEAT), ("game_role", BY_SEAT_AND_GAME)])
def test_credit_of_turns_is_the_golden_numbers(pool: Any, golden: list[float]) -> None:
    """Oracle: golden numbers of MARS's turn-level advantages, pooled by seat and by seat and game."""
    rewards, mask, index = turn_rows()
    with install(pool=pool):
        advantages, returns = compute("selfplay_turns", rewards, mask, index)
    first_tokens = (mask == 1) & (torch.nn.functional.pad(mask, (1, 0))[:, :-1] == 0)
    assert advantages[first_tokens].tolist() == pytest.approx(golden, abs=1e-5)
    assert (advantages[mask == 0] == 0).all()
    assert torch.equal(advantages[:, 0], advantages[:, 2])  # one number for all tokens of a turn
    whole = torch.tensor([sum(turns) for _, _, turns in MARS_ROWS])
    assert torch.allclose(returns[:, 0], whole, atol=1e-6)


def test_discount_is_per_turn(installed: Installed) -> None:
    """Oracle: by hand, gamma 0.5 and one row of turns 1, 2, 4: sums 3, 4, 4 less their mean."""
    mask = spans((1, 2, 3, 1, 1))
    rewards = torch.zeros(mask.shape)
    rewards[0, 0], rewards[0, 5], rewards[0, 7] = 1, 2, 4
    advantages, returns = compute("selfplay_turns", rewards, mask, ["u|g|r"], gamma=0.5)
    assert returns[0, [0, 3, 7]].tolist() == [3, 4, 4]
    assert advantages[0, [0, 3, 7]].tolist() == pytest.approx([-2 / 3, 1 / 3, 1 / 3])


# ---- verl's own estimators ----


@pytest.mark.parametrize("scaled", [True, False])
def test_groups_equal_grpo(installed: Installed, scaled: bool) -> None:
    """Oracle: verl's compute_grpo_outcome_advantage; groups of four and one alone."""
    torch.manual_seed(0)
    mask = spans(*[(3, 1, 2), (5,)] * 6 + [(4,)])
    rewards = torch.randn(mask.shape)
    index = np.array([f"g{k // 4}" for k in range(13)], dtype=object)
    got = compute("selfplay_group", rewards, mask, index, norm_adv_by_std_in_grpo=scaled)
    want = core_algos.compute_grpo_outcome_advantage(
        rewards.clone(), mask, index, norm_adv_by_std_in_grpo=scaled
    )
    for ours, theirs in zip(got, want, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 0.97])
def test_returns_equal_reinforce_plus_plus(installed: Installed, gamma: float) -> None:
    """Oracle: verl's compute_reinforce_plus_plus_outcome_advantage, in float64, rewards on masked tokens too."""
    torch.manual_seed(0)
    mask = spans((3, 2, 4), (12,), (1, 5, 1), (2,))
    rewards = torch.randn(mask.shape, dtype=torch.float64)
    got = compute("selfplay_returns", rewards, mask, None, gamma=gamma)
    want = core_algos.compute_reinforce_plus_plus_outcome_advantage(
        rewards, mask, config=AlgoConfig(gamma=gamma)
    )
    for ours, theirs in zip(got, want, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7)


# ---- policy losses ----


def samples(seed: int = 0, rows: int = 5, width: int = 12) -> dict[str, torch.Tensor]:
    """Log-probs whose ratios reach every branch of the loss."""
    torch.manual_seed(seed)
    mask = spans((3, 2, 4), (width,), (1, 5, 1), (2,), (4, 1))[:rows].bool()
    old = -torch.rand(mask.shape, dtype=torch.float64) * 2
    return {
        "old_log_prob": old,
        "log_prob": (old + 1.5 * torch.randn(mask.shape, dtype=torch.float64)).requires_grad_(),
        "advantages": torch.randn(mask.shape, dtype=torch.float64),
        "response_mask": mask,
    }


def actor(mode: str, **options: Any) -> ActorConfig:
    config = ActorConfig(
        strategy="fsdp", loss_agg_mode=mode, ppo_micro_batch_size_per_gpu=1, rollout_n=1, **options
    )
    config.global_batch_info.update(loss_scale_factor=config.loss_scale_factor)
    return config


def outcome(name: str, inputs: dict[str, torch.Tensor], config: Any, **more: Any) -> tuple[Any, Any, Any]:
    """loss, metrics and gradient of the log-probs, as verl's ``ppo_loss`` calls it."""
    inputs = inputs | {"log_prob": inputs["log_prob"].detach().clone().requires_grad_()}
    loss, metrics = core_algos.get_policy_loss_fn(name)(
        **inputs, loss_agg_mode=config.loss_agg_mode, config=config, **more
    )
    loss.backward()
    return loss.item(), metrics, inputs["log_prob"].grad


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), [("selfplay_ppo", "vanilla"), ("selfplay_reinforce", "gpg")])
def test_losses_equal_verl(installed: Installed, mode: str, weighted: bool, ours: str, theirs: str) -> None:
    """Oracle: verl's vanilla and gpg losses: value, gradients, and of vanilla the metrics, in every aggregation."""
    inputs = samples()
    config = actor(mode, clip_ratio_low=0.15, clip_ratio_high=0.3, clip_ratio_c=1.7)
    weights = torch.rand(inputs["log_prob"].shape, dtype=torch.float64) if weighted else None
    loss, metrics, grad = outcome(ours, inputs, config, rollout_is_weights=weights)
    want, want_metrics, want_grad = outcome(theirs, inputs, config, rollout_is_weights=weights)
    assert loss == pytest.approx(want, abs=1e-12)
    assert torch.allclose(grad, want_grad, atol=1e-12)
    if ours == "selfplay_ppo":
        assert metrics == pytest.approx(want_metrics, abs=1e-6)
        assert min(metrics["actor/pg_clipfrac"], metrics["actor/pg_clipfrac_lower"]) > 0
    else:
        _, reinforce = core_algos.compute_policy_loss_reinforce(
            inputs["old_log_prob"], *list(inputs.values())[1:], config=config
        )
        assert metrics == pytest.approx(reinforce, abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_losses_of_a_part_of_the_batch_equal_verl(installed: Installed, mode: str) -> None:
    """Oracle: verl's vanilla with the sizes of the whole batch over several ranks, as its workers set them."""
    inputs, config = samples(), actor(mode)
    config.global_batch_info.update(
        dp_size=2, batch_num_tokens=70, global_batch_size=16, loss_scale_factor=33
    )
    ours, theirs = (outcome(name, inputs, config) for name in ("selfplay_ppo", "vanilla"))
    assert ours[0] == pytest.approx(theirs[0], abs=1e-12)
    assert torch.allclose(ours[2], theirs[2], atol=1e-12)


def test_workers_call_what_is_registered(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: verl's ppo_loss with its vanilla: the loss with its KL term, gradients of the model's output, metrics."""
    for reads_data in ("datasets", "pandas"):  # which the losses import and do not use
        monkeypatch.setitem(sys.modules, reads_data, mock.MagicMock())
    losses = importlib.import_module("verl.workers.utils.losses")
    sizes = {"dp_size": 2, "batch_num_tokens": 70, "global_batch_size": 16}
    inputs = samples()
    mask, rows = inputs["response_mask"], len(inputs["response_mask"])
    read = torch.ones(rows, 3 + mask.shape[1], dtype=torch.int64)
    outcomes = []
    for mode in ("selfplay_ppo", "vanilla"):
        log_prob = torch.linspace(-3, -0.1, read.numel(), dtype=torch.float64).requires_grad_()
        data = tensordict_utils.get_tensordict(
            {
                "prompts": read[:, :3],
                "responses": read[:, 3:],
                "attention_mask": read,
                "response_mask": mask,
                "old_log_probs": inputs["old_log_prob"],
                "ref_log_prob": inputs["old_log_prob"] - 0.1,
                "advantages": inputs["advantages"],
                "rollout_is_weights": inputs["advantages"].abs(),
            },
            sizes,
        )
        config = actor("token-mean", policy_loss={"loss_mode": mode}, use_kl_loss=True)
        loss, metrics = losses.ppo_loss(config, {"log_probs": log_prob}, data)
        loss.backward()
        numbers = {
            name: getattr(metric, "aggregate", lambda metric=metric: metric)()
            for name, metric in metrics.items()
        }
        outcomes.append((loss.item(), {name: float(x) for name, x in numbers.items()}, log_prob.grad))
    ours, theirs = outcomes
    assert ours[0] == pytest.approx(theirs[0], abs=1e-12)
    assert ours[1] == pytest.approx(theirs[1], abs=1e-6)
    assert torch.allclose(ours[2], theirs[2], atol=1e-12)
    assert ours[2].abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "factor", "loss", "grad", "bound"),
    [
        (
            {"mode": "seq-mean-token-sum-norm", "loss_scale_factor": 4096, "clip_ratio_c": 99.0},
            4096,
            0.000177940336,
            [[-0.552587, -0.335159, -0.499999, 0], [0, 1.366589, 0.749998, 0]],
            2e-6,
        ),
        ({"mode": "seq-mean-token-mean", "clip_ratio_c": 1.4}, 1, 0.303063629, None, 0),
    ],
)
def test_losses_are_the_golden_numbers(
    installed: Installed, options: dict[str, Any], factor: float, loss: float, grad: Any, bound: float
) -> None:
    """Oracle: golden numbers of SPIRAL's loss (its gradient too) and of the policy term of MARS's."""
    inputs = {
        "old_log_prob": torch.tensor([[-0.6, -0.8, -0.05, -2.6], [-0.4, -0.9, -1, 0]]).double(),
        "log_prob": torch.tensor([[-0.5, -1.2, -0.05, -2], [-0.7, -0.3, -1, 0]]).double(),
        "advantages": torch.tensor([[1.0], [-1.5]]).double().expand(2, 4),
        "response_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool(),
    }
    got, _, slope = outcome("selfplay_ppo", inputs, actor(**options))
    assert got == pytest.approx(loss, rel=1e-5)
    if grad is not None:
        assert torch.allclose(slope * factor, torch.tensor(grad).double(), atol=bound)


def test_masked_tokens_have_no_part(installed: Installed) -> None:
    """Oracle: the same with masked tokens of other values; infinite ratios there make neither inf nor NaN."""
    plain, config = samples(), actor("seq-mean-token-mean")
    wild = {name: x.detach().clone() for name, x in plain.items()}
    for name, value in (("log_prob", 3e4), ("old_log_prob", -3e4), ("advantages", float("nan"))):
        wild[name][~plain["response_mask"]] = value
    for name in ("selfplay_ppo", "selfplay_reinforce"):
        loss, metrics, grad = outcome(name, plain, config)
        odd = outcome(name, wild, config)
        assert odd[:2] == (loss, metrics)
        assert torch.equal(odd[2], grad)


def test_far_ratios_equal_verl(installed: Installed) -> None:
    """Oracle: verl's vanilla, which bounds the log-ratio to 20; a ratio of e^100 gives finite gradients."""
    inputs, config = samples(), actor("token-mean")
    inputs["log_prob"] = inputs["old_log_prob"] + torch.linspace(-100, 100, 60).reshape(5, 12)
    ours, theirs = (outcome(name, inputs, config) for name in ("selfplay_ppo", "vanilla"))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-9)
    assert torch.allclose(ours[2], theirs[2], rtol=1e-9)
    assert ours[2].isfinite().all()


# ---- the fused head ----


def head(dtype: torch.dtype, *shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(*shape, 32), torch.randn(130, 32)
    return (
        hidden.to(dtype).requires_grad_(),
        weight.to(dtype).requires_grad_(),
        torch.randint(130, shape),
    )


def gradients(outputs: tuple[torch.Tensor, ...], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    torch.manual_seed(1)
    ups = [torch.randn(output.shape).to(output.dtype) for output in outputs]
    return list(torch.autograd.grad(outputs, inputs, ups))


@pytest.mark.parametrize("shape", [(70,), (2, 35)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("backend", ["torch", "liger"])
def test_fused_linear_equals_verl(shape: tuple[int, ...], temperature: float, backend: str) -> None:
    """Oracle: verl's FusedLinearForPPO with its PyTorch backend: values, shapes, dtypes and gradients."""
    hidden, weight, labels = head(torch.float32, *shape)
    want = torch_functional.FusedLinearForPPO(chunk_size=32)(hidden, weight, labels, temperature)
    with install():
        module = torch_functional.FusedLinearForPPO(impl_backend=backend)
        got = module(hidden, weight, labels.int(), temperature=temperature)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, atol=2e-5)
    inputs = [hidden, weight]
    for ours, theirs in zip(gradients(got, inputs), gradients(want, inputs), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_fused_linear_in_half_precision_is_no_worse_than_verl() -> None:
    """Oracle: the formula in float64 of the bfloat16 inputs; verl's PyTorch backend errs as much in everything."""
    hidden, weight, labels = head(torch.bfloat16, 2, 35)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    truth = token_logprobs_reference(exact[0].flatten(0, 1), exact[1], labels.flatten(), 0.7)[:2]
    want = gradients(tuple(x.view(2, 35) for x in truth), exact)
    worst: dict[str, list[float]] = {}
    for name in ("theirs", "ours"):
        module = torch_functional.FusedLinearForPPO()
        if name == "ours":
            with install():
                got = module(hidden, weight, labels, temperature=0.7)
        else:
            got = module(hidden, weight, labels, temperature=0.7)
        pairs = zip((*got, *gradients(got, [hidden, weight])), (*truth, *want), strict=True)
        worst[name] = [(x.double().flatten() - y.flatten()).abs().max().item() for x, y in pairs]
        assert [x.dtype for x in got] == [torch.float32, torch.bfloat16]
    assert all(ours <= 1.05 * theirs for ours, theirs in zip(worst["ours"], worst["theirs"], strict=True))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_linear_cross_entropy_equals_the_formula(installed: Installed, reduction: str) -> None:
    """Oracle: the formula in float64: log-probs and entropies of all tokens flat, float32, whatever leads."""
    hidden, weight, labels = head(torch.float32, 2, 35)
    got = verl_head.linear_cross_entropy(hidden, weight, labels, 0.7, reduction)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    logprobs, entropy, _ = token_logprobs_reference(exact[0].flatten(0, 1), exact[1], labels.flatten(), 0.7)
    want = (getattr(torch, reduction)(logprobs) if reduction != "none" else logprobs, entropy)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == torch.float32
        assert torch.allclose(ours.double(), theirs, atol=1e-3 if reduction == "sum" else 2e-5)
    for ours, theirs in zip(gradients(got, [hidden, weight]), gradients(want, exact), strict=True):
        assert torch.allclose(ours.double(), theirs, atol=1e-4)


def test_a_divided_vocabulary_is_left_to_verl(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: verl's own function gets all arguments where a group has two ranks, and none where it has one."""
    hidden, weight, labels = head(torch.float32, 7)
    theirs = mock.Mock(return_value="theirs")
    monkeypatch.setattr(verl_head.LinearCrossEntropy, "apply", theirs)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: group)
    one = verl_head.linear_cross_entropy(hidden, weight, labels, 1.0, "none", 1)
    assert torch.equal(one[0], verl_head.linear_cross_entropy(hidden, weight, labels)[0])
    assert not theirs.called
    assert verl_head.linear_cross_entropy(hidden, weight, labels, 1.0, "none", 2) == "theirs"
    theirs.assert_called_once_with(hidden, weight, labels, 1.0, "none", 2)


def test_mixed_dtypes_work_under_autocast(installed: Installed) -> None:
    """Oracle: both in bfloat16; float32 hidden states on a bfloat16 head are refused outside autocast, as by verl."""
    hidden, weight, labels = head(torch.bfloat16, 9)
    module = torch_functional.FusedLinearForPPO()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(hidden.float(), weight, labels)
    assert torch.equal(mixed[0], module(hidden, weight, labels)[0])
    assert mixed[1].dtype == torch.float32
    with pytest.raises(ValueError, match="hidden and weight must share dtype"):
        module(hidden.float(), weight, labels)


def test_the_head_compiles_whole(installed: Installed) -> None:
    """Oracle: the same uncompiled, value and gradients, without a break of the graph."""
    hidden, weight, labels = head(torch.float32, 2, 9)
    module = torch_functional.FusedLinearForPPO()
    want = module(hidden, weight, labels, 0.7)
    got = torch.compile(module, fullgraph=True, backend="aot_eager")(hidden, weight, labels, 0.7)
    for ours, plain in zip(
        (*got, *gradients(got, [hidden, weight])), (*want, *gradients(want, [hidden, weight])), strict=True
    ):
        assert torch.allclose(ours, plain, atol=1e-6)


# ---- in and out ----


def test_verl_has_back_what_it_had() -> None:
    """Oracle: registries and functions before; modules that imported the function by name follow both ways."""
    user: Any = type(sys)("verl._test_user")
    user.linear_cross_entropy = verl_head.linear_cross_entropy
    before = (dict(core_algos.ADV_ESTIMATOR_REGISTRY), dict(core_algos.POLICY_LOSS_REGISTRY))
    forward, function = torch_functional.FusedLinearForPPO.forward, verl_head.linear_cross_entropy
    with mock.patch.dict(sys.modules, {user.__name__: user}):
        inside = install()
        assert user.linear_cross_entropy is verl_head.linear_cross_entropy is not function
        assert torch_functional.FusedLinearForPPO.forward is not forward
        with pytest.raises(ValueError, match="install: is installed already"):
            install()
        inside.uninstall()
        inside.uninstall()
        assert user.linear_cross_entropy is verl_head.linear_cross_entropy is function
    assert torch_functional.FusedLinearForPPO.forward is forward
    assert before == (core_algos.ADV_ESTIMATOR_REGISTRY, core_algos.POLICY_LOSS_REGISTRY)


def test_a_name_that_is_taken_leaves_verl_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: verl's own refusal, and its registries before."""
    monkeypatch.setitem(core_algos.ADV_ESTIMATOR_REGISTRY, "selfplay_returns", len)
    before = (dict(core_algos.ADV_ESTIMATOR_REGISTRY), dict(core_algos.POLICY_LOSS_REGISTRY))
    with pytest.raises(ValueError, match="selfplay_returns has already been registered"):
        install()
    assert before == (core_algos.ADV_ESTIMATOR_REGISTRY, core_algos.POLICY_LOSS_REGISTRY)


def test_processes_of_verl_install_it_themselves(tmp_path: Path) -> None:
    """Oracle: a fresh process that imports verl only finds the estimator; selfplay_fast alone imports no verl."""
    (tmp_path / "plugin.py").write_text(
        "import sys\nimport selfplay_fast.learn\nassert 'verl.trainer.ppo.core_algos' not in sys.modules\n"
        "from selfplay_fast.integrations.verl import install\ninstall()\n"
    )
    code = "import verl; from verl.trainer.ppo import core_algos as c; print(c.get_adv_estimator_fn('selfplay_rae'))"
    paths = [str(tmp_path), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(paths), "VERL_USE_EXTERNAL_MODULES": "plugin", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "RoleAdvantages" in done.stdout, done.stderr


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the message names the version found and the one that is needed."""
    monkeypatch.setattr(verl, "__version__", "0.8.0")
    monkeypatch.delitem(sys.modules, "selfplay_fast.integrations.verl")
    with pytest.raises(ImportError, match=r"integrations\.verl needs verl 0\.9\.1, found 0\.8\.0"):
        importlib.import_module("selfplay_fast.integrations.verl")


# ---- refusals ----


@pytest.mark.parametrize("key", ["u", "u|g", "u|g|", "u||r", "|g|r", 3, ("g", "r"), None])
@pytest.mark.parametrize("name", ["selfplay_rae", "selfplay_turns"])
def test_a_uid_without_a_role_is_refused(installed: Installed, name: str, key: Any) -> None:
    """Oracle: the message names the estimator, the convention, the value and the row; the baseline has not moved."""
    index = np.empty(2, dtype=object)
    index[:] = ["u|g|r", key]
    mask = spans((2,), (3,))
    with pytest.raises(ValueError, match=rf'{name}: index must hold "uid\|game\|role", got .* in row 1'):
        compute(name, at_the_end(mask, [1.0, 2.0]), mask, index)
    assert installed.role_advantages.baseline == RoleBaseline()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": torch.zeros(2)}, r"token_level_rewards must be floating \[B, T\]"),
        ({"rewards": torch.zeros(2, 12).long()}, r"token_level_rewards must be floating \[B, T\]"),
        ({"rewards": torch.full((2, 12), torch.nan)}, "token_level_rewards must be finite"),
        ({"mask": torch.ones(2, 11)}, r"response_mask must be \[2, 12\]"),
        ({"mask": torch.ones(2, 12, device="meta")}, "response_mask must be .* on cpu"),
        ({"index": None}, "index must be 2 like the rows of the rewards, got none"),
        ({"index": ["u|g|r"]}, "index must be 2 like the rows of the rewards, got 1"),
    ],
)
@pytest.mark.parametrize("name", ["selfplay_rae", "selfplay_turns", "selfplay_group"])
def test_wrong_rows_are_refused(installed: Installed, name: str, change: Any, message: str) -> None:
    """Oracle: one line that names the estimator and the argument."""
    arguments = {"rewards": torch.zeros(2, 12), "mask": spans((2,), (3,)), "index": ["u|g|r"] * 2} | change
    with pytest.raises(ValueError, match=rf"^{name}: {message}"):
        compute(name, **arguments)


@pytest.mark.parametrize("name", ["selfplay_rae", "selfplay_turns", "selfplay_group", "selfplay_returns"])
@pytest.mark.parametrize("rows", [0, 2])
def test_empty_batches_and_rows(installed: Installed, name: str, rows: int) -> None:
    """Oracle: zeros of the same shape where nothing, or nothing of the policy's, is there."""
    nothing = torch.zeros(rows, 5)
    for got in compute(name, nothing, nothing, ["pad"] * rows):
        assert torch.equal(got, nothing)


@pytest.mark.parametrize("name", ["selfplay_ppo", "selfplay_reinforce"])
@pytest.mark.parametrize("argument", ["old_log_prob", "advantages", "response_mask", "rollout_is_weights"])
def test_losses_refuse_other_shapes(installed: Installed, name: str, argument: str) -> None:
    """Oracle: one line that names the loss and the argument; so without a config."""
    loss, config = core_algos.get_policy_loss_fn(name), actor("token-mean")
    with pytest.raises(ValueError, match=rf"^{name}: {argument} must be \[5, 12\] on cpu"):
        loss(**samples() | {argument: torch.zeros(5, 1)}, config=config)
    with pytest.raises(ValueError, match=f"^{name}: config must be"):
        loss(**samples())
    with pytest.raises(ValueError, match=rf"^{name}: log_prob must be \[B, T\]"):
        loss(**samples() | {"log_prob": torch.zeros(5)}, config=config)


def test_the_head_refuses_what_does_not_fit(installed: Installed) -> None:
    """Oracle: one line that names the function and the argument, an id outside the vocabulary too."""
    hidden, weight, labels = head(torch.float32, 7)
    fused = torch_functional.FusedLinearForPPO()
    with pytest.raises(ValueError, match=r"^FusedLinearForPPO: hidden_states .* \(7, 32\), \(6,\)"):
        fused(hidden, weight, labels[:6])
    with pytest.raises(ValueError, match=r"^linear_cross_entropy: hidden .* \(7, 32\), \(6,\)"):
        verl_head.linear_cross_entropy(hidden, weight, labels[:6])
    with pytest.raises(ValueError, match=r"^linear_cross_entropy: reduction must be one of none, sum, mean"):
        verl_head.linear_cross_entropy(hidden, weight, labels, 1.0, "max")
    with pytest.raises(ValueError, match="targets must be from 0 to 129"):
        fused(hidden, weight, torch.full_like(labels, -100))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "late"}, "order: must be 'post', 'pre' or 'batch', got 'late'"),
        ({"rows": "games"}, "rows: must be 'episodes' or 'turns', got 'games'"),
        ({"pool": "seat"}, "pool: must be 'role' or 'game_role', got 'seat'"),
    ],
)
def test_unknown_words_are_refused(options: Any, message: str) -> None:
    """Oracle: the message; nothing is registered."""
    with pytest.raises(ValueError, match=message):
        install(**options)
    assert "selfplay_rae" not in core_algos.ADV_ESTIMATOR_REGISTRY


def test_role_uids(installed: Installed) -> None:
    """Oracle: by hand, and back through the baseline; refusals name the argument.

    verl 0.9.1's replay buffer makes keys "{uid}_{session}_{output}" and takes what is before the first "_" as the uid.
    """
    assert role_uids(["a", "b|c"], "nim", ["x", "player_0"]).tolist() == ["a|nim|x", "b%7Cc|nim|player%5F0"]
    odd = role_uids(["u_1", "%"], ["kuhn_poker(rounds=5)", "g|h"], ["50%", "a_b"])
    assert [f"{uid}_0_0".split("_")[0] for uid in odd] == odd.tolist()
    mask = spans((2,), (3,))
    compute("selfplay_rae", at_the_end(mask, [1.0, 2.0]), mask, odd)
    assert set(installed.role_advantages.baseline.values) == {("kuhn_poker(rounds=5)", "50%"), ("g|h", "a_b")}
    for uids, games, roles, message in [
        (["a", "b"], ["nim"], "x", "games must be 2"),
        (["a", "b"], "nim", ["x"] * 3, "roles must be 2"),
        (["a", "b"], "", "x", "games must be words"),
        (["a", "b"], "nim", ["x", None], "roles must be words"),
        (["a", 3], "nim", "x", "uids must be words"),
    ]:
        with pytest.raises(ValueError, match=f"role_uids: {message}"):
            role_uids(uids, games, roles)  # type: ignore[arg-type]
