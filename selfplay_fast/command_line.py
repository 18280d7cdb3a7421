"""From a command line to a dataclass. tyro parses; wrong input becomes one line that says what would be right."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from .config import nearest

PROGRAM = "selfplay-fast"
Options = TypeVar("Options")


class UsageError(ValueError):
    """The command line itself is wrong."""


def optional(metavar: str) -> Any:
    """An option whose help says itself what leaving it out means."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


def one_line(text: str) -> str:
    """What an error says, fit for one line of a terminal."""
    line = " ".join(text.split())
    return line if len(line) <= 600 else f"{line[:600]} …"


def parse(
    kind: type[Options], arguments: Sequence[str], program: str, default: Options | None = None
) -> Options:
    """Parse with tyro; what it prints about wrong input becomes one line."""
    check_flags(dict(_flags(kind)), arguments, program)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            if default is None:
                return tyro.cli(kind, prog=program, args=arguments)
            return tyro.cli(kind, prog=program, args=arguments, default=default)
    except SystemExit as stop:
        if stop.code:
            raise UsageError(_reworded(complaint.getvalue(), program)) from None
        raise
    except ValueError as error:  # from the dataclass itself: "field: what is wrong"
        name, colon, reason = str(error).partition(": ")
        if not colon or name not in dict(_flags(kind)):
            raise
        raise UsageError(f"--{name.replace('_', '-')}: {reason}") from error


def check_flags(known: Mapping[str, Any], arguments: Sequence[str], program: str) -> None:
    """UsageError for an option that is not one of those known, whose types are given."""
    for argument in arguments:
        if not argument.startswith("--") or argument in ("--", "--help"):
            continue
        name = argument[2:].partition("=")[0].replace("-", "_")
        switched_off = name.startswith("no_") and known.get(name[3:]) is bool
        if name not in known and not switched_off:
            close = nearest(name.replace("_", "-"), [k.replace("_", "-") for k in known], "--")
            raise UsageError(f"unknown option {argument.partition('=')[0]}{close}; see {program} --help")


def _flags(kind: type) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _flags(hint)
        else:
            yield field.name, hint


def _reworded(complaint: str, program: str) -> str:
    """The gist of tyro's boxed message, whichever way it drew the box."""
    lines = (line.strip(" │|╭╮╰╯") for line in complaint.splitlines())
    text = " ".join(" ".join(lines).split())
    end = r"(?= Got errors:| [-─+]{4}|$)"
    message = "bad command line"
    if found := re.search(rf"Error parsing (\S+): (.*?){end}", text):
        message = f"{found[1]}: {found[2]}"
        if wrong := re.search(r"invalid literal for int\(\) with base 10: (\S+)", text):
            message = f"{found[1]}: expected a whole number, got {wrong[1]}"
        elif wrong := re.search(r"could not convert string to float: (\S+)", text):
            message = f"{found[1]}: expected a number, got {wrong[1]}"
    elif found := re.search(r"Missing from [^:]+: (\S+)", text):
        message = f"{found[1]} is missing"
    elif found := re.search(r"Missing value for argument '([^']+)'", text):
        message = f"{found[1]}: missing value"
    elif found := re.search(rf"Unrecognized options: (.+?){end}", text):
        message = f"unexpected {found[1]!r}"
    elif found := re.search(
        r"nvalid choice '([^']*)' for argument '([^']+)'\. Expected one of \(([^)]*)\)", text
    ):
        choices = re.findall(r"'([^']*)'", found[3])
        message = f"{found[2]}: {found[1]!r} is not one of {', '.join(choices)}{nearest(found[1], choices)}"
    return f"{message}; see {program} --help"


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value of an option that decides about the defaults of the others."""
    flag_forms = (flag, flag.replace("-", "_").replace("__", "--", 1))
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in flag_forms:
            if equals:
                return value
            if i + 1 < len(arguments) and not arguments[i + 1].startswith("--"):
                return arguments[i + 1]
            raise UsageError(f"{flag}: missing value")
    return None
