"""Reasoning in the replies of a local model: its budget, stop strings around it, and what is shared meanwhile."""

import numpy as np
import pytest
import torch

from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.sampling import SamplingColumns, draw
from selfplay_fast.policies.streams import sample_streams, stream_ids, uniforms
from selfplay_fast.policies.thinking import find_tags, hidden_part
from selfplay_fast.records import Ask, Key, Reply, Sampling

TAGS = ("<think>", "</think>")


def answer_in(text):
    """What follows the last closing tag, without blanks before it; everything where there is none."""
    before, tag, after = text.rpartition(TAGS[1])
    return after.lstrip() if tag else before + after


def slow_reply(policy, ask, sample, computed):
    """One sample by plain forward passes; what has been said is read as text from its beginning after each token.

    computed: the logits of contexts that earlier calls met.
    """
    tags, sampling = policy.thinking, ask.sampling
    prompt = policy.prompts([ask])[0]
    opened = policy.tokenizer.decode(prompt).rstrip().endswith(tags.begin)
    stream = sample_streams(stream_ids([ask.key]), np.array([sample]))
    columns = SamplingColumns.of([sampling], policy.model.device)
    said, logprobs, mask = [], [], []
    used, queue, reason = 0, [], "length"
    room = min(sampling.max_tokens, policy.context_limit - len(prompt))
    budget = sampling.max_think_tokens
    if budget is not None:
        budget = max(0, budget - (sampling.max_tokens - room))

    def text():
        return policy.tokenizer.decode(said)

    def inside():
        places = text().rfind(tags.begin), text().rfind(tags.end)
        return opened if places == (-1, -1) else places[0] > places[1]

    while len(said) < room:
        context = (*prompt.tolist(), *said)
        if context not in computed:
            with torch.no_grad():
                output = policy.model(input_ids=torch.tensor([context]), use_cache=False)
            computed[context] = output.logits[:, -1]
        logits = computed[context]
        token, logp = draw(logits, columns, uniforms(stream, len(said)))
        was = inside()
        if was and budget is not None and used >= budget and not queue:
            queue = tags.closing.tolist()
        mask.append(not queue)
        said.append(queue.pop(0) if queue else int(token[0]))
        logprobs.append(float(logp[0]) if mask[-1] else 0.0)
        used += was and mask[-1]
        if said[-1] in policy.end_tokens:
            reason = "stop"
            break
        heard = text()
        if not sampling.stop_in_thinking:
            heard = "" if inside() or queue or not mask[-1] else heard.split(tags.end)[-1]
            heard = heard.lstrip()
        if any(stop in heard for stop in sampling.stop):
            reason = "stop"
            break
    return said, logprobs, mask, reason


@pytest.mark.parametrize(("one_token", "opens"), [(True, False), (False, True)])
def test_budgets_and_stops_are_those_of_slow_decoding(thinking_policy, toy_texts, one_token, opens):
    """Tokens, log-probs, mask and reason of many rows together. Oracle: `slow_reply`, one sample at a time.

    Equal prompts with unlike budgets share rows until something is forced; blocks open, close and open again.
    """
    policy = thinking_policy(one_token=one_token, opens_in_prompt=opens)
    policy.context_limit = 180
    options = [
        Sampling(max_tokens=20),
        Sampling(max_tokens=20, max_think_tokens=0, stop=("Z",)),
        Sampling(max_tokens=20, max_think_tokens=4),
        Sampling(max_tokens=20, max_think_tokens=9, temperature=0.7, stop=("e",)),
        Sampling(max_tokens=20, max_think_tokens=9, stop=("e", "\n\n"), stop_in_thinking=True),
        Sampling(max_tokens=20, stop=("a", "<")),
        Sampling(max_tokens=50, max_think_tokens=40),
    ]
    asks = [
        Ask(
            role="a",
            append=[{"role": "user", "content": text[:40]}],
            key=Key(0, 0, 0),
            n=2,
            sampling=sampling,
        )
        for sampling in options
        for text in toy_texts[:1]
    ]
    asks[-1] = Ask(
        role="a", append=np.resize(policy.prompts(asks[:1])[0], 150), key=Key(1, 0, 0), sampling=options[-1]
    )
    replies = iter(policy.generate(asks))
    forced = closed_alone = 0
    computed = {}
    for ask in asks:
        for sample in range(ask.n):
            reply = next(replies)
            tokens, logprobs, mask, reason = slow_reply(policy, ask, sample, computed)
            assert reply.tokens.tolist() == tokens
            assert reply.train_mask.tolist() == mask
            assert reply.finish_reason == reason
            assert reply.logprobs == pytest.approx(np.array(logprobs), abs=1e-4)
            text = policy.tokenizer.decode(tokens, skip_special_tokens=True)
            assert reply.reasoning + reply.public == reply.text == text
            assert reply.unclosed == (
                text.rfind(TAGS[0]) > text.rfind(TAGS[1]) or (opens and TAGS[1] not in text)
            )
            assert reply.public == ("" if reply.unclosed else answer_in(text))
            forced += not all(mask)
            closed_alone += all(mask) and TAGS[1] in policy.tokenizer.decode(tokens)
    assert forced > 3
    assert closed_alone > 1


