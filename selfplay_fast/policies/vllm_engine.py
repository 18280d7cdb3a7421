"""vLLM, in this process, as the sampler of a model that learns.

Token ids go in and come out. What a chat looks like, what ends a reply and what a choice is worth, the learner says.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.streams import sample_streams, stream_ids
from selfplay_fast.policies.thinking import forced_places, think_budget
from selfplay_fast.records import Ask, FloatArray, IntArray, Reply, Sampling

_SETTINGS = {"enable_prefix_caching": True, "logprobs_mode": "processed_logprobs"}


class VLLMEngine:
    """Answers with the weights of ``learner``, by vLLM; trained is ``learner``, an ordinary `LanguageModel`.

    The first ``generate`` after an update hands the new weights over (``hand_over``) and forgets what was cached of the
    old ones; ``version``, that of every reply, is then the learner's. Log-probs are those of the distribution sampled
    from, temperature and truncation applied (``logprobs_mode="processed_logprobs"``); greedy tokens have 0. Every
    sample has a seed from its key, so it does not depend on what stands beside it beyond floating-point rounding; it is
    not the sample that ``learner`` would draw. With top-p and min-p together vLLM takes min-p first.

    A budget of reasoning (``max_think_tokens``) goes to vLLM's ``thinking_token_budget``, for which vLLM must know the
    tags (``reasoning_config``, with the closing tag alone as its end). Its stop strings end reasoning too: of a
    thinking learner's asks it takes them with ``stop_in_thinking`` only.

    Asks with choices are drawn, and scores computed, by ``learner``, exactly.

        engine = VLLMEngine.load(policy, "Qwen/Qwen3-4B-Base", gpu_memory_utilization=0.4)
        episodes = play_games(self_play(engine), …)
        update(policy, …)
    """

    def __init__(self, learner: LanguageModel, llm: Any) -> None:
        """llm: a ``vllm.LLM`` of the learner's architecture, made as `load` does."""
        self.learner = learner
        self.llm = llm
        self.hand_over()

    @classmethod
    def load(cls, learner: LanguageModel, model: str | Path, **options: Any) -> VLLMEngine:
        """An engine for ``learner``, with configuration and tokenizer of ``model``, the folder or hub id it came from.

        options: those of ``vllm.LLM``. ValueError for the two that are not free; ImportError without vLLM.
        """
        for name, value in _SETTINGS.items():
            if options.get(name, value) != value:
                raise ValueError(f"{name}: must be {value!r} here, got {options[name]!r}; leave it out")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # weights go over by reference
        try:
            from vllm import LLM
        except ImportError as error:
            raise ImportError(
                f"a VLLMEngine needs vLLM ({error}); install it for your GPU and torch"
            ) from error
        return cls(learner, LLM(model=str(model), **(options | _SETTINGS)))

    def hand_over(self) -> None:
        """Give vLLM the learner's weights as they are now, and drop the keys and values of the old ones."""
        weights = [(name, parameter.data) for name, parameter in self.learner.model.named_parameters()]
        self.llm.apply_model(lambda model: model.load_weights(weights) and None)
        if self.llm.reset_prefix_cache() is False:
            raise RuntimeError("vLLM has not dropped its prefix cache: replies are still being generated")
        self.version = self.learner.version
        self._weights = self.learner.weights_seen()

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """Answer all asks; shared prefixes are computed once, in this call and in later ones until the next update."""
        if self._weights != self.learner.weights_seen():
            self.hand_over()
        replies: list[list[Reply]] = [[] for _ in asks]
        chosen = [a for a, ask in enumerate(asks) if ask.choices is not None]
        drawn = iter(self.learner.generate([asks[a] for a in chosen]))
        for a in chosen:
            replies[a] = [next(drawn) for _ in range(asks[a].n)]
        free = [a for a, ask in enumerate(asks) if ask.choices is None]
        for a, said in zip(free, self._sample([asks[a] for a in free]), strict=True):
            replies[a] = said
        return [reply for said in replies for reply in said]

    def score(self, asks: Sequence[Ask]) -> list[FloatArray]:
        """The learner's exact log-probs of every choice."""
        return self.learner.score(asks)

    def _sample(self, asks: Sequence[Ask]) -> list[list[Reply]]:
        """The replies of each ask."""
        prompts = self.learner.prompts(asks)
        forced = self.learner.encode([ask.forced_prefix for ask in asks])
        starts = [np.concatenate([prompt, extra]) for prompt, extra in zip(prompts, forced, strict=True)]
        for ask, start in zip(asks, starts, strict=True):
            if not len(start):
                raise ValueError(f"generate: the ask for role {ask.role!r} has an empty prompt")
        rooms = [
            min(ask.sampling.max_tokens, self._context_limit() - len(start))
            for ask, start in zip(asks, starts, strict=True)
        ]
        owner = [a for a, ask in enumerate(asks) if rooms[a] > 0 for _ in range(ask.n)]
        numbers = np.array([k for a in dict.fromkeys(owner) for k in range(asks[a].n)], np.int64)
        streams = sample_streams(stream_ids([asks[a].key for a in owner]), numbers)
        outputs = iter(
            self.llm.generate(
                [{"prompt_token_ids": starts[a].tolist()} for a in owner],
                [
                    self._params(asks[a].sampling, rooms[a], int(stream >> np.uint64(1)))
                    for a, stream in zip(owner, streams, strict=True)
                ],
                use_tqdm=False,
            )
            if owner
            else ()
        )
        return [
            [
                self._reply(ask, prompts[a], forced[a], rooms[a], next(outputs).outputs[0])
                if rooms[a] > 0
                else self._forfeit(prompts[a], no_room=True)
                for _ in range(ask.n)
            ]
            for a, ask in enumerate(asks)
        ]

    def _context_limit(self) -> int:
        return min(self.learner.context_limit, int(self.llm.model_config.max_model_len))

    def _params(self, sampling: Sampling, room: int, seed: int) -> Any:
        from vllm import SamplingParams

        if self.learner.thinking is not None and sampling.stop and not sampling.stop_in_thinking:
            raise ValueError(
                "sampling: vLLM looks for stop strings in reasoning as well; leave stop out or set stop_in_thinking"
            )
        budget = think_budget(self.learner.thinking, sampling, room)
        budgets: dict[str, int] = {} if budget is None else {"thinking_token_budget": budget}
        if budgets and not budgets.keys() <= inspect.signature(SamplingParams).parameters.keys():
            raise ValueError(
                "sampling: this vLLM has no thinking_token_budget; leave max_think_tokens out or take a newer one"
            )
        return SamplingParams(
            **budgets,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            max_tokens=room,
            stop=list(sampling.stop) or None,
            stop_token_ids=sorted(self.learner.end_tokens),
            detokenize=bool(sampling.stop),
            skip_special_tokens=False,
            logprobs=0,  # of the sampled token alone
            seed=seed,
        )

    def _reply(self, ask: Ask, prompt: IntArray, forced: IntArray, room: int, output: Any) -> Reply:
        if output.finish_reason not in ("stop", "length"):
            return self._forfeit(prompt, no_room=False)
        ids = [int(token) for token in output.token_ids]
        greedy = ask.sampling.temperature == 0
        logprobs = [
            0.0 if greedy else told[token].logprob for token, told in zip(ids, output.logprobs, strict=True)
        ]
        tokens = np.concatenate([forced, np.array(ids, np.int32)])
        trained = np.arange(len(tokens)) >= len(forced)
        closing = self._forced(ask, prompt, room, tokens[len(forced) :])
        for place in closing:
            trained[len(forced) + place], logprobs[place] = False, 0.0
        text = self.learner.text(tokens)
        hidden, unclosed = self.learner.hidden(text, prompt)
        return Reply(
            text=text,
            tokens=tokens,
            logprobs=np.array([0.0] * len(forced) + logprobs, np.float32),
            train_mask=trained,
            context=np.concatenate([prompt, tokens]),
            finish_reason=output.finish_reason,
            policy_version=self.version,
            hidden=hidden,
            unclosed=unclosed,
            closed_by_force=bool(closing),
            history=ask.followed_by("" if unclosed else text),
        )

    def _forced(self, ask: Ask, prompt: IntArray, room: int, said: IntArray) -> list[int]:
        """Which tokens vLLM has not drawn, to end the reasoning."""
        tags = self.learner.thinking
        budget = think_budget(tags, ask.sampling, room)
        if tags is None or budget is None:
            return []
        return forced_places(tags, said, tags.inside(ask.forced_prefix, tags.opened_by(prompt)), budget)

    def _forfeit(self, prompt: IntArray, *, no_room: bool) -> Reply:
        return Reply(
            text="", context=prompt, finish_reason="forfeit", policy_version=self.version, no_room=no_room
        )
