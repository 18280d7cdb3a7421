"""Checks of what users hand over: one line that names the argument, what it must be and what it is."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_INT64 = 2**63 - 1
_SEED_MASK = 2**64 - 1
_SHOWN = 60  # characters of a wrong value that a message repeats

T = TypeVar("T")


def whole(what: str, value: Any, low: int = -_INT64 - 1, high: int = _INT64) -> int:
    """``value`` as an int; numpy's integers are whole numbers too, floats and digits in quotes are not."""
    number = _integer(what, value)
    if number < low:
        raise ValueError(f"{what} must be at least {low}, got {shown(number)}")
    if number > high:
        raise ValueError(f"{what} must be at most {high}, got {shown(number)}")
    return number


def optional(what: str, value: Any, low: int = -_INT64 - 1, high: int = _INT64) -> int | None:
    """The same, where None is a value too."""
    return None if value is None else whole(what, value, low, high)


def player_number(value: Any) -> int | None:
    """A player or None; the games know how many players they have."""
    return optional("player", value, -(2**31), 2**31 - 1)


def seed_bits(what: str, value: Any) -> int:
    """The 64 bits of a seed, which may be any whole number."""
    return (value if type(value) is int else _integer(what, value)) & _SEED_MASK


def seeds_bits(seeds: Iterable[int]) -> NDArray[np.uint64]:
    """uint64[K]: `seed_bits` of each."""
    if not isinstance(seeds, Iterable):
        raise TypeError(f"seeds must be a list of whole numbers, got {shown(seeds)}")
    try:
        return np.array([operator.index(seed) & _SEED_MASK for seed in seeds], np.uint64)
    except TypeError as error:
        raise TypeError(f"seeds must hold whole numbers: {error}") from None


def word(what: str, value: Any) -> str:
    """A string; which ones there are is checked where they are known."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, got {shown(value)}")
    return value


def flag(what: str, value: Any) -> bool | None:
    """True, False or None."""
    if value is not None and not isinstance(value, bool | np.bool_):
        raise TypeError(f"{what} must be True, False or None, got {shown(value)}")
    return None if value is None else bool(value)


def texts_list(what: str, value: Any) -> Sequence[str | bytes]:
    """A list of texts; its items are checked where they are read."""
    if not isinstance(value, Sequence | np.ndarray):
        raise TypeError(f"{what} must be a list of texts, one per row, got {type(value).__name__}")
    return value  # type: ignore[return-value]


def int64_array(what: str, numbers: Any) -> NDArray[Any]:
    """``numbers`` as an array of their own type, after a look for uint64 that int64 cannot hold."""
    if isinstance(numbers, np.ndarray):
        if numbers.dtype.kind == "i":
            return numbers
    else:
        try:
            numbers = np.asarray(numbers)
        except ValueError:  # rows of unequal length
            raise TypeError(f"{what} must be an array of whole numbers, got {shown(numbers)}") from None
    if numbers.dtype.kind == "u" and numbers.size and numbers.max() > _INT64:
        raise ValueError(f"{what} must be at most {_INT64}, got {numbers.max()}")
    return numbers


def name_and_options(game: str) -> tuple[str, dict[str, int | str]]:
    """Split "name(option=value, ...)"."""
    name, bracket, rest = game.strip().partition("(")
    if not bracket:
        return name, {}
    malformed = ValueError(f"game {game!r} must look like name(option=value, ...)")
    if not rest.endswith(")"):
        raise malformed
    options: dict[str, int | str] = {}
    for item in filter(None, (part.strip() for part in rest[:-1].split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            raise malformed
        if key in options:
            raise ValueError(f"game {game!r} gives option {key} twice")
        value = value.strip("'\"")
        options[key] = int(value) if re.fullmatch(r"-?[0-9]{1,1000}", value) else value
    return name.strip(), options


def option_value(game: str, option: Any, value: Any) -> int | str:
    """``value`` if it is a word of an ``option`` with words or a whole number near one with numbers.

    option: the engine's description of it, which also knows the numbers in between that are none of its values.
    """
    what = f"{game}: option {option.name}"
    if option.words:
        if value in option.words:
            return str(value)
        raise ValueError(f"{what} must be one of: {' '.join(option.words)}; got {shown(value)}")
    if isinstance(value, str):
        raise ValueError(f"{what} must be a whole number, got {shown(value)}")
    number = _integer(what, value)
    if not -_INT64 <= number <= _INT64:
        raise ValueError(f"{what} must be {option.low} to {option.high}, got {shown(number)}")
    return number


def json_lines(
    what: str,
    path: Path,
    read: Callable[[Mapping[str, Any]], T],
    *,
    malformed: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[int, T]]:
    """(number from 1, ``read`` of its object) of each line of a JSONL file; empty lines say nothing.

    A line that is no JSON object, or for which ``read`` raises a ValueError or TypeError, is told to ``malformed`` and
    left out; without that it is a ValueError that names ``what``, the line and the reason, as for a missing file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = "there is no file" if isinstance(error, FileNotFoundError) else f"{error.strerror}:"
        raise ValueError(f"{what}: {reason} {path}") from None
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, read(_json_object(line))
        except (ValueError, TypeError) as error:
            if malformed is None:
                raise ValueError(f"{what}: line {number} of {path}: {error}") from None
            malformed(number, str(error))


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        row = json.loads(data.decode())
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a character (a lone surrogate)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} at character {error.colno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    return row


def shown(value: Any) -> str:
    """``value`` on one line that is not too long."""
    if isinstance(value, int) and value.bit_length() > 1000:  # Python refuses to write very long ones
        return f"a number of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _integer(what: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be a whole number, got {shown(value)}") from None
