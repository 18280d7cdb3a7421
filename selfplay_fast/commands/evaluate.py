"""`selfplay-fast evaluate`."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..command_line import PROGRAM, UsageError, optional, parse
from .subject import SERVER, check_games, checked_sampling, checkpoint_of, servers, subject


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score a model against fixed opponents and measure its exact exploitability where the game is small; or ask it the
    questions of lm-eval's benchmarks (--tasks), or for replies that follow instructions (--instructions)."""

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """a run folder (its newest checkpoint), a transformers folder, a hub id, or server:URL#MODEL"""
    games: Annotated[tuple[str, ...] | None, optional("GAME [GAME ...]")] = None
    """games to play (default: the run's own; for a model: kuhn_poker tic_tac_toe)"""
    episodes: int = 256
    """games per seat and opponent"""
    seed: int = 0
    """of the deals and of the sampling"""
    temperature: Annotated[float | None, optional("FLOAT")] = None
    """sampling temperature (default: 0.6; with --instructions 0)"""
    top_p: float = 0.95
    """nucleus sampling"""
    max_tokens: Annotated[int | None, optional("INT")] = None
    """reply length limit (default: the run's own; for a model: 512; with --instructions 1280)"""
    style: Annotated[
        Literal["spiral", "plain", "brief", "mars"] | None, optional("{spiral,plain,brief,mars}")
    ] = None
    """how states are put into words (default: the run's own; for a model: spiral)"""
    step: Annotated[int | None, optional("INT")] = None
    """evaluate the checkpoint of this step of the run (default: the newest)"""
    opponents: Annotated[tuple[str, ...], optional("server:URL#MODEL [...]")] = ()
    """models on servers to play against besides the fixed opponents"""
    exact_states: int = 1000
    """exact exploitability where a game has at most so many information states (tic_tac_toe 4520, liars_dice 24576)"""
    json: bool = False
    """print JSON instead of a table"""
    tasks: Annotated[tuple[str, ...], optional("TASK[,TASK ...]")] = ()
    """benchmarks of lm-eval instead of games, like gsm8k or mmlu_*; the options below belong to them"""
    instructions: Annotated[Path | None, optional("FILE.jsonl")] = None
    """prompts in IFEval's format instead of games: how many of their instructions are followed"""
    task_path: Annotated[Path | None, optional("DIR")] = None
    """a folder with more tasks, as YAML files; what they name as !function is run"""
    base: bool = False
    """also ask the checkpoint that the run began with (step 0), and show the difference"""
    limit: Annotated[int | None, optional("INT")] = None
    """at most so many questions of each task, or prompts (default: all)"""
    few_shot: Annotated[int | None, optional("INT")] = None
    """examples before each question (default: the task's own number)"""
    batch_size: int = 8
    """questions at a time"""
    chat_template: bool = False
    """put questions as chat messages, as self-play does"""


