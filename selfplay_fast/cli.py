"""The command `selfplay-fast`: train, evaluate, arena, play, refine, report, games, export, serve.

Bad input ends in one line on stderr and exit code 2; `--debug` shows the traceback instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from . import config as configs
from .command_line import PROGRAM, UsageError, one_line
from .commands import COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or bool(os.environ.get("SPF_DEBUG"))
    arguments = [argument for argument in arguments if argument != "--debug"]
    for quiet in (
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "TQDM_DISABLE",
    ):  # they would write over the run's own display
        os.environ.setdefault(quiet, "1")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would too
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
        expected = isinstance(error, ValueError | OSError | ArithmeticError | ImportError | MemoryError)
        kind = "error" if expected else f"internal error: {type(error).__name__}"
        hint = "" if expected else " (--debug shows where)"
        print(f"{PROGRAM}: {kind}: {one_line(str(error)) or type(error).__name__}{hint}", file=sys.stderr)
        return 2 if expected else 1
    return 0


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
