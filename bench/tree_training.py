"""`update` on prefix trees against padded and against packed training of the same batch.

Batches come from rollouts of the untrained nano model whose replies all have the same length: SPIRAL's three games
(every turn a prompt of its own), MARS (one growing chat for each player of each game, every turn a sample), and SPaR
(a long prompt, n answers, n refinements of each). Advantages are random. All three ways have the same loss, the same
log-probs without stored logits, clipping and optimizer; the peers sort by length. Padded rows fill micro-batches of
the size that ours has; packed rows hold sequences one after another whose positions start anew, up to
``--packed-tokens`` or the longest (SDPA builds a row's whole mask, so longer rows are slower). Before anything is
timed, the gradients of all three are asserted equal to 1e-5 of the largest one (on a GPU 1e-4), in float32 and with
nano's sharp heads made flat.

Times are of forward, backward and step, on a CPU in CPU seconds of one thread. "Samples per 1,000 tokens run" counts
what goes through the model, padding left out; MiB is the peak beyond what was there before, on a CPU to be read of the
first case of a process only: later ones find its memory in the allocator's hands. With ``--model`` a Qwen3 of random
weights in bfloat16 is timed; gradients are asserted equal with nano then, in float32.

    python bench/tree_training.py [--cases spiral-8 spiral-256 mars-32 spar-64] [--device cuda]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import _qwen3
import numpy as np
import torch
from _measure import machine, measure, peak_resident, print_table, save
from rollout_engine import GAMES, DrawnMoves, forced_length_policy
from selfplay_fast.kernels.token_logprobs import token_logprobs
from torch import Tensor

from selfplay_fast import games
from selfplay_fast.learn import Update, pack, update
from selfplay_fast.learn.losses import ppo_clip_loss
from selfplay_fast.learn.packing import TokenBatch
from selfplay_fast.play import DialogueTable, GameTable, Outcome, play, self_play
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.prefix_forward import backbone, head_weight, runs
from selfplay_fast.records import Ask, Episode, Reply, Sampling

MAX_GRAD_NORM = 1.0


# -- batches ---------------------------------------------------------------------------------------------------


def spiral(policy: LanguageModel, length: int, count: int) -> Sequence[Episode]:
    """``count`` games of each kind; every turn is a prompt of its own."""
    tables = []
    for name in GAMES:
        table = GameTable(name, episodes=count, seed=0, sampling=Sampling(max_tokens=length), max_turns=50)
        table.batch = DrawnMoves(name, count, 0)
        tables.append(table)
    return play(self_play(policy), tables)


def mars(policy: LanguageModel, length: int, count: int) -> Sequence[Episode]:
    """``count`` games of tic-tac-toe; each player's chat grows by what is new since its last turn."""

    def chat(seed: int) -> Iterator[Any]:
        batch = games.make("tic_tac_toe", 1, seed=seed, style="mars")
        contexts: list[Any] = [None, None]
        ply = 0
        while not batch.terminated[0]:
            player = int(batch.current_player[0])
            news = "\n".join(batch.messages_since(0, player))
            reply: Reply = yield Ask(
                role=f"player_{player}",
                context=contexts[player],
                append=[{"role": "user", "content": news}],
                sampling=Sampling(max_tokens=length),
            )
            contexts[player] = reply.context
            action = batch.sample_actions(1000 * seed + ply)
            batch.step(action, texts=[batch.reply_text(0, int(action[0]))])
            ply += 1
        return Outcome(returns={"player_0": 0.0, "player_1": 0.0})

    return play(self_play(policy), [DialogueTable(chat, range(count), seed=0)])


def spar(policy: LanguageModel, length: int, count: int) -> Sequence[Episode]:
    """``count`` prompts of three observations; four answers to each, four refinements of every answer."""
    texts = [games.make(name, count, seed=0).observation() for name in GAMES]

    def tree(item: int) -> Iterator[Any]:
        sampling = Sampling(max_tokens=length)
        question = [{"role": "user", "content": "\n".join(text[item] for text in texts)}]
        answers = yield Ask(role="actor", append=question, n=4, sampling=sampling)
        again = [{"role": "user", "content": "Refine the answer: it breaks one of the rules above."}]
        yield [
            Ask(role="refiner", context=answer.context, append=again, n=4, sampling=sampling)
            for answer in answers
        ]
        return Outcome(returns={"actor": 0.0, "refiner": 0.0})

    return play(self_play(policy), [DialogueTable(tree, range(count), seed=0)])


class Case(NamedTuple):
    """A rollout, how long its replies are, and how much of it there is by default."""

    rollout: Callable[[LanguageModel, int, int], Sequence[Episode]]
    length: int
    count: int
    title: str


CASES = {
    "spiral-8": Case(spiral, 8, 29, "SPIRAL, 3 x {} games, replies of 8 tokens"),
    "spiral-256": Case(spiral, 256, 1, "SPIRAL, 3 x {} games, replies of 256 tokens"),
    "mars-32": Case(mars, 32, 6, "MARS, {} games, replies of 32 tokens"),
    "spar-64": Case(spar, 64, 1, "SPaR, {} x 20 replies of 64 tokens"),
}