def evaluate(arguments: list[str]) -> None:
    """Score a model against fixed opponents and measure its exploitability."""
    options = parse(EvaluateOptions, arguments, f"{PROGRAM} evaluate")
    if options.episodes < 1:
        raise UsageError(f"--episodes: must be at least 1, got {options.episodes}")
    if options.exact_states < 0:
        raise UsageError(f"--exact-states: must be at least 0, got {options.exact_states}")
    asks = bool(options.tasks) or options.instructions is not None
    for name in ("task_path", "few_shot", "chat_template", *(() if asks else ("base", "limit"))):
        if not options.tasks and getattr(options, name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')}: needs benchmarks; name them by --tasks")
    if asks:
        return _benchmarks(options)
    named = subject(options.target, options.step)
    opponents = servers(options.opponents)
    games = named.games if options.games is None else options.games
    check_games(games)

    from rich.console import Console

    from ..evaluate import episode_metrics, evaluate_policy
    from ..play import play_games, self_play
    from ..policies.streams import derive_seed
    from ..report.summary import MARKS
    from ..report.terminal import evaluation_table

    temperature = 0.6 if options.temperature is None else options.temperature
    sampling = checked_sampling(
        temperature,
        options.top_p,
        named.max_tokens if options.max_tokens is None else options.max_tokens,
        named.max_think_tokens if options.max_tokens is None else None,
    )
    style = options.style or named.style
    with Console(stderr=True).status(f"evaluating {options.target}"):
        policy = named.load()
        played = play_games(
            self_play(policy),
            games=games,
            episodes=options.episodes * len(games),
            seed=derive_seed(options.seed, -1),
            sampling=sampling,
            style=style,
            parse_mode=named.parse_mode,
            **named.table,
        )
        metrics = episode_metrics(played) | evaluate_policy(
            policy,
            games,
            episodes=options.episodes,
            seed=options.seed,
            sampling=sampling,
            style=style,
            parse_mode=named.parse_mode,
            exact_states=options.exact_states if named.scores else 0,
            opponents=opponents,
            **named.table,
        )
    if options.json:
        print(json.dumps(metrics, indent=2))
    else:
        console = Console(highlight=False)
        console.print(evaluation_table(metrics))
        console.print(f"All games at temperature {temperature:g}, top-p {options.top_p:g}. {MARKS}")


def _benchmarks(options: EvaluateOptions) -> None:
    """Ask what `--tasks` or `--instructions` names; of a run, the results go to `benchmarks.jsonl` and its page."""
    for name, least in (("limit", 1), ("few_shot", 0), ("batch_size", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')}: must be at least {least}, got {value}")
    for name in ("games", "opponents"):
        if getattr(options, name):
            raise UsageError(f"--{name}: benchmarks play no games; leave it or them out")
    prepare = _instructions(options) if options.instructions is not None else _tasks(options)
    run = _run_of(options)
    if options.base and run is None:
        raise UsageError(f"--base: {options.target} is not a run folder")
    steps: list[int | None] = [options.step]
    if run is not None:
        last = int(checkpoint_of(run, options.step).name.removeprefix("step-"))
        steps = [0, last] if options.base and last else [last]
        checkpoint_of(run, steps[0])

    from rich.console import Console

    from ..report.terminal import benchmark_table

    rows: list[dict[str, Any]] = []
    with Console(stderr=True).status(f"reading what to ask {options.target}") as status:
        ask = prepare()
        for step in steps:
            status.update(f"asking {options.target}" + ("" if step is None else f", step {step}"))
            found = ask(subject(options.target, step).load())
            if run is not None:
                _keep(run, step or 0, found)
            rows += [{"step": step or 0, **row} for row in found]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        Console(highlight=False).print(benchmark_table(rows))


_Asking = Callable[[Any], list[dict[str, Any]]]  # a policy's results


def _tasks(options: EvaluateOptions) -> Callable[[], _Asking]:
    """How lm-eval asks the questions of `--tasks`."""
    names = [name for entry in options.tasks for name in entry.split(",") if name]
    if not names:
        raise UsageError("--tasks: name at least one")
    if options.target.startswith(SERVER):
        raise UsageError(f"--tasks: {options.target} only talks, and lm-eval needs the model itself")

    def prepare() -> _Asking:
        from ..evaluate.benchmarks import benchmark, find_tasks

        return functools.partial(
            benchmark,
            names=names,
            tasks=find_tasks(names, options.task_path),
            limit=options.limit,
            few_shot=options.few_shot,
            batch_size=options.batch_size,
            chat_template=options.chat_template,
            seed=options.seed,
        )

    return prepare


def _instructions(options: EvaluateOptions) -> Callable[[], _Asking]:
    """How the prompts of `--instructions` are asked and checked."""
    path = options.instructions
    assert path is not None
    if options.tasks:
        raise UsageError("--instructions: they are asked by themselves; leave it or --tasks out")
    if not path.is_file():
        raise UsageError(f"--instructions: there is no file {path}")
    temperature = 0.0 if options.temperature is None else options.temperature
    max_tokens = 1280 if options.max_tokens is None else options.max_tokens
    sampling = checked_sampling(temperature, options.top_p, max_tokens)

    def prepare() -> _Asking:
        from ..evaluate.instructions import follow, instruction_rows, read_instructions

        prompts = read_instructions(path)[: options.limit]
        if not prompts:
            raise UsageError(f"--instructions: {path} holds no prompt")
        settings = {"seed": options.seed, "temperature": temperature, "max_tokens": max_tokens}

        def ask(policy: Any) -> list[dict[str, Any]]:
            found = follow(policy, prompts, sampling=sampling, seed=options.seed)
            if lost := found.count(None):
                print(f"{lost} of {len(found)} prompts got no answer, and do not count", file=sys.stderr)
            return [row | settings for row in instruction_rows(path.stem, found)]

        return ask

    return prepare


def _run_of(options: EvaluateOptions) -> Path | None:
    from ..report.data import CONFIG

    path = Path(options.target)
    return path if (path / CONFIG).is_file() else None


def _keep(run: Path, step: int, rows: list[dict[str, Any]]) -> None:
    """Each step's as soon as it has answered."""
    from ..report import write_report
    from ..report.data import append_benchmarks

    try:
        append_benchmarks(run, step, rows)
        write_report(run)
    except OSError as error:
        raise ValueError(f"cannot write to {run}: {(error.strerror or str(error)).lower()}") from None
