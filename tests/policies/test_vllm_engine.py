"""vLLM as a sampler: one contract for the real engine (where there is one and a GPU) and a slow imitation.

Oracles: the learner itself, `generate` of transformers, one plain forward pass per reply, and the records' contract.
"""

import dataclasses
import sys
import types

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.vllm_engine import VLLMEngine
from selfplay_fast.records import Ask, Key, Sampling


@dataclasses.dataclass(kw_only=True)
class ImitatedParams:
    """The fields of ``vllm.SamplingParams`` that are used, with its defaults."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 16
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    logprobs: int | None = None
    seed: int | None = None
    thinking_token_budget: int | None = None

    def processors(self):
        found = [TemperatureLogitsWarper(self.temperature)]
        found += [MinPLogitsWarper(self.min_p)] if self.min_p else []
        found += [TopKLogitsWarper(self.top_k)] if self.top_k else []
        found += [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
        return LogitsProcessorList(found)


class ImitatedLLM:
    """``vllm.LLM`` by plain forward passes of its own copy of the model. What it computed of a prefix it keeps until
    the prefix cache is reset, so that weights that are handed over without that have no effect."""

    def __init__(
        self, *, model, enable_prefix_caching=None, logprobs_mode="raw_logprobs", max_model_len=None
    ):
        assert enable_prefix_caching is True
        assert logprobs_mode == "processed_logprobs"
        self._model = AutoModelForCausalLM.from_pretrained(model)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        limit = max_model_len or self._model.config.max_position_embeddings
        self.model_config = types.SimpleNamespace(max_model_len=limit)
        self._cached = {}

    def apply_model(self, function):
        return [function(self)]

    def load_weights(self, weights):
        own = dict(self._model.named_parameters())
        for name, tensor in weights:
            own[name].data.copy_(tensor)
        return {name for name, _ in weights}

    def reset_prefix_cache(self):
        self._cached.clear()
        return True

    def generate(self, prompts, sampling_params, *, use_tqdm):
        assert not use_tqdm
        return [
            types.SimpleNamespace(outputs=[self._one(prompt["prompt_token_ids"], params)])
            for prompt, params in zip(prompts, sampling_params, strict=True)
        ]

    @torch.no_grad()
    def _logits(self, ids):
        if tuple(ids) not in self._cached:
            logits = self._model(torch.tensor([ids]), use_cache=False).logits[:, -1].float()
            self._cached[tuple(ids)] = logits
        return self._cached[tuple(ids)]

    def _one(self, prompt, params):
        assert len(prompt) + params.max_tokens <= self.model_config.max_model_len
        generator = torch.Generator().manual_seed(params.seed)
        ids, logprobs, reason = [], [], "length"
        budget, queue = params.thinking_token_budget, []
        while len(ids) < params.max_tokens and reason == "length":
            logits = self._logits(prompt + ids)
            if params.temperature == 0:
                logp = logits.log_softmax(-1)[0]
                token = int(logits.argmax())
            else:
                logp = params.processors()(torch.tensor([prompt + ids]), logits).log_softmax(-1)[0]
                token = int(torch.multinomial(logp.exp(), 1, generator=generator))
            if (
                len(ids) == budget
            ):  # the prompt opens the reasoning in these tests, and nothing ends it before
                queue = self._tokenizer.encode("</think>", add_special_tokens=False)
            if queue:
                token, logp = queue.pop(0), torch.zeros(len(logp))
            ids.append(token)
            logprobs.append({token: types.SimpleNamespace(logprob=float(logp[token]))})
            text = self._tokenizer.decode(ids) if params.detokenize else ""
            if token in (params.stop_token_ids or ()) or any(stop in text for stop in params.stop or ()):
                reason = "stop"
        assert params.logprobs == 0
        return types.SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason=reason)


@pytest.fixture
def imitated(monkeypatch):
    module = types.SimpleNamespace(LLM=ImitatedLLM, SamplingParams=ImitatedParams)
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.fixture(params=["imitated", pytest.param("real", marks=pytest.mark.gpu)])
def load(request, toy_policy, tmp_path):
    """Makes an engine of the toy policy, with options of vLLM."""
    if request.param == "imitated":
        request.getfixturevalue("imitated")
        options = {}
    else:
        pytest.importorskip("vllm")
        toy_policy = LanguageModel(toy_policy.model, toy_policy.tokenizer, device="cuda")
        options = {"dtype": "float32", "gpu_memory_utilization": 0.2, "enforce_eager": True, "seed": 0}
    toy_policy.save(tmp_path)
    return lambda **more: VLLMEngine.load(toy_policy, tmp_path, **(options | more))


@pytest.fixture
def engine(load):
    return load()


def ask(text, index=0, **changes):
    defaults = {"role": "a", "append": [{"role": "user", "content": text}], "key": Key(0, index, 0)}
    return Ask(**(defaults | {"sampling": Sampling(max_tokens=6)} | changes))


def plain_logprobs(policy, reply, *processors):
    """Log-probs of the reply's tokens, by a forward pass of its own with the given processors."""
    ids = torch.as_tensor(reply.context.astype(np.int64), device=policy.model.device)[None]
    with torch.no_grad():
        logits = policy.model(ids, use_cache=False).logits[0, :-1].float()
    logits = LogitsProcessorList(processors)(ids, logits)
    told = torch.log_softmax(logits, -1).gather(-1, ids[0, 1:, None])
    return told[-len(reply.tokens) :, 0].cpu().numpy()


