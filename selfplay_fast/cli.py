"""The command `selfplay-fast`: train, evaluate, report, games, export.

Bad input ends in one line on stderr and exit code 2; `--debug` shows the traceback instead.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import tyro

from . import config as configs
from .command_line import UsageError, parse, value_of

PROGRAM = "selfplay-fast"


def _optional(metavar: str) -> Any:
    """An option whose help says itself what leaving it out means."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Where the run goes."""

    preset: str = "nano"
    """the recipe's settings to start from"""
    run_dir: Annotated[Path | None, _optional("FOLDER")] = None
    """folder of the new run (default: runs/RECIPE-date-time)"""
    resume: Annotated[Path | None, _optional("RUN")] = None
    """continue the run in this folder with its own settings; only --steps may be given besides"""
    tensorboard: bool = False
    """also write TensorBoard scalars into the run folder"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score a model against fixed opponents, and its exact exploitability where the game is small."""

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """a run folder (its newest checkpoint), a transformers folder, or a hub id"""
    games: Annotated[tuple[str, ...] | None, _optional("GAME [GAME ...]")] = None
    """games to play (default: the run's own; for a model: kuhn_poker tic_tac_toe)"""
    episodes: int = 256
    """games per seat and opponent"""
    seed: int = 0
    """of the deals and of the sampling"""
    temperature: float = 0.6
    """sampling temperature"""
    top_p: float = 0.95
    """nucleus sampling"""
    max_tokens: Annotated[int | None, _optional("INT")] = None
    """reply length limit (default: the run's own; for a model: 512)"""
    style: Annotated[Literal["spiral", "plain", "brief"] | None, _optional("{spiral,plain,brief}")] = None
    """how states are put into words (default: the run's own; for a model: spiral)"""
    step: Annotated[int | None, _optional("INT")] = None
    """evaluate the checkpoint of this step of the run (default: the newest)"""
    json: bool = False
    """print one JSON object instead of a table"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write report.html of a run, finished or not, and print its table."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run folder"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GamesOptions:
    """List the games and their options."""

    json: bool = False
    """print JSON instead"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a run's model as a plain transformers folder."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run folder"""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """the folder to write; it must not exist or be empty"""
    step: Annotated[int | None, _optional("INT")] = None
    """the checkpoint of this step (default: the newest)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or bool(os.environ.get("SPF_DEBUG"))
    arguments = [argument for argument in arguments if argument != "--debug"]
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # they would write over the run's own display
    if arguments[:1] == ["--version"]:
        from importlib.metadata import version

        print(version("selfplay-fast"))
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    try:
        _command(arguments[0])(arguments[1:])
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            raise
        expected = isinstance(error, ValueError | OSError | ArithmeticError | ImportError)
        kind = "error" if expected else f"internal error: {type(error).__name__}"
        hint = "" if expected else " (--debug shows where)"
        print(f"{PROGRAM}: {kind}: {_one_line(str(error)) or type(error).__name__}{hint}", file=sys.stderr)
        return 2 if expected else 1
    return 0


