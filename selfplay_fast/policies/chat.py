"""Chat messages as the text that a model reads: a whole conversation, or what is new in one.

Most templates only append: what a model has read and said is the beginning of its next prompt. Those of many thinking
models write history anew, without the reasoning of earlier turns; then every prompt is rendered from the messages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from selfplay_fast.policies.thinking import ThinkTags
from selfplay_fast.records import Message

_ANSWER = "(answer)"  # of the conversation that shows what a template does
_ASKED: Message = {"role": "user", "content": "?"}


class ChatTemplate:
    """The chat template of a tokenizer; each message is a line where it has none.

    keep_thinking: reasoning stays in the history, whatever the template does. ends: the texts of the tokens that end a
    reply.
    """

    def __init__(
        self, tokenizer: Any, thinking: ThinkTags | None, keep_thinking: bool, ends: Sequence[str]
    ) -> None:
        self.tokenizer = tokenizer
        self.thinking = thinking
        self.keep_thinking = keep_thinking
        self.ends = ends
        self._start = _start_text(tokenizer)
        self._control = _control_tokens(tokenizer)
        self._rewriting: dict[tuple[str, ...], bool] = {}

    def whole(self, messages: Sequence[Message]) -> str:
        """A conversation from its beginning to where the reply begins."""
        if self.tokenizer.chat_template is None:
            return self._start + _lines(self._plain(messages))
        return self._template(self._plain(messages), True)

    def following(self, messages: Sequence[Message]) -> str:
        """What comes between a finished reply and the next one; ValueError where the template rewrites history."""
        if self.tokenizer.chat_template is None:
            return _lines(self._plain(messages))
        if self.rewrites(messages):
            raise ValueError("the chat template rewrites history: render all messages instead")
        return self._parted(self._plain(messages))[1]

    def rewrites(self, messages: Sequence[Message]) -> bool:
        """Are earlier turns shown in another way once messages of these roles follow? Found out once per roles."""
        if self.keep_thinking or self.tokenizer.chat_template is None:
            return False
        roles = tuple(message["role"] for message in messages)
        if roles not in self._rewriting:
            before, _ = self._parted([{"role": role, "content": "?"} for role in roles])
            read, said = self._template([_ASKED], True), self._said(read=True)
            appended = re.fullmatch(rf"{re.escape(read)}\s*{re.escape(said)}", before)
            self._rewriting[roles] = appended is None
        return self._rewriting[roles]

    def _parted(self, messages: Sequence[Message]) -> tuple[str, str]:
        """A turn of the model and then these messages, parted where the turn ends."""
        turn = {"role": "assistant", "content": self._said(read=False)}
        shown = self._template([_ASKED, turn, *messages], True)
        end = shown.find(_ANSWER) + len(_ANSWER)
        if end < len(_ANSWER):
            raise ValueError("the chat template does not show what the assistant said")
        after = shown[end:].lstrip(" ")
        said_already = next(filter(after.startswith, self.ends), "")
        return shown[:end], after.removeprefix(said_already)

    def _said(self, *, read: bool) -> str:
        """A reply with reasoning, where the model has any; ``read``: less what the prompt has said for it."""
        if self.thinking is None:
            return _ANSWER
        begin, end = self.thinking.begin, self.thinking.end
        whole = f"{begin}\nso\n{end}\n\n{_ANSWER}"
        opened = read and self._template([_ASKED], True).rstrip().endswith(begin)
        return whole.removeprefix(f"{begin}\n") if opened else whole

    def _plain(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """Untrusted text with the tokenizer's control tokens pulled apart: only the template may write them.

        A model's own tags stay in what it said itself.
        """
        own = () if self.thinking is None else (self.thinking.begin, self.thinking.end)

        def plain(message: Message) -> str:
            kept = own if message["role"] == "assistant" else ()
            return self._control.sub(
                lambda found: found[0] if found[0] in kept else f"{found[0][0]} {found[0][1:]}",
                message["content"],
            )

        return [{**message, "content": plain(message)} for message in messages]

    def _template(self, chat: Sequence[Message], generation_prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=generation_prompt
        )


def _lines(messages: Sequence[Message]) -> str:
    return "".join(message["content"] + "\n" for message in messages)


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
