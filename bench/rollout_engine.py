"""Our play loop against one `generate` call per turn, padded lock-step `generate`, and continuous batching.

All play the same games with the same model. Replies all have the same length, or (``--uneven``) each a length of its
own, drawn from (seed, game, ply) between one token and the longest. So that games go on whatever an untrained model
says, the reply is read as always, but the move is drawn from (seed, game, ply) and the other player hears that move in
its canonical words. With greedy decoding the transcripts (prompt ids, reply ids, moves) are asserted equal, for
``--checked-episodes`` games of each kind, in float64: in float32 an untrained model ties now and then. Equal prompts
have equal greedy replies, which our loop computes once; replies sampled at temperature 1 part after a few tokens, as
they do in training. All are timed, on a CPU in CPU seconds of one thread, so that a shared machine does not blur the
ratio. The model is nano, or a Qwen3 of random weights in bfloat16 (``--model``); what is asserted is asserted with
nano.

The one-call-per-turn loop costs the same for every game and is timed on the first few games of each kind. The
continuous batching of transformers (`ContinuousBatchingManager`, paged keys and values, shared prefixes; a game's
next turn is submitted when its reply is there) is timed on the first ``--continuous-episodes`` of each kind and
compared with our loop on the same. vLLM is not run: its row says whether it is installed. Our loop records the
log-probability of every sampled token, the peers record none. Beside the times stand the tokens of prompts that went
through the model, padding not counted; our loop begins with nothing stored.

    python bench/rollout_engine.py [--lengths 8 256] [--episodes 86 20] [--uneven] [--modes greedy sampled]
    python bench/rollout_engine.py --model 0.6b --lengths 256 --episodes 86 --continuous-episodes 86 --repeats 3
"""

from __future__ import annotations

import argparse
import logging
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import _qwen3
import numpy as np
import torch
from _measure import machine, measure, print_table, save
from transformers import ContinuousBatchingConfig, GenerationConfig

from selfplay_fast import games
from selfplay_fast.play import GameTable, play, self_play
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.records import Ask, Sampling

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
    length: int  # tokens of every reply, or of the longest
    greedy: bool
    uneven: bool = False

    def tokens(self, name: str, row: int, ply: int) -> int:
        """How long one reply is."""
        if not self.uneven:
            return self.length
        return 1 + zlib.crc32(f"{self.seed} {name} {row} {ply} tokens".encode()) % self.length


class SomeTokens(GameTable):
    """Every reply is as long as the setting says."""

    def __init__(self, setting: Setting, name: str) -> None:
        sampling = Sampling(temperature=0.0 if setting.greedy else 1.0)
        super().__init__(name, episodes=setting.episodes, seed=setting.seed, sampling=sampling)
        self.batch = DrawnMoves(name, setting.episodes, setting.seed)
        self.setting = setting

    def asks(self) -> Sequence[Ask]:
        return [
            replace(ask, sampling=replace(ask.sampling, max_tokens=self._tokens(ask)))
            for ask in super().asks()
        ]

    def _tokens(self, ask: Ask) -> int:
        return self.setting.tokens(self.name, ask.key.episode, ask.key.turn)


def our_loop(setting: Setting) -> Transcripts:
    """Every game of every kind through `play`."""
    setting.policy.forget()
    tables = [SomeTokens(setting, name) for name in GAMES]
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


def prompts_of(setting: Setting, texts: Sequence[str]) -> list[str]:
    """Observations as the model reads them."""
    return [
        setting.policy.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        for text in texts
    ]