def batch_of(episodes: Sequence[Episode]) -> TokenBatch:
    rng = np.random.default_rng(0)
    advantages = [rng.normal(size=len(episode.turns)).tolist() for episode in episodes]
    return pack(episodes, advantages, token_normaliser=64)


# -- peers -----------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Inputs of one forward pass, and where its scored tokens are: in the hidden states, and in the batch."""

    inputs: dict[str, Tensor]
    places: Tensor  # [S] row * width + column of the token before each scored one
    tokens: Tensor  # [S]


def rows_of(batch: TokenBatch, rows: Sequence[Sequence[int]], reset: bool, device: torch.device) -> Rows:
    """Rows of sequences one after another, padded at their ends; ``reset``: positions start anew with each."""
    width = max(sum(len(batch.sequences[i]) for i in row) for row in rows)
    ids, positions = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    places, tokens = [], []
    for r, row in enumerate(rows):
        start = 0
        for i in row:
            sequence, first = batch.sequences[i], int(batch.first[i])
            ids[r, start : start + len(sequence)] = sequence
            positions[r, start : start + len(sequence)] = np.arange(len(sequence))
            places.append(r * width + start + np.arange(first - 1, len(sequence) - 1))
            tokens.append(np.arange(batch.offsets[i], batch.offsets[i + 1]))
            start += len(sequence)
        positions[r, start:] = np.arange(width - start)  # padding is one more sequence
    inputs = {"input_ids": torch.as_tensor(ids, device=device)}
    if reset:
        inputs["position_ids"] = torch.as_tensor(positions, device=device)
    where, which = (torch.as_tensor(np.concatenate(x), device=device) for x in (places, tokens))
    return Rows(inputs, where, which)


def padded(batch: TokenBatch, args: argparse.Namespace, device: torch.device) -> list[Rows]:
    """Micro-batches of one sequence a row, sorted by length."""
    lengths = np.array([len(sequence) for sequence in batch.sequences])
    order = np.argsort(lengths, kind="stable")
    return [
        rows_of(batch, [[i] for i in order[start:stop].tolist()], False, device)
        for start, stop in runs(lengths[order], args.max_batch_tokens)
    ]


def packed(batch: TokenBatch, args: argparse.Namespace, device: torch.device) -> list[Rows]:
    """Micro-batches of rows of at most ``packed_tokens``, or one sequence; each goes to the first row with room."""
    lengths = [len(sequence) for sequence in batch.sequences]
    rows: list[list[int]] = []
    room: list[int] = []
    for i in np.argsort(lengths)[::-1].tolist():
        fitting = [r for r, left in enumerate(room) if left >= lengths[i]]
        if not fitting:
            rows.append([])
            room.append(max(args.packed_tokens, lengths[i]))
            fitting = [len(rows) - 1]
        rows[fitting[0]].append(i)
        room[fitting[0]] -= lengths[i]
    widths = np.array([sum(lengths[i] for i in row) for row in rows])
    return [
        rows_of(batch, rows[start:stop], True, device) for start, stop in runs(widths, args.max_batch_tokens)
    ]


PEERS = {"padded": padded, "packed": packed}


def train_rows(
    policy: LanguageModel, optimizer: torch.optim.Optimizer, batch: TokenBatch, passes: Sequence[Rows]
) -> None:
    """What `update` does in one epoch, row by row."""
    model, loss = policy.model, ppo_clip_loss()
    weights, advantages = (torch.as_tensor(x, device=model.device) for x in (batch.weights, batch.advantages))
    targets = torch.as_tensor(
        np.concatenate([s[f:] for s, f in zip(batch.sequences, batch.first.tolist(), strict=True)]).astype(
            np.int64
        ),
        device=model.device,
    )
    optimizer.zero_grad(set_to_none=True)
    for rows in passes:
        hidden = backbone(model)(**rows.inputs, use_cache=False).last_hidden_state.flatten(0, 1)[rows.places]
        logp = token_logprobs(hidden, head_weight(model), targets[rows.tokens], temperature=batch.temperature)
        assert isinstance(logp, Tensor)
        terms = loss(logp, logp.detach(), advantages[rows.tokens])
        (weights[rows.tokens] * terms).sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()


