"""The embedded default: a small Qwen3-architecture model and a tokenizer built from the games' own texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from selfplay_fast import games
from selfplay_fast.policies.streams import derive_seed

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>")
_VOCABULARY = 768
_CONTEXT = 4096

# A model this small learns from self-play only if its gradients tell states apart from the start. With the library's
# defaults (0.02 and 1) every head averages over the whole prompt: the gradients of a reply's log-odds at states that
# differ in one card are almost parallel after the warm-up, and the policy moves in all states alike. Sharp heads, each
# fixed on few tokens, and a warm-up that leaves the layers nearly as they are keep them apart.
_INITIAL_STD = 0.12
_INITIAL_SHARPNESS = 8.0
# One that imitates first, with all its layers, learns five times as fast from soft heads.
_SOFT_STD = 0.05
_SOFT_SHARPNESS = 1.0


def random_play_texts(
    names: Sequence[str],
    episodes: int,
    seed: int,
    *,
    style: games.Style = "spiral",
    legal_list: bool | None = None,
) -> tuple[list[str], list[str]]:
    """Observations and canonical replies of uniformly random legal play, all games together."""
    observations: list[str] = []
    replies: list[str] = []
    for g, name in enumerate(names):
        batch = games.make(name, episodes, seed=derive_seed(seed, g), style=style, legal_list=legal_list)
        ply = 0
        while not batch.terminated.all():
            rows = np.flatnonzero(~batch.terminated)
            actions = batch.sample_actions(derive_seed(seed, g, ply))[rows]
            at_once = batch.description.simultaneous
            for player in range(batch.description.num_players) if at_once else (None,):
                observations += batch.observation(rows, player)
                chosen = actions if player is None else actions[:, player]
                replies += [
                    batch.reply_text(int(r), int(a), player) for r, a in zip(rows, chosen, strict=True)
                ]
            batch.step(actions, rows=rows)
            ply += 1
    return observations, replies


def build_tokenizer(texts: Sequence[str], *, whole_words: bool = False) -> Any:
    r"""A byte-level BPE tokenizer with a chat template; ``\boxed{`` is one token, any text can be encoded.

    whole_words: whatever stands between spaces may become one token, as hanabi's ``R1{RY}{12}``; otherwise letters,
    digits and signs stay apart.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    if whole_words:
        words = pre_tokenizers.Split(Regex(r"[ \n]"), "merged_with_next")
        tokens = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, tokens])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - 1,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken("\\boxed{", normalized=False, special=False)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_SPECIAL[0], eos_token=_SPECIAL[2], padding_side="left"
    )
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def build_model(vocabulary: int, end_token: int, pad_token: int, seed: int, *, soft: bool = False) -> Any:
    """About one million parameters: 4 layers, hidden 128, 4 query and 2 key-value heads, tied embeddings.

    soft: heads begin by attending to everything alike.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=-(-vocabulary // 64) * 64,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=_CONTEXT,
        tie_word_embeddings=True,
        initializer_range=_SOFT_STD if soft else _INITIAL_STD,
        bos_token_id=None,
        eos_token_id=end_token,
        pad_token_id=pad_token,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    for layer in model.model.layers:
        layer.self_attn.q_norm.weight.data.fill_(_SOFT_SHARPNESS if soft else _INITIAL_SHARPNESS)
    return model


def build_nano(
    names: Sequence[str],
    seed: int,
    *,
    style: games.Style = "spiral",
    legal_list: bool | None = None,
    whole_words: bool = False,
) -> tuple[Any, Any]:
    """Model and tokenizer for these games, untrained; the texts do not depend on the seed, the weights do."""
    observations, replies = random_play_texts(names, episodes=64, seed=0, style=style, legal_list=legal_list)
    return build_nano_of(observations, replies, seed, whole_words=whole_words)


def build_nano_of(
    prompts: Sequence[str],
    replies: Sequence[str],
    seed: int,
    *,
    whole_words: bool = False,
    soft: bool = False,
) -> tuple[Any, Any]:
    """The same for a language of which these are prompts and replies; ``soft`` for a model that is to imitate them."""
    chat = ["user\n", "assistant\n"] * len(prompts)  # the template's own words, as often as they occur
    texts = [*dict.fromkeys(prompts), *dict.fromkeys(replies), *chat]
    tokenizer = build_tokenizer(texts, whole_words=whole_words)
    model = build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, seed, soft=soft)
    return model, tokenizer
