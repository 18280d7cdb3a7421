"""Our play loop against one `generate` call per turn, and against padded lock-step `generate`.

All three play the same games with the same model, and every reply has the same length. So that games go on
whatever an untrained model says, the reply is read as always, but the move is drawn from (seed, game, ply) and the
other player hears that move in its canonical words. With greedy decoding the three transcripts (prompt ids, reply
ids, moves) are asserted equal, in float64: in float32 an untrained model ties now and then. Equal prompts have equal
greedy replies, which our loop computes once; replies sampled at temperature 1 part after a few tokens, as they do in
training. Both are timed, on a CPU in CPU seconds of one thread, so that a shared machine does not blur the ratio.

The one-call-per-turn loop costs the same for every game and is timed on the first few games of each kind. Our
loop records the log-probability of every sampled token, the peers record none. Beside the times stand the tokens of
prompts that went through the model, padding not counted; our loop begins with nothing stored.

    python bench/rollout_engine.py [--lengths 8 256] [--modes greedy sampled] [--episodes 86]
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from _measure import machine, measure, print_table, save

from selfplay_fast import games
from selfplay_fast.play import GameTable, play, self_play
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.records import Sampling

GAMES = ("kuhn_poker", "tic_tac_toe", "negotiation")
MAX_TURNS = 50


class Spoken(NamedTuple):
    """One turn as it was: what was read, what was said, what was played."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    action: int


Transcripts = dict[tuple[str, int], list[Spoken]]  # by game and row


class DrawnMoves:
    """A batch of games that reads every reply and then plays a legal move drawn from (seed, row, ply)."""

    def __init__(self, name: str, episodes: int, seed: int) -> None:
        self.batch = games.make(name, episodes, seed=seed)
        self.seed = seed
        self.plies = np.zeros(episodes, int)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batch, name)

    def parse(self, replies: Sequence[str], rows: np.ndarray, **how: Any) -> tuple[np.ndarray, list[None]]:
        self.batch.parse(replies, rows, **how)
        legal = self.batch.legal_actions[rows]
        actions = np.empty(len(rows), np.int64)
        for k, row in enumerate(rows):
            menu = np.flatnonzero(legal[k])
            actions[k] = menu[zlib.crc32(f"{self.seed} {row} {self.plies[row]}".encode()) % len(menu)]
            self.plies[row] += 1
        return actions, [None] * len(rows)

    def step(self, actions: np.ndarray, rows: np.ndarray, texts: Sequence[str]) -> None:
        heard = [
            self.batch.reply_text(int(row), int(action)) for row, action in zip(rows, actions, strict=True)
        ]
        self.batch.step(actions, rows=rows, texts=heard)


class Setting(NamedTuple):
    """What all three loops are given."""

    policy: LanguageModel
    episodes: int  # of each game
    seed: int
    length: int  # tokens of every reply
    greedy: bool


def our_loop(setting: Setting) -> Transcripts:
    """Every game of every kind through `play`."""
    setting.policy.forget()
    sampling = Sampling(temperature=0.0 if setting.greedy else 1.0, max_tokens=setting.length)
    tables = []
    for name in GAMES:
        table = GameTable(name, episodes=setting.episodes, seed=setting.seed, sampling=sampling)
        table.batch = DrawnMoves(name, setting.episodes, setting.seed)
        tables.append(table)
    return {
        (episode.game, episode.index): [
            Spoken(
                tuple(turn.reply.context[: -len(turn.reply.tokens)].tolist()),
                tuple(turn.reply.tokens.tolist()),
                turn.action,
            )
            for turn in episode.turns
        ]
        for episode in play(self_play(setting.policy), tables)
    }


def generate(setting: Setting, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, reply ids) of each text through the model's own `generate`, as one left-padded batch."""
    tokenizer, model = setting.policy.tokenizer, setting.policy.model
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        for text in texts
    ]
    inputs = tokenizer(
        chats, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    )
    ids, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
    with torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=setting.length,
            **({"do_sample": False} if setting.greedy else {"do_sample": True, "top_k": 0}),
        )
    prompts = [row[keep].tolist() for row, keep in zip(ids, mask.bool(), strict=True)]
    return list(zip(prompts, output[:, ids.shape[1] :].tolist(), strict=True))


def play_turns(
    setting: Setting, batches: dict[str, DrawnMoves], seats: Sequence[tuple[str, int]]
) -> Transcripts:
    """Play the games named by ``seats`` in lock-step: one `generate` call per ply for all still running."""
    spoken: Transcripts = {seat: [] for seat in seats}
    running = list(seats)
    while running:
        texts = [batches[name].observation(np.array([row]))[0] for name, row in running]
        replies = generate(setting, texts)
        decoded = setting.policy.tokenizer.batch_decode(
            [reply for _, reply in replies], skip_special_tokens=True
        )
        for (name, row), (prompt, reply), text in zip(running, replies, decoded, strict=True):
            rows = np.array([row])
            actions, _ = batches[name].parse([text], rows)
            batches[name].step(actions, rows=rows, texts=[text])
            spoken[name, row].append(Spoken(tuple(prompt), tuple(reply), int(actions[0])))
        running = [
            (name, row)
            for name, row in running
            if not batches[name].terminated[row] and len(spoken[name, row]) < MAX_TURNS
        ]
    return spoken


