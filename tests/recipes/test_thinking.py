"""Recipes with a model that thinks: what the command line says of reasoning reaches the policy and the tables.

Oracles: what the update is given, and the tags in what was said.
"""

from pathlib import Path
from typing import Any

import pytest

from selfplay_fast.cli import main
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_model, build_tokenizer
from selfplay_fast.recipes import mars, spiral

TAGS = ("<think>", "</think>")
THINKS = "{% if add_generation_prompt %}<|im_start|>assistant\n"
DROPS = "{{ message.content.split('</think>')[-1] if message.role == 'assistant' else message.content }}"
SMALL = (
    "--games kuhn_poker --style brief --steps 1 --max-tokens 8 --max-think-tokens 3 --eval-episodes 1"
    " --eval-episodes-between 1 --device cpu --learning-rate 0"
)


@pytest.fixture
def folder(toy_texts: list[str], tmp_path: Path) -> str:
    """An untrained model whose prompts open its reasoning, and whose template drops that of earlier turns."""
    tokenizer = build_tokenizer(toy_texts)
    tokenizer.add_tokens(list(TAGS))
    template = tokenizer.chat_template.replace(THINKS, f"{THINKS}<think>").replace(
        "{{ message.content }}", DROPS
    )
    assert DROPS in template
    assert THINKS in template
    tokenizer.chat_template = template
    model = build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, seed=0)
    LanguageModel(model, tokenizer).save(tmp_path / "model")
    return str(tmp_path / "model")


def _trained(
    recipe: Any, line: str, folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[Any, Any]:
    """The policy and the batch of the only update of a run."""
    seen = []

    def learn(policy: Any, optimizer: Any, batch: Any, *args: Any, **options: Any) -> dict[str, float]:
        seen.append((policy, batch))
        return {"loss": 0.0}

    monkeypatch.setattr(recipe, "update", learn)
    name = recipe.__name__.rpartition(".")[2]
    assert main(f"train {name} --model {folder} {SMALL} {line} --run-dir {tmp_path / 'run'}".split()) == 0
    return seen[0]


def test_reasoning_is_kept_within_its_budget(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Noise hardly ever closes a tag by itself: after three tokens it is done by force, and some answer is left."""
    policy, batch = _trained(spiral, "--samples-per-step 12 --loss-length 8", folder, monkeypatch, tmp_path)
    closing = policy.thinking.closing
    replies = [s[first:] for s, first in zip(batch.sequences, batch.first.tolist(), strict=True)]
    long = [reply for reply in replies if len(reply) > 3]
    assert len(long) > 0.8 * len(replies)
    assert sum((reply[3 : 3 + len(closing)] == closing).all() for reply in long) > 0.8 * len(long)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_conversation_may_be_what_the_template_makes_of_it(
    folder: str, keeps: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    line = (
        "--held-out --games-per-step 6 --keep-thinking"
        if keeps
        else "--held-out --games-per-step 6 --no-keep-thinking"
    )
    policy, _ = _trained(mars, line, folder, monkeypatch, tmp_path)
    assert policy.chat.keep_thinking is keeps
    said = [{"role": "user", "content": "?"}]
    assert policy.chat.rewrites(said) is not keeps


def test_a_model_that_does_not_think_has_no_budget(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"train spiral --model {base} {SMALL} --run-dir {tmp_path / 'run'}".split()) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("selfplay-fast:")]
    assert "max_think_tokens needs a thinking model" in said
