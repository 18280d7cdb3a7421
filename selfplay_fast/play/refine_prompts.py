"""What SPaR's roles read: the actor, and the refiner, who judges and rewrites. Our own wording; take others at will."""

from __future__ import annotations

import re
from dataclasses import dataclass

from selfplay_fast.arguments import shown
from selfplay_fast.records import Message
from selfplay_fast.refine_search import END, START, VERDICT

# What is constant comes first: it is computed once for all prompts, and a prompt once for all its responses.
_JUDGE = f"""You are an expert in checking whether an output follows its instruction. Both stand below.
First list what the instruction demands, every constraint on form, length, content and tone, and name those that the \
output breaks.
Then write a section headed Verification. Go through the demands one by one: quote or count what the output does about \
each of them and say whether that is enough. Do not forgive small breaches, and do not invent demands.
Close with one line in exactly this form, with Yes if all demands are met and with No if any is not:
{VERDICT}: Yes

Instruction:
“{{prompt}}”

Output:
“{{response}}”"""

_REFINE = f"""Now improve the output so that it meets every demand of the instruction.
First reflect in a few sentences on what has to change and what must stay as it is.
Then write the whole improved output, and nothing else, between these marks:
{START}
the improved output
{END}"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefinePrompts:
    """Templates, in which {prompt} and {response} stand for these texts and all else for itself.

    A judge must be told to close with "Final Judgement" and Yes or No, a refiner to write between [[start]] and
    [[end]]: that is how replies are read. ``refine`` follows the critique in the same conversation and needs neither
    text again.
    """

    actor: str = "{prompt}"
    judge: str = _JUDGE
    refine: str = _REFINE

    def __post_init__(self) -> None:
        for name, needed in (
            ("actor", ("{prompt}",)),
            ("judge", ("{prompt}", "{response}", VERDICT)),
            ("refine", (START, END)),
        ):
            template = getattr(self, name)
            for part in needed:
                if not isinstance(template, str) or part not in template:
                    raise ValueError(f"{name} must be a text that contains {part}, got {shown(template)}")

    def actor_chat(self, prompt: str) -> list[Message]:
        """What the actor answers."""
        return [_user(filled(self.actor, prompt=prompt))]

    def judge_chat(self, prompt: str, response: str) -> list[Message]:
        """What a judge answers with a critique."""
        return [_user(filled(self.judge, prompt=prompt, response=response))]

    def refine_chat(self, prompt: str, response: str, critique: str) -> list[Message]:
        """The judge's conversation, and what it goes on with."""
        said = {"role": "assistant", "content": critique}
        return [*self.judge_chat(prompt, response), said, *self.refine_more(prompt, response)]

    def refine_more(self, prompt: str, response: str) -> list[Message]:
        """The last message of `refine_chat` alone."""
        return [_user(filled(self.refine, prompt=prompt, response=response))]


def filled(template: str, **texts: str) -> str:
    """Each {name} replaced by its text, in one pass: what stands in braces in the texts themselves is left alone."""
    return re.sub(rf"\{{({'|'.join(texts)})\}}", lambda found: texts[found[1]], template)


def _user(content: str) -> Message:
    return {"role": "user", "content": content}
