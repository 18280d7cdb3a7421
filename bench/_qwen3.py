"""Qwen3 models of random weights in their published shapes, for machines that cannot fetch real ones.

    python bench/_qwen3.py 0.6b FOLDER [--games kuhn_poker tic_tac_toe negotiation]

writes a folder that `selfplay-fast train spiral --model FOLDER` takes. Vocabulary and head have the published size; the
tokenizer is nano's, so tokens beyond its own 768 stand for no text. Shapes: Qwen3 technical report (Yang et al. 2025,
arXiv 2505.09388), table 1, and the models' published configurations.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from selfplay_fast.policies.nano import build_tokenizer, random_play_texts

GAMES = ("kuhn_poker", "tic_tac_toe", "negotiation")
#        hidden, intermediate, layers, heads
SHAPES = {
    "0.6b": (1024, 3072, 28, 16),
    "1.7b": (2048, 6144, 28, 16),
    "4b": (2560, 9728, 36, 32),
}


def config_of(size: str) -> Qwen3Config:
    """The published shape; 8 heads of 128 for keys and values, embeddings tied."""
    hidden, intermediate, layers, heads = SHAPES[size]
    return Qwen3Config(
        vocab_size=151936,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        rope_theta=1e6,
        tie_word_embeddings=True,
        bos_token_id=None,
    )


def build(size: str, games: Sequence[str] = GAMES, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """Model and tokenizer, made on the current default device."""
    observations, replies = random_play_texts(games, episodes=64, seed=0)
    tokenizer = build_tokenizer([*dict.fromkeys(observations), *dict.fromkeys(replies)])
    config = config_of(size)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--games", nargs="+", default=GAMES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    with torch.device(args.device):
        model, tokenizer = build(args.size, args.games)
    model.save_pretrained(args.folder)
    tokenizer.save_pretrained(args.folder)
    print(f"{args.folder}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
