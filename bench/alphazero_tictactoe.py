"""AlphaZero-style self-play from scratch: a small network, Gumbel search, until it never loses at tic-tac-toe.

    python bench/alphazero_tictactoe.py [--seed 0]

Every iteration plays a batch of games in which both sides search with the network (Danihelka et al. 2022: what the
search improves is what the network learns, and what it plays), after up to four random moves so that it sees more than
its own openings, then fits the network to the improved policies and the results of the latest games. The measure is
exact: the network with a search of as many simulations meets every sequence of moves of the other side, and the share
of games it does not lose is counted in either seat.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selfplay_fast import games, search

GAME = "tic_tac_toe"
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Config:
    games: int = 256
    simulations: int = 32
    considered: int = 9
    iterations: int = 60
    random_moves: int = 4  # at most, before a game
    memory: int = 20_000  # positions
    updates: int = 40  # batches per iteration
    batch: int = 512
    learning_rate: float = 2e-3
    seed: int = 0


class Network(nn.Module):
    """Planes [K, 3, 3, 3] -> log priors [K, 9] and the value [K] for the player to move."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(28, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.policy = nn.Linear(width, 9)
        self.value = nn.Linear(width, 1)

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        flat = planes.flatten(1)
        mover = (flat[:, :9].sum(1, keepdim=True) + 1) % 2  # free cells left say whose move it is
        hidden = self.body(torch.cat([flat, mover], 1))
        return self.policy(hidden), torch.tanh(self.value(hidden)).squeeze(1)

    @torch.no_grad()
    def evaluate(self, leaves: games.Batch) -> tuple[Floats, Floats]:
        logits, value = self(torch.from_numpy(leaves.observation_tensor()))
        return logits.softmax(1).numpy(), value.numpy()


def self_play(network: Network, config: Config, seed: int) -> tuple[Floats, Floats, Floats]:
    """Positions [N, 3, 3, 3], improved policies [N, 9] and results [N] for whoever was to move."""
    openings = np.random.default_rng(seed).integers(0, config.random_moves + 1, config.games)
    batch = games.make(GAME, config.games, seed=seed)
    trees = search.Search(
        batch,
        evaluator=network.evaluate,
        rule="gumbel",
        simulations=config.simulations,
        considered=config.considered,
        seed=seed,
    )
    planes, policies, rows, movers = [], [], [], []
    for ply in range(9):
        trees.run()
        going = np.flatnonzero(~batch.terminated & (openings <= ply))
        planes.append(batch.observation_tensor(going))
        policies.append(trees.policy[going])
        rows.append(going)
        movers.append(batch.current_player[going].copy())
        action = np.where(openings > ply, batch.sample_actions(seed), trees.results.action)
        batch.step(action)
        trees.advance(action)
    results = batch.returns[np.concatenate(rows), np.concatenate(movers)]
    return np.concatenate(planes), np.concatenate(policies), results


def fit(network: Network, optimizer: torch.optim.Optimizer, memory: list[Tensor], config: Config) -> float:
    """Some batches of cross-entropy to the policies and squared error to the results; the mean loss."""
    planes, policies, results = memory
    total = 0.0
    for _ in range(config.updates):
        pick = torch.randint(len(planes), (config.batch,))
        logits, value = network(planes[pick])
        loss = (
            -(policies[pick] * logits.log_softmax(1)).sum(1).mean() + (value - results[pick]).square().mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() / config.updates
    return total


def not_lost(network: Network, seat: int, config: Config) -> float:
    """The share of games not lost in a seat, over every sequence of moves of the other player."""
    lost = total = 0
    states = games.make(GAME, 1)
    while len(states):
        if states.current_player[0] == seat:
            found = search.mcts(states, evaluator=network.evaluate, simulations=config.simulations)
            states.step(found.action)
        else:
            row, action = np.nonzero(states.legal_actions)
            states = states.resample(row)
            states.step(action)
        over = states.terminated
        total += int(over.sum())
        lost += int((states.returns[over, seat] < 0).sum())
        left = np.flatnonzero(~over)
        if len(left) == 0:
            break
        states = states.resample(left)
    return 1 - lost / total


def train(config: Config) -> tuple[Network, list[dict[str, float]]]:
    torch.manual_seed(config.seed)
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    memory = [torch.zeros(0, 3, 3, 3), torch.zeros(0, 9), torch.zeros(0)]
    rows = []
    start = time.perf_counter()
    for iteration in range(config.iterations):
        new = self_play(network, config, config.seed * 10_000 + iteration)
        memory = [
            torch.cat([old, torch.from_numpy(fresh)])[-config.memory :]
            for old, fresh in zip(memory, new, strict=True)
        ]
        loss = fit(network, optimizer, memory, config)
        if iteration % 5 == 4:
            first, second = (not_lost(network, seat, config) for seat in range(2))
            rows.append({"iteration": iteration + 1, "loss": loss, "first": first, "second": second})
            seconds = time.perf_counter() - start
            print(
                f"{iteration + 1:4d}  loss {loss:.3f}  not lost {first:.4f} {second:.4f}  {seconds:.0f} s",
                flush=True,
            )
            if first == second == 1.0:
                break
    return network, rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    train(Config(seed=parser.parse_args().seed))
