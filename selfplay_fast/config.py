"""Recipes by name, and their configurations as plain text and back.

A recipe is a file `recipes/NAME.py` with a frozen dataclass `Config(RecipeConfig)`, a table `PRESETS` and a function
`train`; the file name is the registry.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import math
import os
import pkgutil
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

T = typing.TypeVar("T")

RECIPES = "selfplay_fast.recipes"

# Options that say where and how a run computes, and how long; the others say what it learns, and stay as they are.
CHANGEABLE = (
    "steps",
    "device",
    "dtype",
    "attn_implementation",
    "threads",
    "gradient_checkpointing",
    "max_batch_tokens",
    "max_cache_tokens",
    "rollout_servers",
    "rollout_concurrency",
    "rollout_timeout",
    "server_patience",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """What a setting must be, beside its type: ``setting: Annotated[int, Bound(…)]``; None always will do."""

    words: str
    holds: Callable[[float], bool]


def least(low: int) -> Bound:
    """`low` or more."""
    return Bound(f"at least {low}", lambda value: value >= low)


def above(low: float) -> Bound:
    """More than `low`, infinity too."""
    return Bound(f"above {low}", lambda value: value > low)


Count = typing.Annotated[int, least(1)]
Natural = typing.Annotated[int, least(0)]
Positive = typing.Annotated[float, above(0)]
Temperature = typing.Annotated[float, above(0), Bound("a number", math.isfinite)]
NotNegative = typing.Annotated[float, Bound("a number and not negative", lambda value: 0 <= value < math.inf)]
Number = typing.Annotated[float, Bound("a number", math.isfinite)]
Share = typing.Annotated[float, Bound("between 0 and 1", lambda value: 0 <= value <= 1)]
Nucleus = typing.Annotated[float, above(0), Bound("at most 1", lambda value: value <= 1)]


class RecipeConfig:
    """What every recipe's `Config` inherits: settings are within their bounds."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            for bound in _bounds(hint) if value is not None else ():
                if not bound.holds(value):
                    raise ValueError(f"{name}: must be {bound.words}, got {value}")

    def resolved(self) -> typing.Any:
        """The configuration with every default that depends on other settings written out, as a run keeps it."""
        return self

    @property
    def attn_implementation(self) -> str:
        """What `LanguageModel.load` is told, where recipes do not ask for it."""
        return "auto"

    @property
    def uses_reference(self) -> bool:
        """Does the loss compare with the model of step 0, which is then kept beside the one that learns?"""
        return False

    @property
    def critic_of(self) -> str:
        """The model that a critic, which learns beside the policy, begins as; empty: there is none."""
        return ""


def _bounds(hint: Any) -> list[Bound]:
    """Those in an annotation, in a part of a union too."""
    own = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Bound)]
    return own + [bound for part in typing.get_args(hint) for bound in _bounds(part)]


def check_warmed_up(model: str, steps: int | None) -> None:
    """ValueError where a model other than nano is to be warmed up, or is nano misspelt."""
    if model == "nano":
        return
    hint = nearest(model, ["nano"])
    if steps:
        raise ValueError(
            f"model: {model!r} is not nano{hint}, and only nano is warmed up; leave warmup_steps out, or set it to 0"
        )
    if hint and "/" not in model and not Path(model).is_dir():
        raise ValueError(f"model: {model!r} is neither nano nor a folder{hint}")


class WarmedUp(RecipeConfig):
    """What a configuration with `warmup_steps` inherits besides: None stands for as many as ``nano_warmup``, and for 0
    where another model is named, which is not to be warmed up."""

    nano_warmup = 0
    model: str
    warmup_steps: Natural | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_warmed_up(self.model, self.warmup_steps)

    def resolved(self) -> Any:
        if self.warmup_steps is not None:
            return self
        own: Any = self
        return dataclasses.replace(own, warmup_steps=self.nano_warmup if self.model == "nano" else 0)


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`" (did you mean 'x'?)"` for the closest of `known`, or the empty string when nothing is close."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    close = close or [name for name in names if word and (name.startswith(word) or word.startswith(name))][:1]
    return f" (did you mean {prefix + close[0]!r}?)" if close else ""


