"""A transformers causal model as a policy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jinja2 import TemplateError
from safetensors import SafetensorError

from selfplay_fast.kernels.token_logprobs import token_logprobs
from selfplay_fast.policies.adapters import adapters_on, check_folder, in_place
from selfplay_fast.policies.base import answer_all
from selfplay_fast.policies.chat import ChatTemplate
from selfplay_fast.policies.decode import Row
from selfplay_fast.policies.flops import Passes
from selfplay_fast.policies.model_stream import ModelStream
from selfplay_fast.policies.prefix_forward import (
    Attention,
    head_weight,
    prefix_hidden,
    prefix_trees,
)
from selfplay_fast.policies.prefix_store import PrefixStore
from selfplay_fast.policies.row_cache import RowCache
from selfplay_fast.policies.supported import attention_of, choose_attention
from selfplay_fast.policies.thinking import Tags, ThinkTags, find_tags, hidden_part
from selfplay_fast.policies.weights import in_own_memory
from selfplay_fast.records import Ask, FloatArray, IntArray, Message, Reply

_CACHE_LIMIT = 1 << 16  # remembered encodings and short replies
_SHORT_REPLY = 64  # tokens; longer replies rarely repeat


class LanguageModel:
    """A local causal model and its tokenizer; the model may have peft's LoRA adapters, or be peft's wrapper of one.

    ``device`` moves the model there, ``"auto"`` to a GPU where there is one. ``max_batch_tokens`` bounds the token
    slots of one forward pass over prompts or sequences, ``max_cache_tokens`` (16 times as many unless given) the tokens
    whose keys and values are kept while replies are extended; a single context may exceed both. With ``keep_contexts``
    as many again are kept between calls of `generate`, as long as the weights are the same: a turn then computes what
    is new in its prompt only. ``attention`` runs the prefix trees of scoring and of updates (`choose_attention`), and
    ``block_tokens`` are the nodes of one of its dense blocks; where it is "rows", contexts are not kept. On a GPU steps
    of decoding are captured as CUDA graphs unless ``cuda_graphs`` is False. ``think_tags`` are the two tags around the
    model's reasoning, None for a model that does not think, ``"auto"`` for those that its tokenizer or its chat
    template has. Templates that drop the reasoning of earlier turns start a new context in each turn;
    ``keep_thinking`` appends to the old one and leaves the reasoning in it.
    ``computed_tokens`` counts the tokens of prompts that went through the model, ``forward_passes`` and
    ``backward_passes`` all that did, updates included; ``version`` the updates of the weights. The model stays in eval
    mode, in training too: dropout would make the log-probs of the learner differ from those of the sampler.

    ValueError with one line when neither trees nor rows reproduce the model's log-probs.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        device: str | None = None,
        max_batch_tokens: int = 16384,
        max_cache_tokens: int | None = None,
        keep_contexts: bool = True,
        attention: Literal["auto"] | Attention = "auto",
        block_tokens: int = 512,
        think_tags: Tags | Literal["auto"] | None = "auto",
        keep_thinking: bool = False,
        cuda_graphs: bool | None = None,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = in_place(model)
        self.model = model if device is None else model.to(device)
        self.model.eval()
        self.attention = choose_attention(self.model, attention)
        self.tokenizer = tokenizer
        self.max_batch_tokens = max_batch_tokens
        self.max_cache_tokens = 16 * max_batch_tokens if max_cache_tokens is None else max_cache_tokens
        self.block_tokens = block_tokens
        self.version = 0
        self.computed_tokens = 0
        self.forward_passes, self.backward_passes = Passes(), Passes()
        self.keep_contexts = keep_contexts
        on_gpu = self.model.device.type == "cuda"
        if cuda_graphs and not on_gpu:
            raise ValueError(
                f"cuda_graphs: the model is on {self.model.device.type}; leave it None, or move the model to a GPU"
            )
        self.cuda_graphs = on_gpu if cuda_graphs is None else cuda_graphs
        self.static_shapes = self.cuda_graphs  # of decoding steps
        self._store = PrefixStore()
        self._room: RowCache | None = None  # of rows that were spoken before
        self._stored_weights: tuple[object, ...] = ()
        config = model.config.get_text_config()
        self.context_limit = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
        self.end_tokens = _end_tokens(model, tokenizer)
        tags = find_tags(tokenizer) if think_tags == "auto" else think_tags
        self.thinking = None if tags is None else ThinkTags(tags, tokenizer, len(head_weight(model)))
        ends = tokenizer.convert_ids_to_tokens(sorted(self.end_tokens))
        self.chat = ChatTemplate(tokenizer, self.thinking, keep_thinking, ends)
        self._unread = {
            i
            for i, t in tokenizer.added_tokens_decoder.items()
            if t.special and t.content not in (tags or ())
        }
        self._encoded: dict[str, IntArray] = {}
        self._decoded: dict[bytes, str] = {}

    @classmethod
    def load(
        cls, name: str | Path, *, dtype: str = "auto", attn_implementation: str = "auto", **options: Any
    ) -> LanguageModel:
        """From a local transformers folder or a hub id. ``attn_implementation``: "auto" is "sdpa", see `attention_of`.

        ValueError with one line when that fails, or when neither trees nor rows reproduce the model's log-probs.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        attention = attention_of(attn_implementation)
        if str(name).startswith((".", "/", "~")) and not Path(name).is_dir():
            raise ValueError(f"model {str(name)!r} cannot be loaded: there is no such folder")
        try:
            check_folder(Path(name))
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, attn_implementation=attention)
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"model {str(name)!r} cannot be loaded: {reason}") from error
        policy = cls(in_own_memory(model), tokenizer, **options)
        try:
            policy.render([{"role": "user", "content": "?"}], fresh=True)
        except TemplateError as error:
            raise ValueError(f"model {str(name)!r}: its chat template is broken: {error}") from error
        return policy

    def save(self, folder: str | Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Write an ordinary transformers folder, with ``weights`` instead of the model's own where they are given."""
        self.model.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)

    # -- text to tokens ------------------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str]) -> list[IntArray]:
        """Token ids of each text, each tokenised alone; repeated texts are tokenised once."""
        if len(self._encoded) > _CACHE_LIMIT:
            self._encoded.clear()
        new = list(dict.fromkeys(text for text in texts if text not in self._encoded))
        if new:
            ids = self.tokenizer(new, add_special_tokens=False)["input_ids"]
            self._encoded.update(zip(new, (np.array(row, np.int32) for row in ids), strict=True))
        return [self._encoded[text] for text in texts]

    def render(self, messages: Sequence[Message], *, fresh: bool) -> str:
        """Messages as text, ending where the reply begins. ``fresh=False`` continues after a finished reply."""
        return self.chat.whole(messages) if fresh else self.chat.following(messages)

    def prompts(self, asks: Sequence[Ask]) -> list[IntArray]:
        """The token ids each ask's reply starts after (its forced prefix not included)."""
        fresh = [ask.context is None or self._is_rewritten(ask) for ask in asks]
        shown: dict[object, str] = {}
        texts = [self._appended(ask, alone, shown) for ask, alone in zip(asks, fresh, strict=True)]
        appended = [
            ask.append if isinstance(ask.append, np.ndarray) else ids
            for ask, ids in zip(asks, self.encode(texts), strict=True)
        ]
        return [
            new if alone else self._joined(ask, new)
            for ask, new, alone in zip(asks, appended, fresh, strict=True)
        ]

    def _is_rewritten(self, ask: Ask) -> bool:
        """Does the template show this conversation in another way than its context, so that a new one must begin?"""
        if isinstance(ask.append, (str, np.ndarray)) or not self.chat.rewrites(ask.append):
            return False
        if not ask.history:
            raise ValueError(
                f"history: this model's chat template rewrites it; give history=reply.history with context (role "
                f"{ask.role!r}), or make the policy with keep_thinking=True"
            )
        return True

    def _appended(self, ask: Ask, fresh: bool, shown: dict[object, str]) -> str:
        """What is new as text; ``shown`` holds that of equal messages, which are rendered once."""
        if isinstance(ask.append, (str, np.ndarray)):
            return ask.append if isinstance(ask.append, str) else ""
        messages = [*ask.history, *ask.append] if fresh else ask.append
        key = fresh, *(tuple(message.items()) for message in messages)
        if key not in shown:
            shown[key] = self.render(messages, fresh=fresh)
        return shown[key]

    def _joined(self, ask: Ask, new: IntArray) -> IntArray:
        """Context and what is new; a reply that was cut short is closed before other messages follow it."""
        assert ask.context is not None
        is_chat = not isinstance(ask.append, (str, np.ndarray))
        cut = is_chat and len(ask.context) > 0 and int(ask.context[-1]) not in self.end_tokens
        end = [self.tokenizer.eos_token_id] if cut and self.tokenizer.eos_token_id is not None else []
        return np.concatenate([ask.context, np.array(end, np.int32), new])

    def text(self, tokens: IntArray) -> str:
        """Readable text of a reply, without special tokens other than tags of reasoning."""
        key = tokens.tobytes()
        if key in self._decoded:
            return self._decoded[key]
        text: str = self.tokenizer.decode([t for t in tokens.tolist() if t not in self._unread])
        if len(tokens) <= _SHORT_REPLY:
            if len(self._decoded) > _CACHE_LIMIT:
                self._decoded.clear()
            self._decoded[key] = text
        return text

    def hidden(self, reply: str, prompt: IntArray) -> tuple[int, bool]:
        """How many characters of a reply to a prompt are reasoning, and whether that never ends."""
        tags = self.thinking
        return (
            (0, False) if tags is None else hidden_part(reply, (tags.begin, tags.end), tags.opened_by(prompt))
        )

    # -- generate ------------------------------------------------------------------------------------------------

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """Answer all asks; identical prompts and shared prefixes are computed once."""
        return answer_all(self.stream(), asks)

    def stream(self) -> ModelStream:
        """Replies one by one, as they are finished, to asks that come at any time."""
        return ModelStream(self)

    def speaker(self) -> LanguageModel:
        """For another thread, to put words into tokens: the same model, but a tokenizer and caches of its own."""
        return copy.deepcopy(
            self, {id(self.model): self.model, id(self._store): PrefixStore(), id(self._room): None}
        )

    def stored(self) -> PrefixStore:
        """What these weights have computed."""
        weights = self.weights_seen()
        if weights != self._stored_weights:
            self.forget()
            self._stored_weights = weights
        self._store.max_tokens = self.max_cache_tokens
        return self._store

    def take_room(self) -> RowCache:
        """Room for rows that will be spoken: what was given back, if it is of the kind that is wanted now."""
        room, self._room = self._room, None
        kind = self.max_cache_tokens, self.static_shapes or self.cuda_graphs, self.cuda_graphs
        if room is None or (room.max_tokens, room.static, room.graphs) != kind:
            room = RowCache(
                self.model, self.max_cache_tokens, static=self.static_shapes, graphs=self.cuda_graphs
            )
        room.begin(self._weights_at() if room.static else None)
        return room

    def give_room(self, room: RowCache) -> None:
        """Nothing is spoken in it any more: keep it for the next, until `release`."""
        self._room = room

    def weights_seen(self) -> tuple[object, ...]:
        """Equal as long as the weights are, whoever changes them or switches adapters off; torch does not count changes
        through ``.data``."""
        return self._weights_at(lambda parameter: (parameter.data_ptr(), parameter._version))

    def _weights_at(
        self, where: Callable[[torch.Tensor], object] = torch.Tensor.data_ptr
    ) -> tuple[object, ...]:
        """Where the weights are, and which of them count: what a captured step goes by."""
        return (adapters_on(self.model), *map(where, self.model.parameters()))

    def forget(self) -> None:
        """Drop the keys and values of all contexts; what `weights_seen` does not see must call it.

        The room for rows, at most ``max_cache_tokens``, stays where steps have few shapes, with those that were
        captured over it. Elsewhere it goes: products of matrices depend in their last bits on where these lie, and a
        run that goes on from a checkpoint has no room yet.
        """
        self._store.clear()
        if self._room is not None and not self._room.static:
            self._room = None

    def release(self) -> None:
        """`forget`, and give all of its memory back."""
        self.forget()
        self._room = None

    def has_stop(self, row: Row) -> bool:
        """Do the last tokens of a row hold one of its stop strings?"""
        text = self.tokenizer.decode(list(row.recent), clean_up_tokenization_spaces=False)
        return any(stop in text for stop in row.sampling.stop)

    # -- score ---------------------------------------------------------------------------------------------------

    def per_token(
        self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden [U, H], targets [U] -> log-probs of the targets and entropies, float32 [U] each."""
        done = token_logprobs(
            hidden, head_weight(self.model), targets, temperature=temperature, return_entropy=True
        )
        assert isinstance(done, tuple)
        return done

    def choice_tokens(self, text: str) -> IntArray:
        """A whole reply as token ids, end of turn included."""
        end = self.tokenizer.eos_token_id
        ids = self.encode([text])[0]
        return ids if end is None else np.append(ids, np.int32(end))

    @torch.no_grad()
    def score(self, asks: Sequence[Ask]) -> list[FloatArray]:
        """Exact log-prob of each choice as the whole reply (end of turn included), at the ask's temperature."""
        if not asks:
            return []
        sequences, first, temperatures = [], [], []
        for ask, prompt in zip(asks, self.prompts(asks), strict=True):
            if not ask.choices:
                raise ValueError(f"score: the ask for role {ask.role!r} has no choices")
            for choice in ask.choices:
                sequences.append(np.concatenate([prompt, self.choice_tokens(choice)]))
                first.append(len(prompt))
                temperatures.append(ask.sampling.temperature or 1.0)
        totals = self.sequence_logprobs(sequences, first, temperatures)
        splits = np.cumsum([len(ask.choices or ()) for ask in asks])[:-1]
        return [part.astype(np.float32) for part in np.split(totals, splits)]

    @torch.no_grad()
    def sequence_logprobs(
        self, sequences: Sequence[IntArray], first_scored: Sequence[int], temperatures: Sequence[float]
    ) -> FloatArray:
        """Summed log-prob [N] of the tokens of each sequence from ``first_scored`` on."""
        self.model.eval()
        totals = np.zeros(len(sequences), np.float32)
        weight = head_weight(self.model)
        for temperature in sorted(set(temperatures)):
            chosen = np.flatnonzero(np.array(temperatures) == temperature)
            trees = prefix_trees(
                [sequences[i] for i in chosen.tolist()],
                [first_scored[i] for i in chosen.tolist()],
                self.attention,
                block_tokens=self.block_tokens,
                max_tokens=self.max_batch_tokens,
            )
            for tree in trees:
                nodes = tree.nodes
                self.forward_passes.add(tree.passes)
                logp = np.zeros(len(nodes.pair_node), np.float32)
                for block in prefix_hidden(self.model, tree, self.max_batch_tokens):
                    targets = torch.as_tensor(nodes.pair_target[block.pairs], device=self.model.device)
                    values = token_logprobs(block.hidden, weight, targets, temperature=temperature)
                    assert isinstance(values, torch.Tensor)
                    logp[block.pairs] = values.cpu().numpy()
                totals[chosen[tree.index]] = np.add.reduceat(
                    logp[nodes.pair_of_scored], nodes.scored_offsets[:-1]
                )
        return totals


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(int(e) for e in [*ends, tokenizer.eos_token_id] if e is not None)