def test_stop_strings_at_the_edges(thinking_policy):
    """Oracle: the script that the model is made to say, with a stop string in its reasoning and in its answer."""
    policy = thinking_policy(one_token=True, opens_in_prompt=True)
    policy.end_tokens = frozenset()
    chat = [{"role": "user", "content": "You"}]
    script = policy.encode(["so move on</think>\n\n7 moves"])[0].tolist()
    start = len(policy.prompts([Ask(role="a", append=chat, key=Key(0, 0, 0))])[0])

    whole = len(script)

    def say(module, args, kwargs, output):
        for row, position in enumerate(kwargs["position_ids"][:, -1].tolist()):
            output.logits[row, -1, script[min(position + 1 - start, len(script) - 1)]] += 1e4

    def reply(*stop, max_tokens=whole, **changes):
        sampling = Sampling(max_tokens=max_tokens, stop=stop, **changes)
        asks = [
            Ask(role="a", append=chat, key=Key(0, i, 0), sampling=s)
            for i, s in enumerate((sampling, Sampling(max_tokens=whole)))
        ]
        said, free = policy.generate(asks)  # one row of the cache as long as both go on
        assert free.tokens.tolist() == script
        return said.text, said.finish_reason, len(said.tokens)

    policy.model.register_forward_hook(say, with_kwargs=True)
    ended = reply("move")
    assert ended[:2] == ("so move on</think>\n\n7 move", "stop")
    assert reply("move", stop_in_thinking=True)[:2] == ("so move", "stop")
    assert reply("move", max_tokens=ended[2]) == ended
    assert reply("move", max_tokens=ended[2] - 1)[1] == "length"
    for outside in ("\n\n", "\n7", "</think>", ">", "on</think>\n\n7"):
        assert reply(outside) == ("so move on</think>\n\n7 moves", "length", whole)
    assert reply("7")[:2] == ("so move on</think>\n\n7", "stop")
    begun = policy.tokenizer.decode(script[:2])
    text, reason, _ = reply("\n\n", "move", max_think_tokens=2)
    assert text.startswith(f"{begun}</think>\n\n")
    assert reason == ("stop" if "move" in text.split("</think>\n\n", 1)[1] else "length")


def test_the_closing_is_what_the_template_writes(thinking_policy):
    """Oracle: the tokenizer on each template's words; a blank line where it cuts reasoning, nothing without one."""
    policy = thinking_policy(one_token=True)
    said = "{{ message.content }}"
    own = policy.tokenizer.chat_template
    for template, after in (
        (own, "\n\n"),
        (own.replace(said, "{{ message.content.replace('</think>\n\n', '</think>\n') }}"), "\n"),
        (own.replace(said, "{{ message.content.split('</think>')[-1] }}"), "\n\n"),
        (None, ""),
    ):
        policy.tokenizer.chat_template = template
        closing = LanguageModel(policy.model, policy.tokenizer, think_tags=TAGS).thinking.closing
        assert closing.tolist() == policy.tokenizer.encode(f"</think>{after}", add_special_tokens=False)


def test_tags_are_found(toy_policy, thinking_policy):
    """Oracle: where the tags stand: among the added tokens, in the template, nowhere."""
    assert find_tags(toy_policy.tokenizer) is None
    assert toy_policy.thinking is None
    tokenizer = thinking_policy(one_token=True).tokenizer
    assert find_tags(tokenizer) == TAGS
    toy_policy.tokenizer.chat_template += "{# [THINK] [/THINK] #}"
    assert LanguageModel(toy_policy.model, toy_policy.tokenizer).thinking.end == "[/THINK]"
    assert LanguageModel(toy_policy.model, toy_policy.tokenizer, think_tags=None).thinking is None


