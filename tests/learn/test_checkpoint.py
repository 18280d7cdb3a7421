"""Checkpoints: what is loaded is what was saved, and what is damaged says so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from selfplay_fast.learn import RoleBaseline, Update, checkpoint, update
from selfplay_fast.learn.checkpoint import (
    TrainState,
    list_checkpoints,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from selfplay_fast.learn.losses import negative_log_likelihood
from selfplay_fast.learn.warmup import demonstration_batch
from selfplay_fast.policies.language_model import LanguageModel


def adamw(policy: LanguageModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW(policy.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)


def train(policy: LanguageModel, optimizer: torch.optim.Optimizer, texts: list[str], steps: range) -> None:
    """One supervised optimizer step per number, each on texts of its own."""
    for step in steps:
        batch = demonstration_batch(policy, texts[step : step + 4], [f"reply {step}"] * 4)
        update(policy, optimizer, batch, Update(loss=negative_log_likelihood))


def same_weights(a: LanguageModel, b: LanguageModel) -> bool:
    ours, theirs = a.model.state_dict(), b.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def state_of(step: int) -> TrainState:
    return TrainState(step=step, baseline=RoleBaseline())


def test_a_loaded_run_goes_on_bit_for_bit(toy_policy, toy_texts: list[str], tmp_path: Path) -> None:
    """Oracle: the uninterrupted run; weights after two more steps, version, step and baseline are equal exactly."""
    optimizer = adamw(toy_policy)
    train(toy_policy, optimizer, toy_texts, range(2))
    values = {("g", "player_0"): 0.1, ("g", "player_1"): -1 / 3, ("g(rounds=2)", "player_0"): 1e-17}
    state = TrainState(step=2, baseline=RoleBaseline(decay=0.9, values=values))
    path = save_checkpoint(tmp_path, toy_policy, optimizer, state)

    policy, tensors, loaded = load_checkpoint(path)
    assert same_weights(policy, toy_policy)
    assert (policy.version, loaded) == (2, state)
    assert [ids.tolist() for ids in policy.encode(toy_texts)] == [
        ids.tolist() for ids in toy_policy.encode(toy_texts)
    ]
    again = adamw(policy)
    restore_optimizer(again, tensors)

    train(toy_policy, optimizer, toy_texts, range(2, 4))
    without_moments, _, _ = load_checkpoint(path)
    train(policy, again, toy_texts, range(2, 4))
    train(without_moments, adamw(without_moments), toy_texts, range(2, 4))
    assert same_weights(policy, toy_policy)
    assert not same_weights(without_moments, toy_policy)  # so the comparison can tell


def test_the_untrained_policy_and_the_newest_two_are_kept(toy_policy, tmp_path: Path) -> None:
    """Oracle: the names that ought to be left after five saves, oldest first."""
    optimizer = adamw(toy_policy)
    for step in (0, 3, 6, 9):
        save_checkpoint(tmp_path, toy_policy, optimizer, state_of(step))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000000", "step-000006", "step-000009"]
    save_checkpoint(tmp_path, toy_policy, optimizer, state_of(12), keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000", "step-000012"]


def test_only_whole_checkpoints_are_listed_in_the_order_of_steps(tmp_path: Path) -> None:
    """Oracle: numbers compared as numbers, also beyond six digits; other names do not count."""
    for name in (
        "step-1000000",
        "step-999999",
        "step-000007",
        ".step-000008.partial",
        "step-9",
        "step-000009.bak",
    ):
        (tmp_path / name).mkdir()
    listed = [path.name for path in list_checkpoints(tmp_path)]
    assert listed == ["step-000007", "step-999999", "step-1000000"]


def test_a_half_written_folder_is_ignored_and_replaced(toy_policy, tmp_path: Path) -> None:
    """Oracle: after a save that was killed halfway the older one is the newest; the next save of that step counts."""
    optimizer = adamw(toy_policy)
    save_checkpoint(tmp_path, toy_policy, optimizer, state_of(2))
    partial = tmp_path / ".step-000004.partial"
    (partial / "model").mkdir(parents=True)
    (partial / "model" / "model.safetensors").write_bytes(b"\x08")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000002"]
    path = save_checkpoint(tmp_path, toy_policy, optimizer, state_of(4))
    assert not partial.exists()
    assert list_checkpoints(tmp_path)[-1] == path
    assert load_checkpoint(path)[2].step == 4


def test_a_full_disk_leaves_the_earlier_checkpoint(
    toy_policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: an OSError naming the new checkpoint; the old one loads and nothing else is left behind."""
    optimizer = adamw(toy_policy)
    path = save_checkpoint(tmp_path, toy_policy, optimizer, state_of(2))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"step-000004.*No space left"):
        save_checkpoint(tmp_path, toy_policy, optimizer, state_of(4))
    assert list(tmp_path.iterdir()) == [path]
    assert load_checkpoint(path)[2].step == 2


