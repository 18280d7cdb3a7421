"""Speeds of a step: operations over seconds, with a clock that is set by hand and sequences counted one by one."""

import copy
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest

from selfplay_fast import phases
from selfplay_fast.learn import TokenBatch, Update, pack, reinforce_loss, update
from selfplay_fast.play import DialogueTable, Outcome, play, play_games, self_play
from selfplay_fast.policies.flops import ModelFlops, Passes
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.recipes.spiral import Config
from selfplay_fast.records import Ask, Episode, Reply, Sampling
from selfplay_fast.run import Run
from selfplay_fast.throughput import Throughput
from selfplay_fast.training import adam

EPOCHS = 2


class Step:
    """One step of a policy in a run; ``before`` and ``between`` are what it had run over when its phases began."""

    def __init__(
        self, run: Run, policy: LanguageModel, talk: Callable[[LanguageModel], list[Episode]]
    ) -> None:
        self.speed = Throughput(run, policy, "float32")
        optimizer = adam(policy, rate=1e-3)
        with run.phase("evaluation"):
            talk(policy)
        self.before = copy.copy(policy.forward_passes)
        with run.phase("rollout"):
            self.episodes = talk(policy)
        self.between = copy.copy(policy.forward_passes)
        advantages = [[1.0] * len(episode.turns) for episode in self.episodes]
        self.batch: TokenBatch = pack(self.episodes, advantages, token_normaliser=8)
        with run.phase("update"):
            update(policy, optimizer, self.batch, Update(loss=reinforce_loss, epochs=EPOCHS))
        self.after = policy.forward_passes

    def metrics(self) -> dict[str, float]:
        return self.speed.metrics(self.episodes, self.batch, epochs=EPOCHS)


def _games(policy: LanguageModel) -> list[Episode]:
    sampling = Sampling(max_tokens=8)
    return play_games(self_play(policy), games=["kuhn_poker"], episodes=6, seed=1, sampling=sampling)


def _talk(word: str) -> Generator[Ask, Reply, Outcome]:
    """Two turns of one conversation."""
    say, sampling = [{"role": "user", "content": word}], Sampling(max_tokens=4)
    reply = yield Ask(role="speaker", append=say, sampling=sampling)
    yield Ask(role="speaker", append=say, sampling=sampling, context=reply.context, history=reply.history)
    return Outcome(returns={"speaker": 1.0})


def _talks(policy: LanguageModel) -> list[Episode]:
    return play(self_play(policy), [DialogueTable(_talk, ["king", "queen"], seed=1)])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run by whose clock every phase takes one second."""
    seconds = iter(range(10**6))
    monkeypatch.setattr(phases.time, "perf_counter", lambda: float(next(seconds)))
    return Run.create("spiral", Config(), tmp_path / "run")


def _forward(flops: ModelFlops, lengths: Sequence[int]) -> float:
    """Of sequences one by one, with the head at every token."""
    return sum(
        2 * (flops.learned + flops.head) * n + 4 * flops.attended * sum(range(1, n + 1)) for n in lengths
    )


def test_speeds_are_operations_over_seconds(run: Run, toy_policy: LanguageModel) -> None:
    """Oracle: what the policy counted between two marks, one second a phase; other phases are left out."""
    step = Step(run, toy_policy, _games)
    metrics, flops = step.metrics(), ModelFlops.of(toy_policy.model)
    before, between, after = step.before, step.between, step.after
    assert metrics["rollout_tokens_per_s"] == between.tokens - before.tokens > 0
    assert (
        metrics["update_tokens_per_s"] == after.tokens - between.tokens == toy_policy.backward_passes.tokens
    )
    assert metrics["rollout_tflop_per_s"] * 1e12 == pytest.approx(
        flops.forward(between) - flops.forward(before)
    )
    operations = flops.forward(after) - flops.forward(between) + flops.backward(toy_policy.backward_passes)
    assert metrics["update_tflop_per_s"] * 1e12 == pytest.approx(operations)
    assert metrics["tokens_per_s"] == step.batch.num_tokens / 2
    assert metrics["samples_per_s"] == step.batch.num_samples / 2
    assert not any(key.endswith("_mfu") for key in metrics)  # of a CPU no peak is known


def test_what_others_count_are_independent_sequences(run: Run, toy_policy: LanguageModel) -> None:
    """Oracle: a sum over the sequences; a pass with gradients costs three forward ones."""
    step = Step(run, toy_policy, _games)
    metrics, flops = step.metrics(), ModelFlops.of(toy_policy.model)
    spoken = [len(turn.reply.context) for episode in step.episodes for turn in episode.turns]
    assert metrics["rollout_independent_tflop_per_s"] * 1e12 == pytest.approx(_forward(flops, spoken))
    learned = 3 * EPOCHS * _forward(flops, [len(sequence) for sequence in step.batch.sequences])
    assert metrics["update_independent_tflop_per_s"] * 1e12 == pytest.approx(learned)
    assert metrics["update_tflop_per_s"] < metrics["update_independent_tflop_per_s"]


def test_a_conversation_that_goes_on_is_counted_once(run: Run, toy_policy: LanguageModel) -> None:
    """Oracle: the last context of each conversation, which holds all that was said before."""
    step = Step(run, toy_policy, _talks)
    longest = {
        (episode.index, turn.ask.role): len(turn.reply.context)
        for episode in step.episodes
        for turn in episode.turns
    }
    assert len(longest) < sum(len(episode.turns) for episode in step.episodes)
    independent = step.metrics()["rollout_independent_tflop_per_s"] * 1e12
    assert independent == pytest.approx(_forward(ModelFlops.of(toy_policy.model), list(longest.values())))


def test_on_a_known_card_speeds_are_shares_of_its_peak(run: Run, toy_policy: LanguageModel) -> None:
    """Oracle: the quotient."""
    step = Step(run, toy_policy, _games)
    step.speed._peak = 2e9
    metrics = step.metrics()
    for name in ("rollout", "update", "rollout_independent", "update_independent"):
        assert metrics[f"{name}_mfu"] == pytest.approx(metrics[f"{name}_tflop_per_s"] * 1e12 / 2e9)


def test_what_ran_elsewhere_has_no_speed(run: Run, toy_policy: LanguageModel) -> None:
    """Oracle: nothing was counted in the phase."""
    step = Step(run, toy_policy, _games)
    run.phases.clear()
    with run.phase("update"):
        toy_policy.forward_passes.add(Passes(10, 55, 10))
    metrics = step.metrics()
    assert metrics["update_tokens_per_s"] == 10
    assert not any(key.startswith("rollout") for key in metrics)