def greedy_tokens(policy, one):
    ids = torch.as_tensor(policy.prompts([one])[0].astype(np.int64), device=policy.model.device)[None]
    mask = torch.ones_like(ids)
    out = policy.model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    return out[0, ids.shape[1] :].tolist()


def test_greedy_equals_generate(engine, toy_texts):
    """Oracle: `generate` of transformers, token by token; greedy log-probs are 0."""
    asks = [ask(text, sampling=Sampling(temperature=0, max_tokens=6)) for text in toy_texts[:6]]
    for one, reply in zip(asks, engine.generate(asks), strict=True):
        assert reply.tokens.tolist() == greedy_tokens(engine.learner, one)
        assert reply.logprobs.tolist() == [0.0] * len(reply.tokens)
        assert reply.text == engine.learner.text(reply.tokens)


@pytest.mark.parametrize(
    ("options", "processors"),
    [
        ({}, []),
        ({"temperature": 0.5}, [TemperatureLogitsWarper(0.5)]),
        ({"top_k": 4}, [TopKLogitsWarper(4)]),
        ({"temperature": 0.7, "top_p": 0.6}, [TemperatureLogitsWarper(0.7), TopPLogitsWarper(0.6)]),
        ({"top_k": 9, "top_p": 0.8}, [TopKLogitsWarper(9), TopPLogitsWarper(0.8)]),
        ({"min_p": 0.2}, [MinPLogitsWarper(0.2)]),
    ],
)
def test_logprobs_are_those_of_the_sampled_distribution(engine, toy_texts, options, processors):
    """Oracle: a plain forward pass with transformers' processors, to 1e-3."""
    sampling = Sampling(max_tokens=6, **options)
    for reply in engine.generate([ask(text, i, sampling=sampling) for i, text in enumerate(toy_texts[:5])]):
        assert reply.logprobs == pytest.approx(plain_logprobs(engine.learner, reply, *processors), abs=1e-3)
        assert len(reply.logprobs) == len(reply.tokens) == len(reply.train_mask)


def test_samples_follow_the_distribution(engine, toy_texts):
    """Oracle: the learner's exact probabilities of the first token: within five standard errors each."""
    n = 1000
    one = ask(toy_texts[0], n=n, sampling=Sampling(max_tokens=1))
    replies = engine.generate([one])
    prompt = torch.as_tensor(
        engine.learner.prompts([one])[0].astype(np.int64), device=engine.learner.model.device
    )
    with torch.no_grad():
        p = torch.softmax(engine.learner.model(prompt[None]).logits[0, -1].double(), -1).cpu().numpy()
    counts = np.bincount([reply.tokens[0] for reply in replies], minlength=len(p))
    assert np.all(np.abs(counts / n - p) <= 5 * np.sqrt(p * (1 - p) / n) + 5 / n)