def train(arguments: list[str]) -> None:
    """Train a model with a recipe."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_train_overview())
        return
    recipe_name = None if arguments[0].startswith("-") else arguments[0]
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
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        module.train(run.config, run)
        run.finish()
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


def evaluate(arguments: list[str]) -> None:
    """Score a model against fixed opponents and measure its exploitability."""
    options = parse(EvaluateOptions, arguments, f"{PROGRAM} evaluate")
    if options.episodes < 1:
        raise UsageError(f"--episodes: must be at least 1, got {options.episodes}")
    subject = _subject(options)
    _check_games(subject.games)

    from rich.console import Console

    from .evaluate import evaluate_policy
    from .records import Sampling
    from .report.terminal import evaluation_table

    sampling = Sampling(temperature=options.temperature, top_p=options.top_p, max_tokens=subject.max_tokens)
    with Console(stderr=True).status(f"evaluating {options.target}"):
        metrics = evaluate_policy(
            subject.load(),
            subject.games,
            episodes=options.episodes,
            seed=options.seed,
            sampling=sampling,
            style=subject.style,
        )
    if options.json:
        print(json.dumps(metrics, indent=2))
    else:
        Console(highlight=False).print(evaluation_table(metrics))


def report(arguments: list[str]) -> None:
    """Write the HTML report of a run and print its table."""
    options = parse(ReportOptions, arguments, f"{PROGRAM} report")

    from rich.console import Console

    from .report import read_metrics, write_report
    from .report.terminal import closing_table

    path = write_report(options.run)
    console = Console(highlight=False)
    if rows := read_metrics(options.run):
        console.print(closing_table(rows))
    console.print(f"report: {path}", markup=False, soft_wrap=True)


def games(arguments: list[str]) -> None:
    """List the games and their options."""
    options = parse(GamesOptions, arguments, f"{PROGRAM} games")

    from . import games as engine

    described = {name: dataclasses.asdict(engine.describe(name)) for name in engine.names()}
    if options.json:
        print(json.dumps(described, indent=2))
        return

    for name, facts in described.items():
        kind = "perfect" if facts["perfect_information"] else "hidden"
        zero_sum = "zero-sum, " if facts["zero_sum"] else ""
        print(
            f"{name}: {facts['num_players']} players, {zero_sum}{kind} information, {facts['max_turns']} turns at most"
        )
        for option, default in facts["options"].items():
            print(f"    {f'{option}={default}':<16}{facts['option_help'].get(option, '')}")
    print(f"\nwith options: {PROGRAM} train RECIPE --games 'NAME(option=value)'")


def export(arguments: list[str]) -> None:
    """Write a run's model as a plain transformers folder."""
    options = parse(ExportOptions, arguments, f"{PROGRAM} export")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ValueError(f"{options.out} already exists; name a new folder")
    checkpoint = _checkpoint(options.run, options.step)

    from .learn.checkpoint import load_checkpoint

    policy, _, _ = load_checkpoint(checkpoint)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        policy.save(options.out)
    except OSError as error:
        raise ValueError(f"cannot write {options.out}: {(error.strerror or str(error)).lower()}") from None
    print(f"{checkpoint} -> {options.out}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "games": games,
    "export": export,
}


def _command(name: str) -> Callable[[list[str]], None]:
    if name not in COMMANDS:
        hint = configs.nearest(name, COMMANDS)
        raise UsageError(f"unknown command {name!r}{hint}; there are: {', '.join(COMMANDS)}")
    return COMMANDS[name]


def _overview() -> str:
    lines = [
        f"usage: {PROGRAM} COMMAND [options]",
        "",
        "Self-play reinforcement learning of language models.",
        "",
    ]
    lines += [f"  {name:<10}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    lines += ["", f"{PROGRAM} COMMAND --help shows a command's options; --debug shows tracebacks of errors."]
    return "\n".join(lines)


def _train_overview() -> str:
    lines = [
        f"usage: {PROGRAM} train RECIPE [options]",
        f"       {PROGRAM} train --resume RUN [--steps N]",
        "",
    ]
    lines += ["recipes:"]
    for name in configs.recipe_names():
        lines.append(f"  {name:<14}{_first_line_of_recipe(name)}")
    lines += ["", f"{PROGRAM} train RECIPE --help shows a recipe's options."]
    return "\n".join(lines)


def _first_line_of_recipe(name: str) -> str:
    """The first line of a recipe's docstring, read without importing it (and torch with it)."""
    import ast
    import importlib.util

    specification = importlib.util.find_spec(f"{configs.RECIPES}.{name}")
    if specification is None or specification.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(specification.origin).read_text(encoding="utf-8")))
    return (text or "").split("\n")[0]


def _created(recipe_name: str, rest: list[str]) -> tuple[Any, types.ModuleType]:
    module = configs.load_recipe(recipe_name)
    name = value_of("--preset", rest) or next(iter(module.PRESETS))
    if name not in module.PRESETS:
        known = ", ".join(module.PRESETS)
        raise UsageError(
            f"unknown preset {name!r}{configs.nearest(name, module.PRESETS)}; there are: {known}"
        )
    options, config = _parse_train(recipe_name, module, rest, TrainOptions(preset=name), module.PRESETS[name])
    _check_config(config)

    from .run import Run

    return Run.create(recipe_name, config, options.run_dir, tensorboard=options.tensorboard), module