def test_a_forced_prefix_may_open_or_close_the_block(thinking_policy):
    """Oracle: the budget's contract: 0 tokens of reasoning are left, so an open block is closed at once."""
    policy = thinking_policy(one_token=True)
    closing = policy.thinking.closing.tolist()
    sampling = Sampling(max_tokens=9, max_think_tokens=0)
    for prefix, open_ in (("<think>I must", True), ("<think>so</think>It", False), ("", False)):
        ask = Ask(role="a", append="Say it.", key=Key(0, 0, 0), forced_prefix=prefix, sampling=sampling)
        (reply,) = policy.generate([ask])
        start = len(policy.encode([prefix])[0])
        assert (reply.tokens[start : start + len(closing)].tolist() == closing) == open_
        assert reply.train_mask[:start].sum() == 0
        assert reply.train_mask[start] != open_


def test_what_cannot_be_is_one_line(toy_policy, thinking_policy):
    """Oracle: the documented ValueErrors, each of which names the argument."""
    ask = Ask(role="a", append="?", key=Key(0, 0, 0), sampling=Sampling(max_tokens=9, max_think_tokens=8))
    for policy, message in (
        (toy_policy, "max_think_tokens needs a thinking model"),
        (thinking_policy(one_token=False), "leaves 1 of max_tokens=9, and the closing tag takes"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            policy.generate([ask])
        assert "\n" not in str(caught.value)
    for wrong in (9, -1):
        with pytest.raises(ValueError, match="max_think_tokens must be >= 0 and below max_tokens=9"):
            Sampling(max_tokens=9, max_think_tokens=wrong)
    for tags in (("<a>", "<a>"), ("<a>", ""), ("<a>",)):
        with pytest.raises(ValueError, match="think_tags"):
            LanguageModel(toy_policy.model, toy_policy.tokenizer, think_tags=tags)


@pytest.mark.parametrize(
    ("said", "opened", "public"),
    [
        ("<think>a</think>\n\n b", False, "b"),
        ("a</think>b", True, "b"),
        ("a</think>b", False, "b"),  # stray: whatever stands before a closing tag is hidden
        ("no tags", False, "no tags"),
        ("  no tags", False, "  no tags"),
        ("cut off", True, None),
        ("<think>cut", False, None),
        ("", False, ""),
        ("", True, None),
        ("a</think>", True, ""),
        ("in front <think>a</think>b", False, "b"),
        ("<think>a<think>b</think>c", False, "c"),  # nested: one closing tag closes all
        ("<think>a<think>b</think>c</think>d", False, "d"),
        ("<think>a</think>b<think>c</think>d", False, "d"),  # repeated: the last block counts
        ("<think>a</think>b<think>c", False, None),
        ("<think>a</think>say </think> twice", False, "twice"),
        ("<think>a</THINK>b", False, None),  # another case is another word
        ("<THINK>a</THINK>b", False, "<THINK>a</THINK>b"),
        ("<think >a</think >b", False, "<think >a</think >b"),
        ("< think>a</think\n>b", True, None),
        ("<think>a</think</think>b", False, "b"),
        ("<thi<think>nk>a", False, None),
    ],
)
def test_what_is_public(said, opened, public):
    """Oracle: this table; None is reasoning that does not end."""
    hidden, unclosed = hidden_part(said, TAGS, opened)
    reply = Reply(text=said, hidden=hidden, unclosed=unclosed)
    assert (reply.public, reply.unclosed) == (public or "", public is None)
    assert (reply.failure is None) == (public is not None)
    assert reply.reasoning + reply.public == said


@pytest.mark.parametrize("special", [True, False])
def test_tags_stay_in_the_text_where_they_are_special_tokens(toy_policy, special):
    """Oracle: the words that were encoded; other special tokens are not read, as before."""
    tokenizer = toy_policy.tokenizer
    tokenizer.add_tokens(["[THINK]", "[/THINK]"], special_tokens=special)
    policy = LanguageModel(toy_policy.model, tokenizer)
    tokens = tokenizer.encode("[THINK]You[/THINK]Three in a row<|im_end|>", add_special_tokens=False)
    text = policy.text(np.array(tokens, np.int32))
    assert text == "[THINK]You[/THINK]Three in a row"
    assert policy.hidden(text, np.zeros(1, np.int32)) == (len("[THINK]You[/THINK]"), False)