def generate(
    setting: Setting, texts: Sequence[str], tokens: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, reply ids) of each text through the model's own `generate`, as one left-padded batch.

    It ends with the longest reply; what a row has said beyond its own ``tokens`` is cut off.
    """
    tokenizer, model = setting.policy.tokenizer, setting.policy.model
    inputs = tokenizer(
        prompts_of(setting, texts),
        add_special_tokens=False,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    ids, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
    with torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(tokens),
            **({"do_sample": False} if setting.greedy else {"do_sample": True, "top_k": 0}),
        )
    prompts = [row[keep].tolist() for row, keep in zip(ids, mask.bool(), strict=True)]
    replies = [row[:count].tolist() for row, count in zip(output[:, ids.shape[1] :], tokens, strict=True)]
    return list(zip(prompts, replies, strict=True))


def play_turns(
    setting: Setting, batches: dict[str, DrawnMoves], seats: Sequence[tuple[str, int]]
) -> Transcripts:
    """Play the games named by ``seats`` in lock-step: one `generate` call per ply for all still running."""
    spoken: Transcripts = {seat: [] for seat in seats}
    running = list(seats)
    while running:
        texts = [batches[name].observation(np.array([row]))[0] for name, row in running]
        tokens = [setting.tokens(name, row, len(spoken[name, row])) for name, row in running]
        replies = generate(setting, texts, tokens)
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


class Running(NamedTuple):
    """A game that waits for its reply."""

    name: str
    row: int
    prompt: list[int]


def continuous_loop(setting: Setting) -> Transcripts:
    """transformers' continuous batching: the next turn of a game is a new request as soon as its reply is there."""
    model, tokenizer = setting.policy.model, setting.policy.tokenizer
    batches = {name: DrawnMoves(name, setting.episodes, setting.seed) for name in GAMES}
    spoken: Transcripts = {(name, row): [] for name in GAMES for row in range(setting.episodes)}
    running: dict[str, Running] = {}
    config = GenerationConfig(
        do_sample=not setting.greedy,
        top_k=0,
        temperature=1.0,
        eos_token_id=-1,
        pad_token_id=tokenizer.pad_token_id,
    )
    pages = ContinuousBatchingConfig(
        page_size=32,
        num_blocks=len(spoken) * 20 + 32,
        max_batch_tokens=2048,
        max_requests_per_batch=len(spoken),
        seed=0,
    )

    def ask(manager: Any, name: str, row: int) -> None:
        (text,) = prompts_of(setting, batches[name].observation(np.array([row])))
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        count = setting.tokens(name, row, len(spoken[name, row]))
        running[manager.add_request(prompt, max_new_tokens=count)] = Running(name, row, prompt)

    with model.continuous_batching_context_manager(
        generation_config=config, continuous_batching_config=pages
    ) as manager:
        for name, row in spoken:
            ask(manager, name, row)
        while running:
            output = manager.get_result(timeout=60)
            assert output is not None, "no reply within a minute"
            assert not output.error, output.error
            name, row, prompt = running.pop(output.request_id)
            text = tokenizer.decode(output.generated_tokens, skip_special_tokens=True)
            actions, _ = batches[name].parse([text], np.array([row]))
            batches[name].step(actions, rows=np.array([row]), texts=[text])
            spoken[name, row].append(Spoken(tuple(prompt), tuple(output.generated_tokens), int(actions[0])))
            if not batches[name].terminated[row]:
                ask(manager, name, row)
    return spoken


def assert_same(setting: Setting, reference_episodes: int) -> None:
    """Greedy transcripts of all loops in float64, equal to the token."""
    assert setting.greedy
    setting.policy.model.double()
    ours, lock_step = our_loop(setting), lock_step_loop(setting)
    turn_by_turn = turn_by_turn_loop(setting, reference_episodes)
    assert ours == lock_step, first_difference(ours, lock_step)
    continuous = continuous_loop(setting)
    assert ours == continuous, first_difference(ours, continuous)
    few = {seat: ours[seat] for seat in turn_by_turn}
    assert few == turn_by_turn, first_difference(few, turn_by_turn)
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


