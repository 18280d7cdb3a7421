"""Where the time of one SPIRAL step goes: the model against everything around it.

The recipe itself trains for some steps. The clock of a part stops while another part that it calls runs, so the times
add up to the whole; on a CPU it counts CPU seconds, so that a shared machine does not blur the shares. The model is
its forward passes (by hooks), the kernels of the head and of the draw, the loss, the backward pass and the
optimizer; the rest is ours: games, words, tokens, trees, packing, advantages, bookkeeping, the log. Evaluations and
checkpoints, which most steps have none of, are left out, and so are the first steps, which fill caches. Ours and the
model's are seconds a step; their ratio is the share of ours in the step.

    python bench/step_breakdown.py [--steps 8] [--model nano] [--device cpu] [--functions 20]

`--functions` also runs two steps under cProfile and prints the functions with the most time of their own.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _measure import machine, save
from rich.console import Console

from selfplay_fast.recipes import spiral
from selfplay_fast.report.terminal import Display
from selfplay_fast.run import Run

SKIPPED = 2  # first steps
MODEL = {
    "head": ["policies.language_model:LanguageModel.per_token"],
    "drawing tokens": ["policies.decode:draw"],
    "captured steps": ["torch.cuda:CUDAGraph.replay"],  # whose forward passes no hook sees
    "loss": ["learn.update:_Pass.visit"],
    "backward": ["torch:Tensor.backward", "torch:autograd.backward"],
    "optimizer": ["torch.optim:AdamW.step", "torch.optim:AdamW.zero_grad", "torch.nn.utils:clip_grad_norm_"],
}
FORWARD = "forward"
OURS = {
    "observations": ["games:Batch.observation"],
    "reading replies": ["games:Batch.parse", "games:Batch.action_text"],
    "game steps": ["games:Batch.step", "games:make"],
    "tables": ["play.game_table:GameTable.asks", "play.game_table:GameTable.answer"],
    "scheduling": ["play.asynchronous:Rollouts.collect"],
    "tokens of prompts": ["policies.language_model:LanguageModel.prompts"],
    "text of replies": ["policies.language_model:LanguageModel.text"],
    "replies": [f"policies.model_stream:ModelStream.{name}" for name in ("submit", "step")],
    "decoding loop": ["policies.decode:Decoder.step"],
    "keys and values kept": [
        f"policies.prefix_store:PrefixStore.{name}" for name in ("match", "gather", "put")
    ],
    "rows of the cache": [f"policies.row_cache:RowCache.{name}" for name in ("add", "arrange", "extend")],
    "passes over prompts": ["policies.prefill:_pass"],
    "prefix groups": ["policies.prefill:prefix_groups"],
    "advantages": ["recipes.spiral:role_conditioned_advantages"],
    "packing": ["recipes.spiral:pack"],
    "prefix trees": ["learn.update:_groups"],
    "batches of blocks": ["learn.update:run_blocks"],
    "update loop": ["recipes.spiral:update"],
    "metrics": ["recipes.spiral:episode_metrics"],
    "log": ["run:Run.log"],
}
REST, LEFT_OUT = "rest of the recipe", "evaluation and checkpoint"
NOT_COUNTED = {LEFT_OUT: ["recipes.spiral:_evaluate", "learn.checkpoint:save_checkpoint"]}


class Clock:
    """Seconds by part; the innermost part that runs is the one whose time it is."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now
        self._running: list[str] = []
        self._since = 0.0

    def enter(self, part: str) -> None:
        self._charge()
        self._running.append(part)

    def leave(self) -> None:
        self._charge()
        self._running.pop()

    def _charge(self) -> None:
        now = self._now()
        if self._running:
            part = self._running[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.enter(name)
            try:
                return function(*args, **options)
            finally:
                self.leave()

        return call


class WatchedRun(Run):
    """A run that keeps the clock's seconds of every step."""

    clock: Clock
    profile: cProfile.Profile | None = None

    def steps(self, total: int, start: int = 0) -> Iterator[int]:
        self.by_step: list[dict[str, float]] = []
        for step in super().steps(total, start):
            self.clock.seconds.clear()
            if self.profile is not None and step > SKIPPED:
                self.profile.enable()
            self.clock.enter(REST)
            yield step
            self.clock.leave()
            if self.profile is not None:
                self.profile.disable()
            self.by_step.append(dict(self.clock.seconds))


def after_all_launches() -> float:
    """The wall clock, once a GPU has done what it was given; while a graph is captured nothing may wait for it."""
    if not torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize()
    return time.perf_counter()


def watched(clock: Clock) -> ExitStack:
    """The parts' functions with the clock around them."""
    stack = ExitStack()
    for name, places in (MODEL | OURS | NOT_COUNTED).items():
        for place in places:
            module_name, path = place.split(":")
            ours = module_name.partition(".")[0] != "torch"
            owner: Any = import_module(f"selfplay_fast.{module_name}" if ours else module_name)
            *classes, function = path.split(".")
            for inner in classes:
                owner = getattr(owner, inner)
            stack.enter_context(patch.object(owner, function, clock.timed(name, getattr(owner, function))))
    return stack


def hook_forward(clock: Clock, model: torch.nn.Module) -> None:
    """The whole model, or, where the update calls it without its head, what is below."""
    for module in (model, model.base_model):
        module.register_forward_pre_hook(lambda *_: clock.enter(FORWARD))
        module.register_forward_hook(lambda *_: clock.leave(), always_call=True)


def of_large_models(options: argparse.Namespace) -> dict[str, Any]:
    """What models other than nano are run with."""
    return {
        "style": "spiral",
        "max_tokens": options.max_tokens,
        "samples_per_step": options.samples,
        "max_cache_tokens": 65536,
    }


def train(options: argparse.Namespace, steps: int, clock: Clock | None, profile: Any = None) -> WatchedRun:
    config = spiral.Config(
        model=options.model,
        steps=SKIPPED + steps,
        warmup_steps=options.warmup_steps if options.model == "nano" else 0,
        eval_every=10**6,
        eval_episodes=1,
        checkpoint_every=10**6,
        device=options.device,
        **({} if options.model == "nano" else of_large_models(options)),
    )
    clock_or_none = clock or Clock(time.process_time)
    load = spiral.load_policy

    def hooked(*args: Any) -> Any:
        policy = load(*args)
        if clock is not None:
            hook_forward(clock, policy.model)
        return policy

    with tempfile.TemporaryDirectory() as folder, patch.object(spiral, "load_policy", hooked):
        run = WatchedRun.create("spiral", config, Path(folder) / "run")
        run.clock, run.profile = clock_or_none, profile
        run.display = Display(Console(quiet=True))
        with ExitStack() if clock is None else watched(clock):
            spiral.train(config, run)
    return run


def rows_of(by_step: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Each part's median seconds a step with its share; first ours and the model's in all."""

    def row(case: str, ours: list[float], model: list[float]) -> dict[str, Any]:
        wholes = [sum(step.values()) - step.get(LEFT_OUT, 0.0) for step in by_step]
        shares = [mine / whole for mine, whole in zip(ours, wholes, strict=True)]
        median = statistics.median(shares)
        return {
            "case": case,
            "unit": "s a step",
            "ours": statistics.median(ours),
            "peer": statistics.median(model),
            "ratio": median,
            "ours_spread": _spread(ours),
            "peer_spread": _spread(model),
        }

    names = {name for step in by_step for name in step} - {LEFT_OUT}
    times = {name: [step.get(name, 0.0) for step in by_step] for name in names}
    models = [*MODEL, FORWARD]
    model = [sum(step.get(name, 0.0) for name in models) for step in by_step]
    ours = [sum(step.values()) - step.get(LEFT_OUT, 0.0) - m for step, m in zip(by_step, model, strict=True)]
    parts = sorted(names, key=lambda name: -sum(times[name]))
    return [
        row("all around the model", ours, model),
        *(row(f"of it: {name}", times[name], model) for name in parts if name not in models),
        *(row(f"the model: {name}", times[name], model) for name in parts if name in models),
    ]


def _spread(values: list[float]) -> float:
    median = statistics.median(values)
    return (max(values) - min(values)) / median if median else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--warmup-steps", type=int, default=30, help="of nano, until replies have their form")
    parser.add_argument("--max-tokens", type=int, default=512, help="of replies; nano says at most 16")
    parser.add_argument("--samples", type=int, default=128, help="of a step; nano has as many as the recipe")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--functions", type=int, default=0)
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    clock = Clock(after_all_launches if on_gpu else time.process_time)
    rows = rows_of(train(options, options.steps, clock).by_step[SKIPPED:])
    facts = machine(["torch", "transformers"])
    facts |= {"device": torch.cuda.get_device_name() if on_gpu else "cpu, one thread", "model": options.model}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print("\n| part | s a step | share | spread |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['case']} | {row['ours']:.4f} | {row['ratio']:.1%} | {row['ours_spread']:.0%} |")
    save("step_breakdown", facts, rows)
    if options.functions:
        profile = cProfile.Profile()
        train(options, 2, None, profile)
        pstats.Stats(profile).sort_stats("tottime").print_stats(options.functions)


if __name__ == "__main__":
    main()