def _resumed(directory: Path, recipe_name: str | None, rest: list[str]) -> tuple[Any, types.ModuleType]:
    from .run import Run

    run = Run.resume(directory)
    if recipe_name not in (None, run.recipe):
        raise UsageError(f"{directory} is a run of {run.recipe!r}, not of {recipe_name!r}")
    module = configs.load_recipe(run.recipe)
    options, config = _parse_train(run.recipe, module, rest, TrainOptions(), run.config)
    if options.run_dir is not None:
        raise UsageError("--run-dir: a resumed run stays in its folder; leave it out")
    for flag in ("--preset", "--tensorboard", "--no-tensorboard"):
        if any(argument.partition("=")[0] == flag for argument in rest):
            raise UsageError(f"{flag}: a resumed run keeps its settings; only --steps can change")
    before, after = configs.config_to_dict(run.config), configs.config_to_dict(config)
    changed = [key for key in before if before[key] != after[key]]
    if changed and changed != ["steps"]:
        other = next(key for key in changed if key != "steps")
        raise UsageError(
            f"--{other.replace('_', '-')}: a resumed run keeps its settings; only --steps can change"
        )
    _check_config(config)
    if changed:
        _check_not_shorter(run, config)
        run.replace_config(config)
    return run, module


def _check_not_shorter(run: Any, config: Any) -> None:
    from .learn.checkpoint import list_checkpoints

    saved = list_checkpoints(run.checkpoints)
    done = int(saved[-1].name.removeprefix("step-")) if saved else 0
    if config.steps is not None and config.steps < done:
        raise UsageError(
            f"--steps: {config.steps} is less than the steps of {run.directory} already done: {done}"
        )


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
        _check_games(values["games"])
    if values.get("device", "auto") != "auto":
        _check_device(values["device"])


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device: {name!r} cannot be used here: {_one_line(str(error))}") from None


def _check_games(names: Sequence[str]) -> None:
    """Make one of each, so that a wrong name or option is reported before any work."""
    from . import games as engine

    if not names:
        raise UsageError(f"--games: name at least one; there are: {', '.join(engine.names())}")
    for name in names:
        if "," in name.partition("(")[0]:
            raise UsageError(f"--games: separate games by spaces: {' '.join(name.split(','))}")
        engine.make(name, batch_size=1)
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise UsageError(f"--games: {twice} is named twice")


def _checkpoint(directory: Path, step: int | None) -> Path:
    from .learn.checkpoint import list_checkpoints
    from .report.data import CHECKPOINTS, read_config

    read_config(directory)
    found = list_checkpoints(directory / CHECKPOINTS)
    if not found:
        raise ValueError(f"{directory} has no checkpoint yet")
    if step is None:
        return found[-1]
    wanted = directory / CHECKPOINTS / f"step-{step:06d}"
    if wanted not in found:
        steps = ", ".join(str(int(path.name.removeprefix("step-"))) for path in found)
        raise ValueError(f"--step: {directory} has no checkpoint of step {step}; there are: {steps}")
    return wanted


class _Subject(NamedTuple):
    """What is evaluated, and how."""

    games: Sequence[str]
    max_tokens: int
    style: Literal["spiral", "plain", "brief"]
    load: Callable[[], Any]


def _subject(options: EvaluateOptions) -> _Subject:
    """The run or model named on the command line; what the command leaves open is as in the run."""
    from .report.data import CONFIG, read_config

    path = Path(options.target)
    if (path / CONFIG).is_file():
        checkpoint = _checkpoint(path, options.step)
        settings = read_config(path)["config"]

        def load_run() -> Any:
            from .learn.checkpoint import load_checkpoint

            return load_checkpoint(checkpoint)[0]

        load = load_run
    else:
        settings = {"games": ("kuhn_poker", "tic_tac_toe")}
        if options.step is not None:
            raise UsageError(f"--step: {options.target} is not a run folder")
        if options.target.startswith((".", "/", "~", "runs/")) and not path.is_dir():
            raise ValueError(f"no run or model at {options.target}: there is no such folder")

        def load_model() -> Any:
            from .policies.language_model import LanguageModel

            return LanguageModel.load(options.target)

        load = load_model
    return _Subject(
        games=options.games if options.games is not None else tuple(settings.get("games", ())),
        max_tokens=int(settings.get("max_tokens", 512)) if options.max_tokens is None else options.max_tokens,
        style=options.style or settings.get("style", "spiral"),
        load=load,
    )


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 600 else f"{line[:600]} …"


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