def test_weights_that_are_not_finite_are_not_saved(toy_policy, tmp_path: Path) -> None:
    """Oracle: one weight set to infinity: the step is named and the folder stays as it was."""
    path = save_checkpoint(tmp_path, toy_policy, adamw(toy_policy), state_of(2))
    with torch.no_grad():
        next(toy_policy.model.parameters()).view(-1)[7] = float("inf")
    with pytest.raises(FloatingPointError, match="step 4: a weight is not finite"):
        save_checkpoint(tmp_path, toy_policy, adamw(toy_policy), state_of(4))
    assert list(tmp_path.iterdir()) == [path]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def without(key: str) -> Callable[[Path], None]:
    def remove(path: Path) -> None:
        document = json.loads(path.read_text())
        del document[key]
        path.write_text(json.dumps(document))

    return remove


DAMAGE = {
    "weights cut": ("model/model.safetensors", cut),
    "weights gone": ("model/model.safetensors", Path.unlink),
    "weights empty": ("model/model.safetensors", lambda path: path.write_bytes(b"")),
    "model config cut": ("model/config.json", cut),
    "model config gone": ("model/config.json", Path.unlink),
    "tokenizer cut": ("model/tokenizer.json", cut),
    "tokenizer gone": ("model/tokenizer.json", Path.unlink),
    "chat template cut": ("model/chat_template.jinja", cut),
    "optimizer cut": ("optimizer.safetensors", cut),
    "optimizer gone": ("optimizer.safetensors", Path.unlink),
    "state cut": ("state.json", cut),
    "state gone": ("state.json", Path.unlink),
    "state is not an object": ("state.json", lambda path: path.write_text("[2]")),
    "state is not text": ("state.json", lambda path: path.write_bytes(b"\xff\xfe{}")),
    "one bit of the weights": ("model/model.safetensors", flip),
    "one bit of the optimizer": ("optimizer.safetensors", flip),
    "one bit of the state": ("state.json", flip),
    "sums cut": ("files.json", cut),
    "sums gone": ("files.json", Path.unlink),
    "sums are a list": ("files.json", lambda path: path.write_text("[]")),
    "step missing": ("state.json", without("step")),
    "baseline missing": ("state.json", without("baseline")),
}


@pytest.fixture
def saved(toy_policy, toy_texts: list[str], tmp_path: Path) -> Path:
    optimizer = adamw(toy_policy)
    train(toy_policy, optimizer, toy_texts, range(1))
    return save_checkpoint(tmp_path, toy_policy, optimizer, state_of(2))


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_naming_the_checkpoint(damage: str, saved: Path) -> None:
    """Oracle: every file cut, emptied or removed in turn; never another kind of error, never a loaded policy."""
    name, harm = DAMAGE[damage]
    harm(saved / name)
    with pytest.raises(ValueError, match=r"checkpoint .*step-000002 is damaged") as raised:
        load_checkpoint(saved)
    assert "\n" not in str(raised.value)
