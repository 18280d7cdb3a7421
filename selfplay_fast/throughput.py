"""How fast a step was, and how much of what the card can do that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from selfplay_fast.learn import TokenBatch, distributed
from selfplay_fast.policies.flops import ModelFlops, alone, peak_flops
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.records import Episode
from selfplay_fast.run import Run


class Throughput:
    """Counts what runs through a policy in the phases `rollout` and `update` of a run.

    dtype: what passes are computed in. reference: another model that updates ask. Where card and dtype are known
    (`peak_flops`), speeds are also told as model FLOPs utilisation, MFU.
    """

    def __init__(
        self, run: Run, policy: LanguageModel, dtype: str, reference: LanguageModel | None = None
    ) -> None:
        self._phases = run.phases
        self._policies = [policy] if reference in (None, policy) else [policy, reference]
        self._flops = ModelFlops.of(policy.model)
        on_gpu = policy.model.device.type == "cuda"
        self._peak = peak_flops(torch.cuda.get_device_name(policy.model.device), dtype) if on_gpu else None
        self._phases.counts = self._counts

    def _counts(self) -> dict[str, float]:
        flops = self._flops
        return {
            "tokens": sum(p.forward_passes.tokens for p in self._policies),
            "flop": sum(
                flops.forward(p.forward_passes) + flops.backward(p.backward_passes) for p in self._policies
            ),
        }

    def metrics(self, episodes: Sequence[Episode], batch: TokenBatch, *, epochs: int = 1) -> dict[str, float]:
        """Of the step whose ``episodes`` became ``batch``, which was learned from ``epochs`` times; all ranks must ask.

        ``samples_per_s`` and ``tokens_per_s``: of the batch, over the whole step. Of a phase ``PHASE_tokens_per_s``,
        ``PHASE_tflop_per_s`` and ``PHASE_mfu`` count what the model ran over, ``PHASE_independent_…`` what it would
        have, had every sequence been computed by itself, as others count. Nothing of a phase that ran elsewhere.
        """
        seconds = self._phases.seconds("rollout", "advantages", "update")
        metrics = {"samples_per_s": batch.num_samples / seconds, "tokens_per_s": batch.num_tokens / seconds}
        learned = alone((0, len(sequence)) for sequence in batch.sequences)
        update = self._flops.forward(learned) + self._flops.backward(learned)
        metrics |= self._of("rollout", self._flops.forward(alone(_spoken(episodes))))
        return metrics | self._of("update", epochs * update)

    def _of(self, phase: str, independent: float) -> dict[str, float]:
        seconds = self._phases.seconds(phase)
        counted = distributed.gather([self._phases.counted(phase, name) for name in ("tokens", "flop")])
        tokens, flop = map(sum, zip(*counted, strict=True))
        if not tokens:
            return {}
        metrics = {f"{phase}_tokens_per_s": tokens / seconds}
        for name, work in ((phase, flop), (f"{phase}_independent", independent)):
            metrics[f"{name}_tflop_per_s"] = work / seconds / 1e12
            if self._peak is not None:
                metrics[f"{name}_mfu"] = work / seconds / (self._peak * len(counted))
        return metrics


def _spoken(episodes: Sequence[Episode]) -> Iterator[tuple[int, int]]:
    """The tokens of each turn, prompt and reply, less the context that it goes on from."""
    for episode in episodes:
        for turn in episode.turns:
            if len(turn.reply.tokens):
                before, whole = turn.ask.context, turn.reply.context
                goes_on = before is not None and (whole[: len(before)] == before).all()
                yield len(before) if before is not None and goes_on else 0, len(whole)
