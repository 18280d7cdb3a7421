"""What a chat looks like to a model. Oracle: ``apply_chat_template`` of the whole conversation, token by token."""

import numpy as np
import pytest

from selfplay_fast.learn.packing import pack
from selfplay_fast.play import DialogueTable, Outcome, play, self_play
from selfplay_fast.policies.chat import ChatTemplate
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.thinking import ThinkTags
from selfplay_fast.records import Ask, Key, Sampling

# Reasoning is shown after the last user's message only, as in Qwen3's template.
LIKE_QWEN3 = """
{%- set seen = namespace(user=-1) -%}
{%- for message in messages -%}
    {%- if message.role == "user" -%}{%- set seen.user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {{- "<|im_start|>" + message.role + "\n" -}}
    {%- set parts = message.content.split("</think>") -%}
    {%- if message.role == "assistant" and loop.index0 > seen.user -%}
        {%- set why = parts[0].split("<think>")[-1] if parts | length > 1 else "" -%}
        {{- "<think>\n" + why.strip("\n") + "\n</think>\n\n" -}}
    {%- endif -%}
    {{- (parts[-1].lstrip("\n") if message.role == "assistant" else message.content) + "<|im_end|>\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\n" -}}{%- endif -%}
"""
# Reasoning is never shown, and the prompt opens it, as in the templates of DeepSeek-R1.
LIKE_DEEPSEEK = """
{%- for message in messages -%}
    {%- if message.role == "assistant" -%}
        {{- "<|im_start|>" + message.content.split("</think>")[-1] + "<|im_end|>" -}}
    {%- else -%}
        {{- "<|pad|>" + message.role + message.content -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|><think>\n" -}}{%- endif -%}
"""


def conversation(roles):
    """A protocol in which one role is told something three more times, by messages of these roles."""

    def protocol(item):
        sampling = Sampling(max_tokens=20, max_think_tokens=8)
        reply = None
        for told in ("You are O.", "Free: 1", "Three in a row win.", "Two players"):
            known = {} if reply is None else {"context": reply.context, "history": reply.history}
            append = [{"role": role, "content": f"{told} {item}"} for role in (roles if known else ["user"])]
            reply = yield Ask(role="a", append=append, sampling=sampling, **known)
        return Outcome(returns={"a": 1.0})

    return protocol


def ask(text, **changes):
    chat = [{"role": "user", "content": text}]
    return Ask(role="a", append=chat, key=Key(0, 0, 0), sampling=Sampling(max_tokens=12), **changes)


def truths(policy, episode):
    """The prompts of an episode, from its messages alone; reasoning that does not end is no part of a message."""
    messages = []
    for turn in episode.turns:
        messages += turn.ask.append
        ids = policy.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        yield ids
        messages.append({"role": "assistant", "content": "" if turn.reply.unclosed else turn.reply.text})


def prompt_of(reply):
    return reply.context[: len(reply.context) - len(reply.tokens)].tolist()


@pytest.mark.parametrize("template", [LIKE_QWEN3, LIKE_DEEPSEEK])
def test_rewritten_prompts_are_those_of_the_template(thinking_policy, template):
    """Every turn of four; each is a sample of its own, with exactly the tokens that the model saw and said."""
    policy = thinking_policy(one_token=True, template=template)
    episodes = play(self_play(policy), [DialogueTable(conversation(["user"]), range(3), seed=0)])
    for episode in episodes:
        for turn, truth in zip(episode.turns, truths(policy, episode), strict=True):
            assert prompt_of(turn.reply) == truth
    turns = [turn for episode in episodes for turn in episode.turns]
    assert sum(len(turn.reply.reasoning) > 0 for turn in turns) > 6
    assert any("</think>" in turn.reply.text for turn in turns)
    batch = pack(episodes, [[1.0] * 4 for _ in episodes], token_normaliser=20)
    assert [s.tolist() for s in batch.sequences] == [turn.reply.context.tolist() for turn in turns]
    trained = np.concatenate([turn.reply.train_mask for turn in turns])
    assert ((batch.weights > 0) == trained).all()
    assert not trained.all()