def test_a_sample_follows_from_its_key(engine, toy_texts):
    """Oracle: the same ask alone and again; other keys and other samples of one ask differ."""
    asks = [ask(text, i, n=2) for i, text in enumerate(toy_texts[:6])]
    together = engine.generate(asks)
    alone = [reply for one in asks for reply in engine.generate([one])]
    assert [r.tokens.tolist() for r in together] == [r.tokens.tolist() for r in alone]
    assert len({reply.tokens.tobytes() for reply in together}) > 6


def test_an_update_is_handed_over(engine, toy_texts):
    """Oracle: `generate` with the new weights, for prompts whose prefixes were cached with the old ones; the version
    is the learner's, before and after."""
    asks = [ask(text, sampling=Sampling(temperature=0, max_tokens=6)) for text in toy_texts[:4]]
    before = engine.generate(asks)
    with torch.no_grad():
        for parameter in engine.learner.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape).to(parameter.device))
    engine.learner.version += 1
    after = engine.generate(asks)
    assert [reply.policy_version for reply in before + after] == [0] * 4 + [1] * 4
    assert [r.tokens.tolist() for r in after] == [greedy_tokens(engine.learner, one) for one in asks]
    assert [r.tokens.tolist() for r in after] != [r.tokens.tolist() for r in before]


def test_what_ends_a_reply(engine, toy_texts):
    """Oracle: the learner's end tokens, the limit and the stop string; what ended a reply is its last token."""
    ends = engine.learner.end_tokens
    replies = engine.generate(
        [ask(text, i, sampling=Sampling(max_tokens=24)) for i, text in enumerate(toy_texts[:16])]
    )
    for reply in replies:
        inside, last = reply.tokens[:-1].tolist(), int(reply.tokens[-1])
        assert not set(inside) & ends
        assert reply.finish_reason == ("stop" if last in ends else "length")
        assert last in ends or len(reply.tokens) == 24
    assert {reply.finish_reason for reply in replies} == {"stop", "length"}
    free = next(reply for reply in replies if len(reply.text) > 10 and reply.text[4:6].isascii())
    index = replies.index(free)
    stop = free.text[4:6]
    sampling = Sampling(max_tokens=24, stop=(stop,))
    cut = engine.generate([ask(toy_texts[index], index, sampling=sampling)])[0]
    assert cut.finish_reason == "stop"
    assert stop in cut.text
    assert stop not in engine.learner.text(cut.tokens[:-1])
    assert cut.tokens.tolist() == free.tokens[: len(cut.tokens)].tolist()


def test_contexts_grow_and_forced_text_is_not_trained(engine, toy_texts):
    """Oracle: the learner's prompts; token in, token out."""
    first = engine.generate([ask(toy_texts[0])])[0]
    again = ask("go on", context=first.context, forced_prefix="\\boxed{")
    second = engine.generate([again])[0]
    forced = engine.learner.encode(["\\boxed{"])[0]
    prompt = engine.learner.prompts([again])[0]
    assert second.context[: len(first.context)].tolist() == first.context.tolist()
    assert second.context[: len(prompt)].tolist() == prompt.tolist()
    assert second.context[len(prompt) :].tolist() == second.tokens.tolist()
    assert second.tokens[: len(forced)].tolist() == forced.tolist()
    assert second.train_mask.tolist() == [i >= len(forced) for i in range(len(second.tokens))]
    assert second.logprobs[: len(forced)].tolist() == [0.0] * len(forced)


def test_choices_and_scores_are_the_learners(engine, toy_texts):
    """Oracle: the learner's own replies and scores, in their places among others."""
    choosing = ask(toy_texts[1], 1, n=3, choices=("\\boxed{1}", "\\boxed{2}"))
    replies = engine.generate([ask(toy_texts[0]), choosing, ask(toy_texts[2], 2)])
    assert len(replies) == 5
    assert [r.text for r in replies[1:4]] == [r.text for r in engine.learner.generate([choosing])]
    assert engine.score([choosing])[0].tolist() == engine.learner.score([choosing])[0].tolist()
    assert engine.generate([]) == []