def recipe_names() -> list[str]:
    """The recipes that are installed, sorted."""
    package = importlib.import_module(RECIPES)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load_recipe(name: str) -> types.ModuleType:
    """The module of a recipe. Raises ValueError with the nearest name when there is none."""
    names = recipe_names()
    if name not in names:
        raise ValueError(
            f"unknown recipe {name!r}{nearest(name, names)}; there are: {', '.join(names) or 'none'}"
        )
    return importlib.import_module(f"{RECIPES}.{name}")


def recipe_source(name: str) -> ast.Module:
    """The file of a recipe, read without importing it (and torch with it)."""
    found = importlib.util.find_spec(f"{RECIPES}.{name}")
    assert found is not None
    assert found.origin is not None
    return ast.parse(Path(found.origin).read_text(encoding="utf-8"))


def option_types(name: str) -> dict[str, Any]:
    """Of a recipe's `Config`, read in the same way: its options and their types. Its own are known as text, except
    bool; whatever it inherits from is imported."""
    source = recipe_source(name)
    (config,) = (node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "Config")
    bases = {base.id for base in config.bases if isinstance(base, ast.Name)}
    types: dict[str, Any] = {}
    for node in source.body:
        if isinstance(node, ast.ImportFrom):
            for base in bases & {alias.name for alias in node.names}:
                types |= typing.get_type_hints(getattr(importlib.import_module(str(node.module)), base))
    for field in config.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = ast.unparse(field.annotation)
            if not text.startswith("ClassVar"):
                types[field.target.id] = bool if text == "bool" else text
    return types


def config_to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values: tuples become lists, everything else stays."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def same_named(kind: type[T], config: Any, **others: Any) -> T:
    """A dataclass of this ``kind``: of the configuration what is called as its fields are, and ``others``."""
    ours, theirs = ({field.name for field in dataclasses.fields(one)} for one in (config, kind))  # type: ignore[arg-type]
    return kind(**{name: getattr(config, name) for name in ours & theirs - others.keys()}, **others)


def differences(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """Of two configurations of one recipe: the options that differ, with both values."""
    ours, theirs = config_to_dict(before), config_to_dict(after)
    return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}


def config_from_dict(config_class: type, values: Mapping[str, Any], source: str = "config") -> Any:
    """Build `config_class` from plain values; every field must be there and no other key.

    Raises ValueError naming `source`, the key and the nearest right key, or the value and its right type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{source}: expected 'key: value' lines, got {type(values).__name__}")
    fields = {field.name for field in dataclasses.fields(config_class)}
    for key in values:
        if key not in fields:
            raise ValueError(
                f"{source}: unknown key {key!r}{nearest(str(key), sorted(fields - set(values)) or fields)}"
            )
    missing = [field.name for field in dataclasses.fields(config_class) if field.name not in values]
    if missing:
        raise ValueError(f"{source}: missing key {missing[0]!r}; add it, or start a new run")
    hints = typing.get_type_hints(config_class)
    return config_class(
        **{key: _typed(value, hints[key], f"{source}: {key}") for key, value in values.items()}
    )


def write_atomic(path: Path, text: str) -> None:
    """Replace the file's content in one step: a reader or a crash sees the old text or the new."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # of a full disk it does not say which file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _typed(value: Any, hint: Any, where: str) -> Any:
    """Turn what a YAML file holds into what the field's annotation asks for, or say why not."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _typed_union(value, arguments, where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        choices = ", ".join(map(repr, arguments))
        raise ValueError(
            f"{where}: {value!r} is not one of {choices}{nearest(str(value), map(str, arguments))}"
        )
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, got {value!r}")
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) != len(value):
            raise ValueError(f"{where}: expected {len(kinds)} values, got {len(value)}")
        return tuple(_typed(item, kind, where) for item, kind in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-6 as text
        except ValueError:
            raise ValueError(f"{where}: expected a number, got {value!r}") from None
    if hint in (int, float, str, bool):
        if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
            return value
        raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _typed_union(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    problem = ValueError(f"{where}: no value")
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _typed(value, kind, where)
        except ValueError as error:
            problem = error
    raise problem
