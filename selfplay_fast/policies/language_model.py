"""A transformers causal model as a policy."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from safetensors import SafetensorError

from selfplay_fast.kernels.token_logprobs import token_logprobs
from selfplay_fast.policies.adapters import in_place
from selfplay_fast.policies.decode import Row, decode
from selfplay_fast.policies.parts import split_parts
from selfplay_fast.policies.prefix_forward import build_tree, head_weight, prefix_groups, prefix_hidden
from selfplay_fast.policies.prefix_store import PrefixStore
from selfplay_fast.policies.streams import sample_streams, stream_ids, uniforms
from selfplay_fast.policies.supported import check_supported
from selfplay_fast.records import Ask, FloatArray, IntArray, Message, Reply, Sampling

_CACHE_LIMIT = 1 << 16  # remembered encodings and short replies
_SHORT_REPLY = 64  # tokens; longer replies rarely repeat


class LanguageModel:
    """A local causal model and its tokenizer; the model may have peft's LoRA adapters, or be peft's wrapper of one.

    ``device`` moves the model there, ``"auto"`` to a GPU where there is one. ``max_batch_tokens`` bounds the token
    slots of one forward pass over prompts or sequences, ``max_cache_tokens`` (16 times as many unless given) the tokens
    whose keys and values are kept while replies are extended; a single context may exceed both. With ``keep_contexts``
    as many again are kept between calls of `generate`, as long as the weights are the same: a turn then computes what
    is new in its prompt only. ``block_tokens`` is the nodes of one block of a prefix tree.
    ``computed_tokens`` counts the tokens of prompts that went through the model, ``version`` the updates of the
    weights. The model stays in eval mode, in training too: dropout would make the log-probs of the learner differ from
    those of the sampler.

    ValueError with one line when prefix trees do not reproduce the model's log-probs.
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
        block_tokens: int = 128,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = in_place(model)
        self.model = model if device is None else model.to(device)
        self.model.eval()
        check_supported(self.model)
        self.tokenizer = tokenizer
        self.max_batch_tokens = max_batch_tokens
        self.max_cache_tokens = 16 * max_batch_tokens if max_cache_tokens is None else max_cache_tokens
        self.block_tokens = block_tokens
        self.version = 0
        self.computed_tokens = 0
        self.keep_contexts = keep_contexts
        self._store = PrefixStore()
        self._stored_weights: tuple[tuple[int, int], ...] = ()
        config = model.config.get_text_config()
        self.context_limit = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
        self.end_tokens = _end_tokens(model, tokenizer)
        self._control = _control_tokens(tokenizer)
        self._start = _start_text(tokenizer)
        self._encoded: dict[str, IntArray] = {}
        self._decoded: dict[bytes, str] = {}

    @classmethod
    def load(cls, name: str | Path, *, dtype: str = "auto", **options: Any) -> LanguageModel:
        """From a local transformers folder or a hub id.

        ValueError with one line when that fails, or when prefix trees do not reproduce the model's log-probs.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if str(name).startswith((".", "/", "~")) and not Path(name).is_dir():
            raise ValueError(f"model {str(name)!r} cannot be loaded: there is no such folder")
        try:
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"model {str(name)!r} cannot be loaded: {reason}") from error
        policy = cls(model, tokenizer, **options)
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
        chat = [{**message, "content": self._plain(message["content"])} for message in messages]
        if self.tokenizer.chat_template is None:
            text = "".join(message["content"] + "\n" for message in chat)
            return self._start + text if fresh else text
        if fresh:
            return self._template(chat, True)
        history = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "?"}]
        before, after = self._template(history, False), self._template(history + chat, True)
        end = self.tokenizer.eos_token or ""
        cut = before.rfind(end) + len(end) if end in before else len(before)
        if not after.startswith(before):
            raise ValueError("the chat template rewrites history: start a fresh context for this ask")
        return after[cut:]

    def _plain(self, content: str) -> str:
        """Untrusted text with the tokenizer's control tokens pulled apart: only the template may write them."""
        return self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", content)

    def _template(self, chat: list[dict[str, str]], generation_prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=generation_prompt
        )

    def prompts(self, asks: Sequence[Ask]) -> list[IntArray]:
        """The token ids each ask's reply starts after (its forced prefix not included)."""
        texts = [
            ask.append
            if isinstance(ask.append, str)
            else self.render(ask.append, fresh=ask.context is None)
            if not isinstance(ask.append, np.ndarray)
            else ""
            for ask in asks
        ]
        appended = [
            ask.append if isinstance(ask.append, np.ndarray) else ids
            for ask, ids in zip(asks, self.encode(texts), strict=True)
        ]
        return [self._joined(ask, new) for ask, new in zip(asks, appended, strict=True)]

    def _joined(self, ask: Ask, new: IntArray) -> IntArray:
        """Context and what is new; a reply that was cut short is closed before other messages follow it."""
        if ask.context is None:
            return new
        is_chat = not isinstance(ask.append, (str, np.ndarray))
        cut = is_chat and len(ask.context) > 0 and int(ask.context[-1]) not in self.end_tokens
        end = [self.tokenizer.eos_token_id] if cut and self.tokenizer.eos_token_id is not None else []
        return np.concatenate([ask.context, np.array(end, np.int32), new])

    def text(self, tokens: IntArray) -> str:
        """Readable text of a reply, without special tokens."""
        key = tokens.tobytes()
        if key in self._decoded:
            return self._decoded[key]
        text: str = self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        if len(tokens) <= _SHORT_REPLY:
            if len(self._decoded) > _CACHE_LIMIT:
                self._decoded.clear()
            self._decoded[key] = text
        return text

    # -- generate ------------------------------------------------------------------------------------------------

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """Answer all asks; identical prompts and shared prefixes are computed once."""
        if not asks:
            return []
        prompts = self.prompts(asks)
        forced = self.encode([ask.forced_prefix for ask in asks])
        starts = [
            np.concatenate([prompt, extra]) if len(extra) else prompt
            for prompt, extra in zip(prompts, forced, strict=True)
        ]
        for ask, start in zip(asks, starts, strict=True):
            if not len(start):
                raise ValueError(f"generate: the ask for role {ask.role!r} has an empty prompt")
        unique: dict[bytes, int] = {}
        distinct: list[IntArray] = []
        rows: list[Row] = []
        owner: list[int] = []
        for a, (ask, start) in enumerate(zip(asks, starts, strict=True)):
            place = unique.setdefault(start.tobytes(), len(distinct))
            if place == len(distinct):
                distinct.append(start)
            room = min(ask.sampling.max_tokens, self.context_limit - len(start))
            window = _stop_window(ask.sampling)
            rows += [
                Row(prompt=place, sampling=ask.sampling, room=room, recent=deque(maxlen=window))
                for _ in range(ask.n)
            ]
            owner += [a] * ask.n
        streams = stream_ids([asks[a].key for a in owner])
        sample = np.concatenate([np.arange(ask.n) for ask in asks])
        streams = sample_streams(streams, sample)
        scored = {a: score for a, score in self._constrained(asks).items()}
        free = np.array([row.room > 0 and owner[r] not in scored for r, row in enumerate(rows)], bool)
        self._decode(distinct, rows, streams, free)
        replies = []
        for r, (row, a) in enumerate(zip(rows, owner, strict=True)):
            if a in scored:
                replies.append(
                    self._choose(asks[a], prompts[a], scored[a], float(uniforms(streams[r : r + 1], 0)[0]))
                )
            else:
                replies.append(self._reply(row, prompts[a], forced[a]))
        return replies

    def _decode(self, distinct: list[IntArray], rows: list[Row], streams: Any, free: Any) -> None:
        self.model.eval()
        by_prompt: list[list[int]] = [[] for _ in distinct]
        for r in np.flatnonzero(free).tolist():
            by_prompt[rows[r].prompt].append(r)
        used = [p for p in range(len(distinct)) if by_prompt[p]]
        groups = [
            [used[g] for g in group] for group in prefix_groups([distinct[p] for p in used]) if len(group)
        ]
        longest = [
            len(prompt) + max((rows[r].room for r in members), default=0)
            for prompt, members in zip(distinct, by_prompt, strict=True)
        ]
        store = self._stored()
        for part in split_parts(groups, longest, by_prompt, self.max_cache_tokens):
            members: list[int] = []
            for place, (_, some) in enumerate(chain.from_iterable(part)):
                for r in some:
                    rows[r].prompt = place
                members += some
            self.computed_tokens += decode(
                self.model,
                [[distinct[p] for p, _ in group] for group in part],
                [rows[r] for r in members],
                streams[members],
                self.end_tokens,
                self.max_batch_tokens,
                self._has_stop,
                store,
                self.keep_contexts,
            )
        if not self.keep_contexts:
            self.forget()

    def _stored(self) -> PrefixStore:
        """What these weights have computed."""
        weights = self.weights_seen()
        if weights != self._stored_weights:
            self.forget()
            self._stored_weights = weights
        self._store.max_tokens = self.max_cache_tokens
        return self._store

    def weights_seen(self) -> tuple[tuple[int, int], ...]:
        """Equal as long as the weights are, whoever changes them; torch does not count changes through ``.data``."""
        return tuple((p.data_ptr(), p._version) for p in self.model.parameters())

    def forget(self) -> None:
        """Drop the keys and values of all contexts; what `weights_seen` does not see must call it."""
        self._store.clear()

    def _has_stop(self, row: Row) -> bool:
        text = self.tokenizer.decode(list(row.recent), clean_up_tokenization_spaces=False)
        return any(stop in text for stop in row.sampling.stop)

    def _reply(self, row: Row, prompt: IntArray, forced: IntArray) -> Reply:
        if row.room < 1:
            return Reply(text="", context=prompt, finish_reason="forfeit", policy_version=self.version)
        tokens = np.concatenate([forced, row.tokens])
        return Reply(
            text=self.text(tokens),
            tokens=tokens,
            logprobs=np.concatenate([np.zeros(len(forced), np.float32), row.logprobs]),
            train_mask=np.arange(len(tokens)) >= len(forced),
            context=np.concatenate([prompt, tokens]),
            finish_reason="stop" if row.stopped else "length",
            policy_version=self.version,
        )

    # -- score ---------------------------------------------------------------------------------------------------

    def _constrained(self, asks: Sequence[Ask]) -> dict[int, FloatArray]:
        index = [a for a, ask in enumerate(asks) if ask.choices is not None]
        return dict(zip(index, self.score([asks[a] for a in index]), strict=True)) if index else {}

    def _choose(self, ask: Ask, prompt: IntArray, scores: FloatArray, u: float) -> Reply:
        """Draw a choice. The first token carries the log-prob of the choice among the choices, the others 0."""
        assert ask.choices is not None
        p = np.exp(scores.astype(np.float64) - scores.max())
        cumulative = np.cumsum(p)
        greedy = ask.sampling.temperature == 0
        pick = int(
            scores.argmax() if greedy else np.searchsorted(cumulative, u * cumulative[-1], side="right")
        )
        tokens = self.choice_tokens(ask.choices[pick])
        logprobs = np.zeros(len(tokens), np.float32)
        logprobs[0] = 0.0 if greedy else np.log(p[pick] / cumulative[-1])
        return Reply(
            text=ask.choices[pick],
            tokens=tokens,
            logprobs=logprobs,
            train_mask=np.ones(len(tokens), bool),
            context=np.concatenate([prompt, tokens]),
            policy_version=self.version,
        )

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
            for group in prefix_groups([sequences[i] for i in chosen.tolist()]):
                index = chosen[group]
                tree = build_tree(
                    [sequences[i] for i in index.tolist()],
                    [first_scored[i] for i in index.tolist()],
                    self.block_tokens,
                )
                logp = np.zeros(len(tree.pair_node), np.float32)
                for block in prefix_hidden(self.model, tree, self.max_batch_tokens):
                    targets = torch.as_tensor(tree.pair_target[block.pairs], device=self.model.device)
                    values = token_logprobs(block.hidden, weight, targets, temperature=temperature)
                    assert isinstance(values, torch.Tensor)
                    logp[block.pairs] = values.cpu().numpy()
                totals[index] = np.add.reduceat(logp[tree.pair_of_scored], tree.scored_offsets[:-1])
        return totals


def _control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches every special token of the tokenizer; nothing where it has none."""
    texts = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    longest_first = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _start_text(tokenizer: Any) -> str:
    """The token that opens a text, where the tokenizer itself puts one."""
    starts = tokenizer.bos_token_id is not None and tokenizer("?")["input_ids"][:1] == [
        tokenizer.bos_token_id
    ]
    return str(tokenizer.bos_token) if starts else ""


def _stop_window(sampling: Sampling) -> int:
    """The last tokens that a stop string can lie in: one per byte, and a few for what is cut at their start."""
    return max((len(stop.encode()) for stop in sampling.stop), default=0) + 8


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(int(e) for e in [*ends, tokenizer.eos_token_id] if e is not None)
