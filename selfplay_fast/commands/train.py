"""`selfplay-fast train`."""

from __future__ import annotations

import ast
import dataclasses
import os
import signal
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro

from .. import config as configs
from ..command_line import PROGRAM, UsageError, check_flags, one_line, optional, parse, value_of
from .early_checks import check_device_name, check_early
from .subject import check_games


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Where the run goes."""

    preset: str = "nano"
    """the recipe's settings to start from"""
    run_dir: Annotated[Path | None, optional("FOLDER")] = None
    """folder of the new run (default: runs/RECIPE-date-time)"""
    resume: Annotated[Path | None, optional("RUN")] = None
    """continue the run in this folder with its own settings; only where and how it computes may change, and --steps"""
    tensorboard: bool = False
    """also write TensorBoard scalars into the run folder"""
    wandb: bool = False
    """also log to Weights & Biases; its own variables (WANDB_MODE=offline, WANDB_PROJECT, …) say where and how"""
    budget: bool = False
    """print what the run would take of the memory of each card (of as many as WORLD_SIZE says), and end"""
    card_memory: Annotated[float | None, optional("GB")] = None
    """of each card, for --budget (default: that of the card here)"""
    profile: bool = False
    """also write a trace of torch's profiler of the second and third step into the run folder"""


def train(arguments: list[str]) -> None:
    """Train a model with a recipe."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(_train_overview())
        return
    if "--budget" in arguments:
        return _print_budget(arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # torchrun sets it
        return _go(*_opened(arguments))
    from ..learn import distributed

    distributed.start()
    try:
        _go(*_opened_together(arguments))
    except (distributed.OtherRankError, FloatingPointError):  # the same on all
        if distributed.is_first():
            raise
        raise SystemExit(2) from None
    finally:
        distributed.stop()


def _opened(arguments: list[str]) -> tuple[Any, types.ModuleType]:
    """The new or resumed run that the command line names, and its recipe."""
    recipe_name = None if not arguments or arguments[0].startswith("-") else arguments[0]
    rest = arguments if recipe_name is None else arguments[1:]
    resume = value_of("--resume", rest)
    if resume is not None:
        run, module = _resumed(Path(resume), recipe_name, rest)
    elif recipe_name is None:
        raise UsageError(
            f"name a recipe: {PROGRAM} train RECIPE (there are: {', '.join(configs.recipe_names())})"
        )
    else:
        run, module = _created(recipe_name, rest)
    print(f"run folder: {run.directory}", file=sys.stderr)
    return run, module


def _opened_together(arguments: list[str]) -> tuple[Any, types.ModuleType]:
    """The same on every rank: the first reads the command line, the others find the folder that it opened."""
    from ..learn import distributed
    from ..run import Follower

    with distributed.together():
        opened = _opened(arguments) if distributed.is_first() else None
    directory = distributed.gather(None if opened is None else opened[0].directory.resolve())[0]
    if opened is not None:
        return opened
    assert directory is not None
    run = Follower.resume(directory)
    return run, configs.load_recipe(run.recipe)


def _go(run: Any, module: types.ModuleType) -> None:
    from ..policies.base import ServersGoneError

    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        module.train(run.config, run)
        run.finish()
    except FloatingPointError as error:
        stopped = FloatingPointError(f"{error}; {_where_to_go_on(run)}")
        run.fail(stopped.with_traceback(error.__traceback__))
        raise stopped from error
    except ServersGoneError as error:
        run.fail(error)
        saved = f"step {_steps_done(run)} is saved"
        raise ServersGoneError(f"{error}; {saved}: {PROGRAM} train --resume {run.directory}") from error
    except BaseException as error:
        run.fail(error)
        if isinstance(error, KeyboardInterrupt):
            print(
                f"{PROGRAM}: stopped; continue with: {PROGRAM} train --resume {run.directory}",
                file=sys.stderr,
            )
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _where_to_go_on(run: Any) -> str:
    """The last good checkpoint; the step that failed is the one after the last row."""
    from ..learn.checkpoint import list_checkpoints
    from ..report import read_metrics

    saved = list_checkpoints(run.checkpoints)
    if not saved:
        return f"there is no checkpoint in {run.directory} yet"
    rows = read_metrics(run.directory)
    good = f"the last good checkpoint is {saved[-1]}"
    if len(saved) > 1 and rows and saved[-1] == run.checkpoints / f"step-{rows[-1]['step']:06d}":
        good += f" (the step began with it; the one before is {saved[-2].name})"
    return good


def _train_overview() -> str:
    lines = [
        f"usage: {PROGRAM} train RECIPE [options]",
        f"       {PROGRAM} train --resume RUN [--steps N] [--device D] …",
        "",
    ]
    lines += ["recipes:"]
    for name in configs.recipe_names():
        first_line = (ast.get_docstring(configs.recipe_source(name)) or "").split("\n")[0]
        lines.append(f"  {name:<14}{first_line}")
    lines += ["", f"{PROGRAM} train RECIPE --help shows a recipe's options."]
    return "\n".join(lines)


def _print_budget(arguments: list[str]) -> None:
    """What the run of a command line would take of memory; ValueError where a card has less."""
    import torch

    from ..training import memory_budget

    recipe_name, *rest = arguments
    if recipe_name.startswith("-") or value_of("--resume", rest) is not None:
        raise UsageError(f"--budget: is of a new run: {PROGRAM} train RECIPE --budget …")
    _, options, config = _configured(recipe_name, rest)
    if config.model == "nano":
        raise UsageError("--budget: nano fits everywhere; name a model with --model")
    if config.device == "auto":
        config = dataclasses.replace(config, device="cuda")
    counted = memory_budget(config, ranks=int(os.environ.get("WORLD_SIZE", "1")))
    print(counted.table())
    if options.card_memory is not None:
        counted.check(options.card_memory * 1e9)
    elif torch.cuda.is_available():
        counted.check(torch.cuda.get_device_properties(0).total_memory)


def _configured(recipe_name: str, rest: list[str]) -> tuple[types.ModuleType, TrainOptions, Any]:
    """The recipe, the options of the run and those of the recipe, checked."""
    if recipe_name in configs.recipe_names():
        flags = configs.option_types(recipe_name) | typing.get_type_hints(TrainOptions)
        check_flags(flags, rest, f"{PROGRAM} train {recipe_name}")
        check_early(rest)
    module = configs.load_recipe(recipe_name)
    name = value_of("--preset", rest) or next(iter(module.PRESETS))
    if name not in module.PRESETS:
        known = ", ".join(module.PRESETS)
        raise UsageError(
            f"unknown preset {name!r}{configs.nearest(name, module.PRESETS)}; there are: {known}"
        )
    options, config = _parse_train(recipe_name, module, rest, TrainOptions(preset=name), module.PRESETS[name])
    _check_config(config)
    return module, options, config


def _created(recipe_name: str, rest: list[str]) -> tuple[Any, types.ModuleType]:
    from ..run import Run

    module, options, config = _configured(recipe_name, rest)
    _check_model(config, options.preset, module)
    run = Run.create(
        recipe_name,
        config.resolved(),
        options.run_dir,
        tensorboard=options.tensorboard,
        wandb=options.wandb,
        profile=options.profile,
    )
    return run, module


def _resumed(directory: Path, recipe_name: str | None, rest: list[str]) -> tuple[Any, types.ModuleType]:
    from ..run import Run

    run = Run.resume(directory, profile="--profile" in rest)
    if recipe_name not in (None, run.recipe):
        raise UsageError(f"{directory} is a run of {run.recipe!r}, not of {recipe_name!r}")
    module = configs.load_recipe(run.recipe)
    options, config = _parse_train(run.recipe, module, rest, TrainOptions(), run.config)
    if options.run_dir is not None:
        raise UsageError("--run-dir: a resumed run stays in its folder; leave it out")
    for flag in ("--preset", "--tensorboard", "--no-tensorboard", "--wandb", "--no-wandb"):
        if any(argument.partition("=")[0] == flag for argument in rest):
            raise UsageError(f"{flag}: a resumed run keeps its settings; {_may_change(run.config)}")
    config = config.resolved()
    changed = configs.differences(run.config, config)
    for name in changed:
        if name not in configs.CHANGEABLE:
            raise UsageError(f"{_flag(name)}: a resumed run keeps its settings; {_may_change(run.config)}")
    _check_config(config)
    if changed:
        done = _steps_done(run)
        if "steps" in changed and config.steps is not None and config.steps < done:
            raise UsageError(
                f"--steps: {config.steps} is less than the steps of {run.directory} already done: {done}"
            )
        run.replace_config(config, from_step=done + 1)
    return run, module


def _may_change(config: Any) -> str:
    names = configs.config_to_dict(config).keys()
    return f"only {', '.join(_flag(name) for name in configs.CHANGEABLE if name in names)} and --profile may be given"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _steps_done(run: Any) -> int:
    """The step of the newest checkpoint."""
    from ..learn.checkpoint import list_checkpoints

    saved = list_checkpoints(run.checkpoints)
    return int(saved[-1].name.removeprefix("step-")) if saved else 0


def _parse_train(
    recipe_name: str, module: types.ModuleType, rest: list[str], options: TrainOptions, config: Any
) -> tuple[TrainOptions, Any]:
    """Options of the run and of the recipe from one command line; `options` and `config` are the defaults."""
    both = dataclasses.make_dataclass(
        "Train",
        [
            ("run", Annotated[TrainOptions, tyro.conf.arg(name="")]),
            ("recipe", Annotated[module.Config, tyro.conf.arg(name="")]),
        ],
        frozen=True,
        kw_only=True,
    )
    both.__doc__ = (module.__doc__ or "").split("\n")[0]
    parsed: Any = parse(
        both, rest, f"{PROGRAM} train {recipe_name}", default=both(run=options, recipe=config)
    )
    return parsed.run, parsed.recipe


def _check_config(config: Any) -> None:
    values = configs.config_to_dict(config)
    if "games" in values:
        check_games(values["games"])
    if values.get("held_out"):
        check_games(values["held_out"], "--held-out")
    if values.get("device", "auto") != "auto":
        _check_device(values["device"])


def _check_model(config: Any, preset: str, module: types.ModuleType) -> None:
    """What can be said of a model before it is loaded, where the recipe has one."""
    if not configs.config_to_dict(config).keys() >= {"model", "style", "max_tokens", "lora_rank"}:
        return
    from ..training import check_model

    check_model(config)
    if preset == "nano" != config.model:
        others = ", ".join(name for name in module.PRESETS if name != "nano")
        note = f"note: what is not given is as preset nano has it; for real models: --preset {others}"
        print(note, file=sys.stderr)


def _check_device(name: str) -> None:
    import torch

    check_device_name(name)
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device: {name!r} cannot be used here: {one_line(str(error))}") from None


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
