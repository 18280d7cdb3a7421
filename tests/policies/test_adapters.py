"""LoRA adapters: what they leave alone, what they add, and what is saved of them."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

peft = pytest.importorskip("peft", reason="comes with the extra 'test'")

from selfplay_fast.learn import Update, update  # noqa: E402
from selfplay_fast.learn.losses import negative_log_likelihood, ppo_clip_loss  # noqa: E402
from selfplay_fast.learn.warmup import demonstration_batch  # noqa: E402
from selfplay_fast.policies.adapters import (  # noqa: E402
    add_adapters,
    load_adapters,
    merge_adapters,
    with_own_adapters,
    without_adapters,
)
from selfplay_fast.policies.language_model import LanguageModel  # noqa: E402
from selfplay_fast.records import Ask, Key, Sampling  # noqa: E402


def learned(policy: LanguageModel, texts: list[str]) -> None:
    """Two steps of everything that is trained."""
    trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    batch = demonstration_batch(policy, texts[:4], ["a reply"] * 4)
    for _ in range(2):
        update(policy, torch.optim.SGD(trained, lr=1.0), batch, Update(loss=negative_log_likelihood))


def scores(policy: LanguageModel, texts: list[str]) -> torch.Tensor:
    asks = [Ask(role="a", append=text, key=Key(0, 0, 0), choices=("yes", "no")) for text in texts[:4]]
    return torch.as_tensor(np.stack(policy.score(asks)))


def replies(policy: LanguageModel, texts: list[str]) -> list[list[int]]:
    asks = [
        Ask(role="a", append=text, key=Key(0, i, 0), sampling=Sampling(max_tokens=6))
        for i, text in enumerate(texts)
    ]
    return [reply.tokens.tolist() for reply in policy.generate(asks)]


def test_only_adapters_learn_and_the_base_comes_back(toy_policy, toy_texts: list[str]) -> None:
    """Oracle: scores before adapters were there; with them off they are equal to the bit, with them on they are not."""
    before = scores(toy_policy, toy_texts)
    add_adapters(toy_policy.model, 4)
    trained = [name for name, p in toy_policy.model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 4  # A and B of seven linear layers in four blocks, and no head
    assert all("lora_" in name for name in trained)
    assert torch.equal(scores(toy_policy, toy_texts), before)
    learned(toy_policy, toy_texts)
    after = scores(toy_policy, toy_texts)
    assert (after - before).abs().max() > 1e-3
    with without_adapters(toy_policy.model):
        assert torch.equal(scores(toy_policy, toy_texts), before)
    assert torch.equal(scores(toy_policy, toy_texts), after)


def test_adapters_switched_off_leave_no_contexts(toy_policy, toy_texts: list[str]) -> None:
    """Oracle: replies of the model before adapters were there, and log-probs after everything was forgotten."""

    def said() -> np.ndarray:
        ask = Ask(role="a", append=toy_texts[0], key=Key(0, 0, 0), sampling=Sampling(max_tokens=6))
        return toy_policy.generate([ask])[0].logprobs

    before = said()
    add_adapters(toy_policy.model, 4)
    learned(toy_policy, toy_texts)
    after = said()
    with without_adapters(toy_policy.model):
        assert said() == pytest.approx(before, abs=1e-5)
    kept = said()
    assert kept == pytest.approx(after, abs=1e-5)
    assert np.abs(after - before).max() > 1e-3


def test_adapters_alone_are_saved_and_merge(toy_policy, toy_texts: list[str], tmp_path: Path) -> None:
    """Oracle: the model in memory: its adapters loaded onto the base, and merged into it, score and say the same."""
    toy_policy.save(tmp_path / "base")
    policy = LanguageModel.load(tmp_path / "base")
    add_adapters(policy.model, 4)
    learned(policy, toy_texts)
    policy.save(tmp_path / "adapters")
    assert not (tmp_path / "adapters" / "model.safetensors").exists()
    loaded = LanguageModel.load(tmp_path / "adapters")
    assert torch.equal(scores(loaded, toy_texts), scores(policy, toy_texts))
    merge_adapters(loaded.model)
    loaded.save(tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    merged = LanguageModel.load(tmp_path / "merged")
    assert (scores(merged, toy_texts) - scores(policy, toy_texts)).abs().max() < 1e-4
    assert replies(merged, toy_texts[:8]) == replies(policy, toy_texts[:8])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for the old name
def test_pefts_own_wrapper(toy_policy, toy_texts: list[str]) -> None:
    """Oracle: peft's forward pass, text by text: scores agree, replies are those of the model in place."""
    wrapped = peft.get_peft_model(
        toy_policy.model, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    policy = LanguageModel(wrapped, toy_policy.tokenizer)
    texts, answer = toy_texts[:3], policy.choice_tokens("yes")
    for text, prompt in zip(texts, policy.encode(texts), strict=True):
        ids = torch.tensor([*prompt.tolist(), *answer.tolist()])[None]
        with torch.no_grad():
            logp = wrapped(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        want = logp.gather(-1, ids[0, len(prompt) :, None]).sum()
        got = policy.score([Ask(role="a", append=text, key=Key(0, 0, 0), choices=("yes",))])[0][0]
        assert got == pytest.approx(want.item(), abs=1e-4)
    batch = demonstration_batch(policy, texts, ["a reply"] * 3)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    metrics = update(policy, torch.optim.SGD(trained, lr=0.1), batch, Update(loss=ppo_clip_loss()))
    assert metrics["grad_norm"] > 0
    assert len(replies(policy, texts)) == 3


def test_adapters_follow_from_the_seed(toy_policy) -> None:  # type: ignore[no-untyped-def]
    """Oracle: another copy of the model, with other draws before: equal for an equal seed, else not."""
    drawn = []
    for seed in (1, 1, 2):
        model = copy.deepcopy(toy_policy.model)
        torch.rand(len(drawn))
        add_adapters(model, 4, seed)
        drawn.append(next(p for name, p in model.named_parameters() if "lora_A" in name).detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_two_sets_of_adapters_share_one_frozen_model(
    toy_policy: LanguageModel, toy_texts: list[str], tmp_path: Path
) -> None:
    """Oracle: the storage of the weights; what one learns changes nothing of the other; saved, it comes back alike."""
    base = tmp_path / "base"
    toy_policy.save(base)
    policy = LanguageModel.load(base)
    add_adapters(policy.model, 2, seed=1)
    other = LanguageModel(with_own_adapters(policy.model, seed=2), policy.tokenizer)
    ours, theirs = (dict(p.model.named_parameters()) for p in (policy, other))
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        shared = parameter.data_ptr() == theirs[name].data_ptr()
        assert shared == (not parameter.requires_grad)
        assert shared or "lora_B" in name or not torch.equal(parameter, theirs[name])
    again = with_own_adapters(policy.model, seed=2)
    assert all(torch.equal(p, theirs[name]) for name, p in again.named_parameters())
    before = scores(policy, toy_texts)
    assert torch.equal(scores(other, toy_texts), before)  # untrained they do nothing
    learned(other, toy_texts)
    assert torch.equal(scores(policy, toy_texts), before)
    after = scores(other, toy_texts)
    assert (after - before).abs().max() > 1e-3
    other.save(base / "adapters")
    load_adapters(policy.model, base / "adapters")
    assert torch.allclose(scores(policy, toy_texts), after, atol=1e-6)
    wide = LanguageModel.load(base)
    add_adapters(wide.model, 3)
    with pytest.raises(ValueError, match=r"adapters in .* do not fit the model"):
        load_adapters(wide.model, base / "adapters")
