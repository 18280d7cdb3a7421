"""Oracle: the transformers model itself, one text at a time."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, Qwen3Config
from transformers import Qwen3ForSequenceClassification as Qwen3Reward

from selfplay_fast.play.evolve_prompts import read_score
from selfplay_fast.policies.openai_server import OpenAIServer
from selfplay_fast.policies.reward_models import SequenceReward, load_reward_model
from selfplay_fast.records import Ask

PAIRS = [("take turns", "and more"), ("x", "Three in a row win. " * 3), ("O", ""), ("a b c", "d e")]


def asks(pairs: list[tuple[str, str]], n: int = 1) -> list[Ask]:
    return [
        Ask(
            role="reward_model",
            append=[{"role": "user", "content": a}, {"role": "assistant", "content": b}],
            n=n,
        )
        for a, b in pairs
    ]


@pytest.fixture(params=["pair", "chat"])
def folder(request: pytest.FixtureRequest, toy_policy: Any, tmp_path: Path) -> Path:
    """A tiny random reward model: an encoder of pairs of texts, or a decoder of chats whose last token it looks at."""
    tokenizer = toy_policy.tokenizer
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 128,
        "initializer_range": 1.0,
        "num_labels": 1,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    model: Any
    if request.param == "pair":
        model = BertForSequenceClassification(BertConfig(**common))
    else:
        model = Qwen3Reward(Qwen3Config(**common, num_key_value_heads=1, head_dim=8))
    model.save_pretrained(tmp_path / "rewards")
    template = tokenizer.chat_template
    tokenizer.chat_template = None if request.param == "pair" else template
    tokenizer.save_pretrained(tmp_path / "rewards")
    tokenizer.chat_template = template
    return tmp_path / "rewards"


def alone(folder: Path, pair: tuple[str, str]) -> float:
    """The logit of one conversation, without padding."""
    scorer = SequenceReward.load(folder, device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        batch = tokenizer(*pair, return_tensors="pt")
    else:
        chat = [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        batch = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        return float(scorer.model(**batch).logits)


@pytest.mark.parametrize("most", [40, 16384])
def test_rewards_do_not_depend_on_what_is_scored_beside_them(folder: Path, most: int) -> None:
    scorer = SequenceReward.load(folder, device="cpu", max_batch_tokens=most)
    replies = scorer.generate(asks(PAIRS, n=2))
    found = [read_score(reply.text) for reply in replies]
    assert found[::2] == found[1::2]
    assert len(set(found)) == len(PAIRS)
    assert found[::2] == pytest.approx([alone(folder, pair) for pair in PAIRS], abs=1e-5)


def test_what_is_too_long_has_no_reward_and_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    scorer = SequenceReward.load(folder, device="cpu")
    with caplog.at_level(logging.WARNING):
        replies = scorer.generate(asks([("take", "turns"), ("take", "turns and more " * 60)]))
    assert [reply.lost for reply in replies] == [False, True]
    assert "1 of 2 rewards are missing" in caplog.text


def test_what_is_not_finite_is_no_reward(folder: Path) -> None:
    scorer = SequenceReward.load(folder, device="cpu")
    torch.nn.init.constant_(
        scorer.model.get_parameter(next(n for n, _ in scorer.model.named_parameters())), math.nan
    )
    assert [reply.lost for reply in scorer.generate(asks(PAIRS))] == [True] * len(PAIRS)
    assert scorer.generate([]) == []


def test_what_cannot_be_a_reward_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reward_model: .* cannot be loaded: "):
        load_reward_model(f"classifier:{tmp_path}/none", device="cpu")
    config = BertConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, num_labels=3)
    with pytest.raises(ValueError, match="reward_model: must have one label, the reward, got 3"):
        SequenceReward(BertForSequenceClassification(config), AutoTokenizer.from_pretrained(folder))
    with pytest.raises(
        ValueError, match="reward_model: must be server:URL#MODEL or classifier:FOLDER, got 'x:y'"
    ):
        load_reward_model("x:y")
    scorer = load_reward_model(f"classifier:{folder}", device="cpu")
    with pytest.raises(ValueError, match="reads messages; the ask of role 'x' has none"):
        scorer.generate([Ask(role="x", append="text")])
    with pytest.raises(ValueError, match="no log-probs"):
        scorer.score([])


def test_a_server_is_asked_for_a_word_before_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: who is checked, and how long an attempt may take."""
    checked: list[OpenAIServer] = []
    monkeypatch.setattr(OpenAIServer, "check", lambda server: checked.append(server))
    scorer = load_reward_model("server:http://127.0.0.1:1/v1#judge", timeout=3)
    assert checked == [scorer]
    assert checked[0].endpoint.limits.timeout == 3