def bench(
    setting: Setting, reference_episodes: int, continuous_episodes: int, repeats: int
) -> Iterator[dict[str, Any]]:
    """Time the loops; one row per peer and unit."""
    few = setting._replace(episodes=continuous_episodes)
    spoken: dict[str, Transcripts] = {}

    def tokens(name: str, loop: Callable[[], Transcripts]) -> Callable[[], float]:
        def run() -> float:
            spoken[name] = loop()
            return float(sum(len(turn.reply) for turns in spoken[name].values() for turn in turns))

        return run

    if setting.policy.model.device.type == "cuda":  # all shapes of a GPU's first run are made ready
        our_loop(setting)
        lock_step_loop(setting._replace(episodes=1))
        continuous_loop(setting._replace(episodes=1))
    before = setting.policy.computed_tokens
    timings = measure(
        {
            "ours": tokens("ours", lambda: our_loop(setting)),
            "ours, few": tokens("ours, few", lambda: our_loop(few)),
            "generate, padded lock-step": tokens("lock-step", lambda: lock_step_loop(setting)),
            "generate, one call per turn": tokens(
                "single", lambda: turn_by_turn_loop(setting, reference_episodes)
            ),
            "continuous batching": tokens("continuous", lambda: continuous_loop(few)),
        },
        repeats,
        clock=time.process_time if setting.policy.model.device.type == "cpu" else time.perf_counter,
    )
    ours, ours_few = timings.pop("ours"), timings.pop("ours, few")
    computed = (setting.policy.computed_tokens - before) / repeats
    kind = f"{'1 to ' if setting.uneven else ''}{setting.length} tokens, {'greedy' if setting.greedy else 'sampled'}"
    shape = {"length": setting.length, "uneven": setting.uneven}
    both = [turn for name in ("ours", "ours, few") for turns in spoken[name].values() for turn in turns]
    per_turn = [1000 * len(both) / count for count in (computed, sum(len(turn.prompt) for turn in both))]
    yield {
        "case": f"{kind}, every prompt whole",
        "unit": "turns per 1,000 prefilled tokens",
        "ours": per_turn[0],
        "peer": per_turn[1],
        "ratio": per_turn[0] / per_turn[1],
        "ours_spread": 0.0,
        "peer_spread": 0.0,
        "episodes": setting.episodes * len(GAMES),
        **shape,
    }
    for peer, timing in timings.items():
        is_few = peer == "continuous batching"
        mine = ours_few if is_few else ours
        yield {
            "case": f"{kind}, {peer}",
            "unit": "tokens/s",
            "ours": mine.rate,
            "peer": timing.rate,
            "ratio": mine.rate / timing.rate,
            "ours_spread": mine.spread,
            "peer_spread": timing.spread,
            "ours_seconds": mine.seconds,
            "peer_seconds": timing.seconds,
            "ours_tokens": mine.work,
            "peer_tokens": timing.work,
            "episodes": (few if is_few else setting).episodes * len(GAMES),
            **shape,
        }


def forced_length_policy(device: str, name: str = "nano") -> LanguageModel:
    """An untrained model, which never ends a reply by itself."""
    if name == "nano":
        model, tokenizer = build_nano(GAMES, seed=0)
    else:
        with torch.device(device):
            model, tokenizer = _qwen3.build(name, GAMES)
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
    parser.add_argument(
        "--episodes", type=int, nargs="+", default=[86, 20], help="games of each kind, for each length"
    )
    parser.add_argument(
        "--reference-episodes", type=int, default=1, help="games of each kind, one call per turn"
    )
    parser.add_argument(
        "--checked-episodes", type=int, default=2, help="games of each kind, greedy, all loops"
    )
    parser.add_argument(
        "--continuous-episodes", type=int, default=4, help="games of each kind, continuous batching"
    )
    parser.add_argument("--model", default="nano", choices=["nano", *_qwen3.SHAPES])
    parser.add_argument("--uneven", action="store_true", help="replies of 1 to LENGTH tokens")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--modes", nargs="+", choices=["greedy", "sampled"], default=["sampled"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if len(args.episodes) != len(args.lengths):
        parser.error(
            f"--episodes: give one number for each of {len(args.lengths)} lengths, got {args.episodes}"
        )

    torch.set_num_threads(1)
    logging.disable(logging.ERROR)  # continuous batching says that it cannot ask a CPU for its memory
    facts = machine(["selfplay_fast", "torch", "transformers", "vllm"])
    facts["device"] = torch.cuda.get_device_name() if args.device == "cuda" else "cpu, 1 thread"
    facts["model"] = args.model
    nano = forced_length_policy(args.device)
    policy = nano if args.model == "nano" else forced_length_policy(args.device, args.model)
    for length, episodes in zip(args.lengths, args.episodes, strict=True):
        setting = Setting(policy, episodes, args.seed, length, greedy=True, uneven=args.uneven)
        checked = setting._replace(policy=nano, episodes=args.checked_episodes)
        assert_same(checked, args.reference_episodes)
        print("all loops say the same", flush=True)
        rows = []
        for mode in args.modes:
            mode_setting = setting._replace(greedy=mode == "greedy")
            rows += bench(mode_setting, args.reference_episodes, args.continuous_episodes, args.repeats)
        save("rollout_engine", facts, rows)
        for unit in ("tokens/s", "turns per 1,000 prefilled tokens"):
            print_table(facts, [row for row in rows if row["unit"] == unit], unit)
            if unit == "tokens/s":
                print(f"| vLLM | | {facts['vllm']} | | |")
            print(flush=True)


if __name__ == "__main__":
    main()