def lock_step_loop(setting: Setting) -> Transcripts:
    """All games of all kinds in one padded batch per ply."""
    batches = {name: DrawnMoves(name, setting.episodes, setting.seed) for name in GAMES}
    return play_turns(setting, batches, [(name, row) for name in GAMES for row in range(setting.episodes)])


def turn_by_turn_loop(setting: Setting, episodes: int) -> Transcripts:
    """One game after the other, one `generate` call per turn; the first ``episodes`` games of each kind."""
    batches = {name: DrawnMoves(name, setting.episodes, setting.seed) for name in GAMES}
    spoken: Transcripts = {}
    for name in GAMES:
        for row in range(episodes):
            spoken |= play_turns(setting, batches, [(name, row)])
    return spoken


def assert_same(setting: Setting, reference_episodes: int) -> None:
    """Greedy transcripts of the three loops in float64, equal to the token."""
    assert setting.greedy
    setting.policy.model.double()
    ours, lock_step = our_loop(setting), lock_step_loop(setting)
    turn_by_turn = turn_by_turn_loop(setting, reference_episodes)
    assert ours == lock_step, first_difference(ours, lock_step)
    part = {seat: ours[seat] for seat in turn_by_turn}
    assert part == turn_by_turn, first_difference(part, turn_by_turn)
    setting.policy.model.float()


def first_difference(ours: Transcripts, theirs: Transcripts) -> str:
    """Where two sets of transcripts part, for the assertion's message."""
    for seat, turns in ours.items():
        for k, (a, b) in enumerate(zip(turns, theirs[seat], strict=False)):
            for field in Spoken._fields:
                if getattr(a, field) != getattr(b, field):
                    return f"{seat} turn {k}: {field} {getattr(a, field)} against {getattr(b, field)}"
        if len(turns) != len(theirs[seat]):
            return f"{seat}: {len(turns)} turns against {len(theirs[seat])}"
    return "different games"


def bench(setting: Setting, reference_episodes: int, repeats: int) -> list[dict[str, Any]]:
    """Time the three loops; one row per peer and unit."""

    def samples(loop: Callable[[], Transcripts]) -> Callable[[], float]:
        return lambda: float(sum(len(turns) for turns in loop().values()))

    timings = measure(
        {
            "ours": samples(lambda: our_loop(setting)),
            "generate, padded lock-step": samples(lambda: lock_step_loop(setting)),
            "generate, one call per turn": samples(lambda: turn_by_turn_loop(setting, reference_episodes)),
        },
        repeats,
        clock=time.process_time if setting.policy.model.device.type == "cpu" else time.perf_counter,
    )
    ours = timings.pop("ours")
    mode = "greedy" if setting.greedy else "sampled"
    before = setting.policy.computed_tokens
    transcripts = our_loop(setting)
    turns = [turn for spoken in transcripts.values() for turn in spoken]
    per_turn = [
        1000 * len(turns) / tokens
        for tokens in (setting.policy.computed_tokens - before, sum(len(turn.prompt) for turn in turns))
    ]
    shape = {"length": setting.length, "episodes": setting.episodes * len(GAMES)}
    prefilled = {
        "case": f"{setting.length} tokens, {mode}, every prompt whole",
        "unit": "turns per 1,000 prefilled tokens",
        "ours": per_turn[0],
        "peer": per_turn[1],
        "ratio": per_turn[0] / per_turn[1],
        "ours_spread": 0.0,
        "peer_spread": 0.0,
        **shape,
    }
    return [prefilled] + [
        {
            "case": f"{setting.length} tokens, {mode}, {peer}",
            "unit": unit,
            "ours": ours.rate * scale,
            "peer": timing.rate * scale,
            "ratio": ours.rate / timing.rate,
            "ours_spread": ours.spread,
            "peer_spread": timing.spread,
            "ours_seconds": ours.seconds,
            "peer_seconds": timing.seconds,
            "ours_samples": ours.work,
            "peer_samples": timing.work,
            **shape,
        }
        for unit, scale in (("tokens/s", setting.length), ("samples/s", 1))
        for peer, timing in timings.items()
    ]


def forced_length_policy(device: str) -> LanguageModel:
    """nano, untrained, which never ends a reply by itself."""
    model, tokenizer = build_nano(GAMES, seed=0)
    model.to(device).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    policy = LanguageModel(model, tokenizer)
    policy.end_tokens = frozenset()
    return policy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 256], help="tokens of every reply")
    parser.add_argument("--episodes", type=int, default=86, help="games of each kind")
    parser.add_argument(
        "--reference-episodes", type=int, default=2, help="games of each kind, one call per turn"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=["greedy", "sampled"], default=["greedy", "sampled"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(1)
    facts = machine(["selfplay_fast", "torch", "transformers"])
    facts["device"] = torch.cuda.get_device_name() if args.device == "cuda" else "cpu, 1 thread"
    policy = forced_length_policy(args.device)
    for length in args.lengths:
        setting = Setting(policy, args.episodes, args.seed, length, greedy=True)
        assert_same(setting, args.reference_episodes)
        rows = []
        for mode in args.modes:
            mode_setting = setting._replace(greedy=mode == "greedy")
            rows += bench(mode_setting, args.reference_episodes, args.repeats)
        save("rollout_engine", facts, rows)
        for unit in ("tokens/s", "samples/s", "turns per 1,000 prefilled tokens"):
            print_table(facts, [row for row in rows if row["unit"] == unit], unit)
            print(flush=True)


if __name__ == "__main__":
    main()
