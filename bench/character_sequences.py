"""SPaR's character sequences: what is learned from pairs that differ in what matters only, and from others.

"Write 5 times c", in whatever case. A response with the wrong count in small letters is rejected; chosen is the right
count in small letters (refined pairs, which differ in the count alone) or in capitals (interfering pairs). Cheng et al.
2024, arXiv 2412.11605, section 4.4, with the nano model: it has been warmed up on miscounted demonstrations, few of
them in capitals, and learns from pairs of its own miscounts by SPaR's loss. Every few steps it answers every task 16
times at temperature 1: how often the count is right, whatever the case, and how much is in capitals.

    python bench/character_sequences.py [--seeds 0 1 2] [--warmup 90] [--rate 2e-4]
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import numpy as np
import torch
from _measure import machine, save

from selfplay_fast.learn import pack_dialogues, pack_pairs, preference_update, rpo_loss
from selfplay_fast.learn.packing import TokenBatch
from selfplay_fast.learn.warmup import imitate
from selfplay_fast.play.word_tasks import LetterTask, letter_tasks
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano_of
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Ask, Key, Reply, Sampling
from selfplay_fast.training import adam

TASKS = letter_tasks()
KINDS = {"refined": str.lower, "interfering": str.upper}  # the case of what is chosen
LOSS = rpo_loss(0.1, nll_weight=1.0)  # SPaR's as its preset nano has it


def letters(task: LetterTask, count: int) -> str:
    """So many of them."""
    return " ".join(task.letter * count)


def demonstrated(task: LetterTask, rng: np.random.Generator) -> str:
    """Miscounted by one or two in half of the cases, a tenth of it in capitals."""
    wrong = rng.random() < 0.5
    count = task.count + (int(rng.choice([-2, -1, 1, 2])) if wrong else 0)
    text = letters(task, max(1, count))
    return text.upper() if rng.random() < 0.1 else text


def warmed_up(seed: int, steps: int, dialogues: int = 64) -> LanguageModel:
    """A mediocre actor."""
    read = [task.prompt for task in TASKS]
    said = [text for task in TASKS for text in (letters(task, 12), letters(task, 12).upper())]
    policy = LanguageModel(*build_nano_of(read, said, seed, soft=True))

    def batch_of(step: int) -> TokenBatch:
        rng = np.random.default_rng(derive_seed(seed, step))
        chosen = [TASKS[i] for i in rng.integers(len(TASKS), size=dialogues)]
        chats = [
            [
                {"role": "user", "content": task.prompt},
                {"role": "assistant", "content": demonstrated(task, rng)},
            ]
            for task in chosen
        ]
        return pack_dialogues(policy, [{"messages": chat} for chat in chats])

    imitate(policy, batch_of, steps=steps, learning_rate=3e-3, layer_rate=1.0)
    return policy


def answers(policy: LanguageModel, samples: int, seed: int) -> list[tuple[LetterTask, Reply]]:
    """So many responses to every task, at temperature 1."""
    asks = [
        Ask(
            role="actor",
            append=[{"role": "user", "content": task.prompt}],
            key=Key(seed, place, 0),
            n=samples,
            sampling=Sampling(temperature=1.0, max_tokens=16),
        )
        for place, task in enumerate(TASKS)
    ]
    return [(TASKS[k // samples], reply) for k, reply in enumerate(policy.generate(asks))]


def pairs_of(policy: LanguageModel, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Of every kind, one for each miscount in small letters among the policy's own responses, in the same order."""
    wrong = [
        (task, reply.text)
        for task, reply in answers(policy, 24, seed)
        if task.broken(reply.text) == ["count"] and reply.text.islower()
    ]
    order = np.random.default_rng(seed).permutation(len(wrong))
    return {
        kind: [_pair(*wrong[i], case(letters(wrong[i][0], wrong[i][0].count))) for i in order]
        for kind, case in KINDS.items()
    }


def _pair(task: LetterTask, rejected: str, chosen: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": task.prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def measured(policy: LanguageModel, seed: int) -> dict[str, float]:
    """Shares of responses with the right count, and of letters in capitals."""
    said = answers(policy, 16, seed)
    text = "".join(reply.text for _, reply in said)
    return {
        "count_right": float(np.mean([not task.broken(reply.text) for task, reply in said])),
        "capitals": sum(map(str.isupper, text)) / max(1, sum(map(str.isalpha, text))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--warmup", type=int, default=90, help="supervised steps")
    parser.add_argument("--steps", type=int, default=24, help="of DPO, 16 pairs each")
    parser.add_argument("--every", type=int, default=4, help="steps between measurements")
    parser.add_argument("--rate", type=float, default=2e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts = machine(["selfplay_fast", "torch", "transformers"])
    rows = []
    for seed in args.seeds:
        base = warmed_up(seed, args.warmup)
        pairs = pairs_of(base, derive_seed(seed, -1))
        for kind in KINDS:
            policy = LanguageModel(copy.deepcopy(base.model), base.tokenizer)
            batch = pack_pairs(policy, pairs[kind][: 16 * args.steps]).compared_with(base)
            optimizer = adam(policy, rate=args.rate)
            for step in range(0, args.steps + 1, args.every):
                row = {"seed": seed, "pairs": kind, "step": step, **measured(policy, derive_seed(seed, -2))}
                rows.append(row)
                print(row, flush=True)
                part = batch.take(np.arange(16 * step, min(16 * (step + args.every), batch.num_pairs)))
                if step < args.steps and part.num_pairs:
                    preference_update(policy, optimizer, part, LOSS, minibatch=16)
    save("character_sequences", facts, rows)
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds at every step, with the least and the largest."""
    steps = sorted({row["step"] for row in rows})
    lines = [f"| pairs | | {' | '.join(f'step {step}' for step in steps)} |", "|---" * (len(steps) + 2) + "|"]
    for kind in KINDS:
        for name in ("count_right", "capitals"):
            cells = []
            for step in steps:
                values = [row[name] for row in rows if (row["pairs"], row["step"]) == (kind, step)]
                cells.append(f"{np.mean(values):.2f} ({min(values):.2f}–{max(values):.2f})")
            lines.append(f"| {kind} | {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