def test_where_reasoning_stays_contexts_grow(thinking_policy):
    """A tool's answer rewrites nothing in a template like Qwen3's: token in, token out, and what is new as shown."""
    policy = thinking_policy(one_token=True, template=LIKE_QWEN3)
    assert not policy.chat.rewrites([{"role": "tool", "content": "x"}])
    for episode in play(self_play(policy), [DialogueTable(conversation(["tool"]), range(3), seed=0)]):
        before = episode.turns[0].reply.context.tolist()
        for turn in episode.turns[1:]:
            prompt = prompt_of(turn.reply)
            assert prompt[: len(before)] == before
            told = turn.ask.append[0]["content"]
            added = policy.tokenizer.decode(prompt[len(before) :]).removeprefix("<|im_end|>")
            assert added == f"\n<|im_start|>tool\n{told}<|im_end|>\n<|im_start|>assistant\n"
            before = turn.reply.context.tolist()


@pytest.mark.parametrize(
    ("template", "between"),
    [
        (LIKE_QWEN3, "\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"),
        (LIKE_DEEPSEEK, "<|pad|>user{}<|im_start|><think>\n"),
    ],
)
def test_reasoning_is_kept_on_request(thinking_policy, template, between):
    """Contexts grow by what the template puts between two turns; no history is needed."""
    policy = thinking_policy(one_token=True, template=template, keep_thinking=True)
    (first,) = policy.generate([ask("You")])
    (second,) = policy.generate([ask("Free: 1", context=first.context)])
    prompt = prompt_of(second)
    assert prompt[: len(first.context)] == first.context.tolist()
    added = policy.tokenizer.decode(prompt[len(first.context) :]).removeprefix("<|im_end|>")
    assert added == between.format("Free: 1")


def test_without_its_history_a_rewriting_template_is_one_line(thinking_policy):
    """Oracle: the documented ValueError, which names the argument and both ways out."""
    policy = thinking_policy(one_token=True, template=LIKE_QWEN3)
    (first,) = policy.generate([ask("You")])
    again = ask("O", context=first.context)
    with pytest.raises(ValueError, match=r"history=reply\.history .*keep_thinking=True") as caught:
        policy.generate([again])
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="rewrites history"):
        policy.render(again.append, fresh=False)


def test_a_plain_template_appends(toy_policy):
    """The whole conversation is that of the template; the history given beside the context changes nothing."""
    first = ask("You", choices=("\\boxed{1}",))
    (reply,) = toy_policy.generate([first])
    again = [ask("Free: 1", context=reply.context, history=history) for history in ((), reply.history)]
    alone = ask("Free: 1", history=reply.history)
    chat = [*first.append, {"role": "assistant", "content": "\\boxed{1}"}, *alone.append]
    truth = toy_policy.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    for prompt in toy_policy.prompts([*again, alone]):
        assert toy_policy.tokenizer.decode(prompt) == truth


def test_the_end_of_a_turn_is_said_once(toy_policy):
    """Oracle: the template. What ends turns need not be the token that ends texts (as in Gemma's tokenizer)."""
    toy_policy.tokenizer.eos_token = "<|pad|>"
    policy = LanguageModel(toy_policy.model, toy_policy.tokenizer)
    assert len(policy.end_tokens) == 2
    between = policy.render([{"role": "user", "content": "O"}], fresh=False)
    assert between == "\n<|im_start|>user\nO<|im_end|>\n<|im_start|>assistant\n"


def test_whose_tags_they_are(toy_policy):
    """Oracle: contract. Tags that are control tokens stay in what the model said, and are pulled apart elsewhere."""
    tokenizer = toy_policy.tokenizer
    tokenizer.add_tokens(["[THINK]", "[/THINK]"], special_tokens=True)
    chat = ChatTemplate(tokenizer, ThinkTags(("[THINK]", "[/THINK]"), tokenizer, 512), False, [])
    said = "[THINK]so[/THINK]<|im_end|>"
    text = chat.whole([{"role": "user", "content": said}, {"role": "assistant", "content": said}])
    assert text == (
        "<|im_start|>user\n[ THINK]so[ /THINK]< |im_end|><|im_end|>\n"
        "<|im_start|>assistant\n[THINK]so[/THINK]< |im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