def test_no_room_is_a_forfeit(load, toy_texts):
    """Oracle: the limit given to vLLM; a prompt beyond it costs nobody else a reply."""
    short = ask("Hi", 1)
    engine = load(max_model_len=64)
    long, fine = engine.generate([ask(" ".join(toy_texts)), short])
    assert (long.finish_reason, long.text, len(long.tokens)) == ("forfeit", "", 0)
    assert fine.finish_reason in ("stop", "length")
    with pytest.raises(ValueError, match="empty prompt"):
        engine.generate([ask("", append="")])


def test_settings_that_are_not_free(imitated, toy_policy, tmp_path):
    """Oracle: one line that names the option."""
    with pytest.raises(ValueError, match="enable_prefix_caching: must be True here, got False"):
        VLLMEngine.load(toy_policy, tmp_path, enable_prefix_caching=False)
    with pytest.raises(ValueError, match="logprobs_mode: must be 'processed_logprobs' here"):
        VLLMEngine.load(toy_policy, tmp_path, logprobs_mode="raw_logprobs")


def test_a_budget_of_reasoning_is_vllms(imitated, toy_policy, tmp_path, monkeypatch):
    """Oracle: the learner's own greedy replies, with what was forced; and one line for what vLLM cannot do."""
    opened = "{% if add_generation_prompt %}<|im_start|>assistant\n"
    tokenizer = toy_policy.tokenizer
    shown = "{{ message.content.replace('</think>\n\n', '</think>') }}"  # nothing after the tag
    template = tokenizer.chat_template.replace(opened, opened + "<think>\n")
    tokenizer.chat_template = template.replace("{{ message.content }}", shown)
    policy = LanguageModel(toy_policy.model, tokenizer, think_tags=("<think>", "</think>"))
    policy.end_tokens = frozenset()
    policy.save(tmp_path)
    engine = VLLMEngine.load(policy, tmp_path)
    closing = len(policy.thinking.closing)
    for budget in (0, 5, 14 - closing):
        sampling = Sampling(temperature=0, max_tokens=15, max_think_tokens=budget)
        asks = [ask(text, i, sampling=sampling) for i, text in enumerate(("You are O", "Free: 1"))]
        for got, want in zip(engine.generate(asks), policy.generate(asks), strict=True):
            assert got.tokens.tolist() == want.tokens.tolist()
            assert got.train_mask.tolist() == want.train_mask.tolist()
            assert got.train_mask.sum() == 15 - closing
            assert got.logprobs.tolist() == want.logprobs.tolist()
            assert (got.public, got.unclosed, got.history) == (want.public, False, want.history)
    with pytest.raises(ValueError, match="stop strings in reasoning"):
        engine.generate([ask("a", sampling=Sampling(stop=("x",)))])
    monkeypatch.setattr(sys.modules["vllm"], "SamplingParams", lambda **options: None)
    with pytest.raises(ValueError, match="no thinking_token_budget"):
        engine.generate(asks)


def test_without_vllm(monkeypatch, toy_policy, tmp_path):
    """Oracle: one line that says what is missing."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="VLLMEngine needs vLLM"):
        VLLMEngine.load(toy_policy, tmp_path)


def test_replies_under_way_block_the_hand_over(imitated, toy_policy, tmp_path, monkeypatch):
    """Oracle: contract. A cache that was not dropped is an error, not a stale reply; so is one that was aborted a
    forfeit."""
    toy_policy.save(tmp_path)
    engine = VLLMEngine.load(toy_policy, tmp_path)
    aborted = types.SimpleNamespace(token_ids=[5], logprobs=[{}], finish_reason="abort")
    monkeypatch.setattr(engine.llm, "_one", lambda prompt, params: aborted)
    assert engine.generate([ask("Hi")])[0].finish_reason == "forfeit"
    monkeypatch.setattr(engine.llm, "reset_prefix_cache", lambda: False)
    with torch.no_grad():
        next(toy_policy.model.parameters()).add_(1e-3)
    with pytest.raises(RuntimeError, match="not dropped its prefix cache"):
        engine.generate([ask("Hi")])
