"""What a command line may name: games, and runs or models to evaluate, play against or export."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..command_line import UsageError

if TYPE_CHECKING:
    from ..games import Style
    from ..policies import Policy
    from ..records import Sampling

RANDOM, OPTIMAL = "random", "optimal"
SEARCHES = ("mcts", "ismcts")
SERVER = "server:"
_UNTRAINED: dict[str, Any] = {"games": ("kuhn_poker", "tic_tac_toe")}
_TABLE = ("chat", "forced_prefix", "legal_list")  # settings of recipes that are options of their game tables


class Subject(NamedTuple):
    """A run or a model, and the settings it was trained with; `load` gives the policy.

    table: further options of the game tables that it learned at. scores: does it know the probabilities of whole
    replies, whatever was said before?
    """

    games: Sequence[str]
    max_tokens: int
    style: Style
    parse_mode: Literal["lenient", "strict"]
    load: Callable[[], Any]
    table: Mapping[str, Any]
    scores: bool = True
    max_think_tokens: int | None = None


def subject(target: str, step: int | None = None) -> Subject:
    """The run folder (its checkpoint of `step`, default the newest), transformers folder, hub id or server `target`."""
    from ..report.data import CONFIG, read_config

    path = Path(target)
    if target.startswith(SERVER):
        settings = _UNTRAINED
        load = _server(target, step)
    elif (path / CONFIG).is_file():
        checkpoint = checkpoint_of(path, step)
        settings = read_config(path)["config"]
        keeps = settings.get("keep_thinking", settings.get("chat"))

        def load_run() -> Any:
            from ..learn.checkpoint import load_policy

            return load_policy(checkpoint, device="auto", keep_thinking=keeps is True)

        load = load_run
    else:
        settings = _UNTRAINED
        if step is not None:
            raise UsageError(f"--step: {target} is not a run folder")
        if target.startswith((".", "/", "~", "runs/")) and not path.is_dir():
            raise ValueError(f"no run or model at {target}: there is no such folder")
        if path.is_dir() and not (path / "config.json").is_file():
            raise ValueError(f"{target} is neither a run folder ({CONFIG}) nor a model folder (config.json)")

        def load_model() -> Any:
            from ..policies.language_model import LanguageModel

            return LanguageModel.load(target, device="auto")

        load = load_model
    return Subject(
        games=tuple(settings.get("games", ())),
        max_tokens=int(settings.get("max_tokens", 512)),
        style=settings.get("style", "spiral"),
        parse_mode=settings.get("parse_mode", "lenient"),
        load=load,
        table={name: settings[name] for name in _TABLE if name in settings},
        scores=not (target.startswith(SERVER) or settings.get("chat")),
        max_think_tokens=settings.get("max_think_tokens"),
    )


def _server(name: str, step: int | None) -> Callable[[], Any]:
    """Loads ``server:URL#MODEL`` once it has said a word."""
    if step is not None:
        raise UsageError(f"--step: {name} is not a run folder")
    from ..policies.openai_server import OpenAIServer

    policy = OpenAIServer.from_name(name)

    def load_server() -> Any:
        policy.check()
        return policy

    return load_server


def servers(names: Sequence[str]) -> Mapping[str, Policy]:
    """Opponents of an evaluation by their labels, each of which has said a word."""
    if not names:
        return {}
    from ..policies.openai_server import OpenAIServer

    try:
        return OpenAIServer.opponents(names)
    except ValueError as error:
        raise UsageError(f"--opponents: {error}") from None


def simple_player(name: str, game: str, option: str) -> Policy | None:
    """Uniform moves, a solver's policy, a saved one (.json) or a search; None for any other name: that is one for
    `subject`."""
    if name == RANDOM:
        from ..policies import RandomPolicy

        return RandomPolicy()
    if name == OPTIMAL:
        from ..evaluate import fixed_opponents

        known = fixed_opponents(game)
        for solved in ("perfect", "equilibrium"):
            if solved in known:
                return known[solved]
        raise UsageError(
            f"{option}: {game} is too large to solve here; take {RANDOM}, or a run or model folder"
        )
    if name.endswith(".json"):
        from ..policies import TabularPlayer
        from ..solvers import load_policy

        if not Path(name).is_file():
            raise UsageError(f"{option}: there is no policy file {name}")
        return TabularPlayer(load_policy(name, game))
    if name.partition("(")[0] in SEARCHES:
        return _searching(name, game, option)
    close = difflib.get_close_matches(name, (RANDOM, OPTIMAL, *SEARCHES), n=1, cutoff=0.6)
    if close and not Path(name).exists():
        raise UsageError(f"{option}: unknown opponent {name!r} (did you mean {close[0]!r}?)")
    return None


def _searching(name: str, game: str, option: str) -> Policy:
    """``mcts(simulations=100, c=1.4)`` as a player."""
    from ..games import describe
    from ..policies import SearchPlayer

    kind, _, rest = name.partition("(")
    if (fitting := "mcts" if describe(game).perfect_information else "ismcts") != kind:
        raise UsageError(f"{option}: {kind} does not fit {game}; use {fitting}")
    items = [item.split("=", 1) for item in rest.removesuffix(")").replace(" ", "").split(",") if item]
    try:
        numbers = {key: float(value) if "." in value else int(value) for key, value in items}
        return SearchPlayer(kind, **numbers)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UsageError(f"{option}: {name!r}: {error}; write mcts(simulations=100, c=1.4)") from None


def checked_sampling(
    temperature: float, top_p: float, max_tokens: int, max_think_tokens: int | None = None
) -> Sampling:
    """How replies are drawn; a wrong value names its option."""
    from ..records import Sampling

    try:
        return Sampling(
            temperature=temperature, top_p=top_p, max_tokens=max_tokens, max_think_tokens=max_think_tokens
        )
    except ValueError as error:
        field, _, reason = str(error).removeprefix("sampling: ").partition(" ")
        raise UsageError(f"--{field.replace('_', '-')}: {reason}") from None


def checkpoint_of(directory: Path, step: int | None) -> Path:
    """The checkpoint folder of a step of a run, or of its newest."""
    from ..learn.checkpoint import list_checkpoints
    from ..report.data import CHECKPOINTS, read_config

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


def check_games(names: Sequence[str], option: str = "--games") -> None:
    """Make one of each, so that a wrong name or option is reported before any work."""
    from .. import games as engine

    if not names:
        raise UsageError(f"{option}: name at least one; there are: {', '.join(engine.names())}")
    for name in names:
        if "," in name.partition("(")[0]:
            raise UsageError(f"{option}: separate games by spaces: {' '.join(name.split(','))}")
        try:
            engine.make(name, batch_size=1)
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from None
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise UsageError(f"{option}: {twice} is named twice")