class Watched(torch.optim.SGD):
    """Takes no step, so that every repeat sees the same weights; ``gradients`` are those that it was given last."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, lr=0.0)
        self.gradients: list[Any] = []

    def step(self, closure: Any = None) -> None:
        self.gradients = [parameter.grad for group in self.param_groups for parameter in group["params"]]


# -- the comparison --------------------------------------------------------------------------------------------


@torch.no_grad()
def smooth(policy: LanguageModel) -> LanguageModel:
    """Its sharp heads made flat: rounding in a sharp softmax is larger than what is to be compared."""
    for name, parameter in policy.model.named_parameters():
        if name.endswith("q_norm.weight"):
            parameter.fill_(1)
        elif parameter.ndim > 1:
            parameter.mul_(0.08 / policy.model.config.initializer_range)
    return policy


def compared(
    policy: LanguageModel, optimizer: Watched, ways: dict[str, Callable[[], object]]
) -> tuple[float, dict[str, float]]:
    """Gradients of every way are asserted equal to those of the first; the largest difference, and MiB by way."""
    memory, found = {}, []
    for name, train in ways.items():
        policy.model.zero_grad(set_to_none=True)
        memory[name] = peak(policy.model.device, train)
        found.append(optimizer.gradients)
    want, *others = found
    tolerance = 1e-5 if policy.model.device.type == "cpu" else 1e-4  # a GPU adds in another order
    scale = max(float(gradient.abs().max()) for gradient in want)
    worst = 0.0
    for name, got in zip(list(ways)[1:], others, strict=True):
        off = max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True)) / scale
        assert off <= tolerance, f"{name}: gradients differ by {off:.1e} of the largest"
        worst = max(worst, off)
    return worst, memory


def peak(device: torch.device, run: Callable[[], object]) -> float:
    """MiB that a run takes beyond what was there before."""
    if device.type != "cuda":
        return peak_resident(run) / 2**20
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def bench(
    policy: LanguageModel, case: Case, args: argparse.Namespace, *, exact: bool = True
) -> list[dict[str, Any]]:
    """Rows of one case: tokens that run, then the times against each peer; ``exact``: gradients are compared first."""
    count = args.count or case.count
    title = case.title.format(count)
    batch = batch_of(case.rollout(policy, case.length, count))
    device = policy.model.device
    settings = Update(
        loss=ppo_clip_loss(), max_grad_norm=MAX_GRAD_NORM, max_batch_tokens=args.max_batch_tokens
    )
    optimizer = Watched(policy.model.parameters())
    rows = {name: PEERS[name](batch, args, device) for name in args.peers}
    found: dict[str, float] = {}

    def ours() -> None:
        found.update(update(policy, optimizer, batch, settings))

    ways: dict[str, Callable[[], object]] = {"ours": ours}
    for name, passes in rows.items():
        ways[name] = lambda passes=passes: train_rows(policy, optimizer, batch, passes)  # type: ignore[misc]
    off: float | None
    if exact:
        off, memory = compared(policy, optimizer, ways)
    else:
        off, memory = None, {name: peak(device, train) for name, train in ways.items()}

    def timed(way: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return float(batch.num_samples)

        return run

    clock = time.process_time if device.type == "cpu" else time.perf_counter
    timings = measure({name: timed(way) for name, way in ways.items()}, args.repeats, clock)
    mine = timings.pop("ours")
    computed, per_token = found["computed_tokens"], 1000 * batch.num_samples
    shape = {
        "samples": batch.num_samples,
        "tokens": batch.num_tokens,
        "computed_tokens": computed,
        "gradients_off": off,
        "attention": policy.attention,
    }
    counted = {
        "case": f"{title}, against every sequence whole",
        "unit": "samples per 1,000 tokens run",
        "ours": per_token / computed,
        "peer": per_token / batch.num_tokens,
        "ratio": batch.num_tokens / computed,
        "ours_spread": 0.0,
        "peer_spread": 0.0,
        "ours_mib": memory["ours"],
        "peer_mib": memory[args.peers[0]],
        **shape,
    }
    return [counted] + [
        {
            "case": f"{title}, against {name}",
            "unit": "samples/s",
            "ours": mine.rate,
            "peer": timing.rate,
            "ratio": mine.rate / timing.rate,
            "ours_spread": mine.spread,
            "peer_spread": timing.spread,
            "ours_mib": memory["ours"],
            "peer_mib": memory[name],
            "ours_seconds": mine.seconds,
            "peer_seconds": timing.seconds,
            **shape,
        }
        for name, timing in timings.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--count", type=int, help="games of a kind, or prompts, instead of a case's own number"
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--max-batch-tokens", type=int, default=16384)
    parser.add_argument("--packed-tokens", type=int, default=1024)
    parser.add_argument("--model", default="nano", choices=["nano", *_qwen3.SHAPES])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts = machine(["torch", "transformers"])
    facts["device"] = torch.cuda.get_device_name() if args.device == "cuda" else "cpu, 1 thread"
    facts["model"] = args.model
    nano = smooth(forced_length_policy(args.device))
    policy = nano if args.model == "nano" else forced_length_policy(args.device, args.model)
    for name in args.cases:
        if policy is not nano:
            few = argparse.Namespace(**vars(args) | {"count": 1, "repeats": 1})
            bench(nano, CASES[name], few)
        rows = bench(policy, CASES[name], args, exact=policy is nano)
        save("tree_training", facts, rows)
        for unit in ("samples per 1,000 tokens run", "samples/s"):
            print_table(facts, [row for row in rows if row["unit"] == unit], unit)
            print(flush=True)


if __name__ == "__main__":
    main()
