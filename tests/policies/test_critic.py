"""Critics. Oracle: the trunk's hidden states, one forward pass per sequence, times the head."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from selfplay_fast.learn import batch_values
from selfplay_fast.learn.warmup import demonstration_batch
from selfplay_fast.policies.critic import Critic


@pytest.fixture
def folder(toy_policy, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    """The toy policy's own."""
    toy_policy.save(tmp_path / "policy")
    return tmp_path / "policy"


def test_values_are_those_before_each_token(toy_policy, toy_texts, folder: Path) -> None:  # type: ignore[no-untyped-def]
    """Oracle: a forward pass per sequence; the value of a token is the head's at the token before it."""
    critic = Critic.load(folder, "dense", seed=0)
    batch = demonstration_batch(toy_policy, toy_texts[:6], ["a reply", "another one", "and more"] * 2)
    values = batch_values(critic, batch, max_batch_tokens=512)
    for i, sequence in enumerate(batch.sequences):
        ids = torch.as_tensor(sequence.astype(np.int64))[None]
        with torch.no_grad():
            whole = critic.model(input_ids=ids, use_cache=False).logits[0, :, 0]
        own = values[batch.offsets[i] : batch.offsets[i + 1]]
        assert torch.allclose(own, whole[batch.first[i] - 1 : -1], atol=1e-5)
    assert values.std() > 1e-3
    assert critic.forward_passes.tokens > 0


def test_a_new_critic_has_the_trunk_of_the_policy_and_a_small_head(toy_policy, folder: Path) -> None:  # type: ignore[no-untyped-def]
    """Oracle: the policy's weights; a head of standard deviation 1 / (H + 1) that follows from the seed."""
    one, same, other = (Critic.load(folder, "dense", seed=seed) for seed in (1, 1, 2))
    trunk = dict(toy_policy.model.base_model.named_parameters())
    for name, weight in one.model.base_model.named_parameters():
        assert torch.equal(weight, trunk[name]), name
    head, size = one.model.score, one.model.config.hidden_size
    assert torch.equal(head.weight, same.model.score.weight)
    assert not torch.equal(head.weight, other.model.score.weight)
    assert head.weight.std().item() == pytest.approx(1 / (size + 1), rel=0.25)
    assert head.bias is None
    assert not one.model.training


def test_a_saved_critic_comes_back(folder: Path, tmp_path: Path) -> None:
    """Oracle: the weights that were saved, the head's too, whatever the seed."""
    critic = Critic.load(folder, "dense", seed=0)
    with torch.no_grad():
        critic.model.score.weight.add_(1)
    critic.save(tmp_path / "critic")
    again = Critic.load(tmp_path / "critic", "dense", seed=5)
    for (name, weight), (_, other) in zip(
        critic.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert torch.equal(weight, other), name


def test_folders_that_are_no_critic_are_named(folder: Path, tmp_path: Path) -> None:
    """Oracle: one line with the folder's name."""
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=16)).save_pretrained(
        tmp_path / "gpt2"
    )
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    for path in (tmp_path / "nowhere", broken, tmp_path / "gpt2"):
        with pytest.raises(ValueError, match=rf"^critic '{path}' cannot be loaded: [^\n]+$"):
            Critic.load(path, "dense", seed=0)
