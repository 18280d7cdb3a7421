"""`selfplay-fast refine`: responses refined until they pass, for a file of prompts."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from ..arguments import json_lines
from ..command_line import PROGRAM, UsageError, optional, parse
from .subject import subject

if TYPE_CHECKING:
    from ..play import RefineTable
    from ..records import Sampling
    from ..refine_search import Draft


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefineCommandOptions:
    """Search by refinement (SPaR) from every line of a file; finished trees are appended to --out as they end.

    Run the same command again to go on where it was stopped.
    """

    prompts: Annotated[Path, tyro.conf.arg(metavar="FILE.jsonl")]
    """one object a line: {"prompt": …}, with "response" to begin from it, "critique" of it to go by, "id" to keep"""
    policy: Annotated[str, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """who writes, judges and refines: a run folder, a transformers folder, a hub id, or server:URL#MODEL"""
    out: Annotated[Path | None, optional("FILE.jsonl")] = None
    """where the trees go (default: PROMPTS with .refined.jsonl)"""
    order: Literal["bfs", "dfs"] = "bfs"
    """the best of each level, or the best child first"""
    branch: int = 3
    """refinements of a response; responses to a prompt that comes without one"""
    keep: int = 2
    """how many responses are refined further"""
    depth: int = 3
    """levels"""
    judgements: int = 5
    """votes on a response"""
    malformed: Literal["refuse", "skip"] = "refuse"
    """what to do about a line that is no prompt"""
    max_tokens: Annotated[int | None, optional("INT")] = None
    """reply length limit (default: 2048, of refinements 3072)"""
    seed: int = 0
    """of the sampling"""


class _Line(NamedTuple):
    number: int  # from 1
    id: Any
    draft: Draft


def refine(arguments: list[str]) -> None:
    """Refine responses until they pass their judges, for a file of prompts."""
    options = parse(RefineCommandOptions, arguments, f"{PROGRAM} refine")
    out = options.out or options.prompts.with_suffix(".refined.jsonl")
    if not options.prompts.is_file():
        raise UsageError(f"--prompts: there is no file {options.prompts}")
    if out.resolve() == options.prompts.resolve():
        raise UsageError(f"--out: {out} holds the prompts; name another file")
    lines = list(_read_prompts(options.prompts, skip=options.malformed == "skip"))
    if not lines:
        raise UsageError(f"--prompts: {options.prompts} holds no prompt")
    table_settings = _settings(options)
    keys = [_key(options, line) for line in lines]
    done = _finished_keys(out, set(keys))
    left = [(line, key) for line, key in zip(lines, keys, strict=True) if key not in done]
    print(f"{len(lines)} prompts, {len(lines) - len(left)} of them done; trees go to {out}", file=sys.stderr)
    if left:
        named = subject(options.policy)
        _search(named.load(), left, table_settings, options.seed, out)


def _settings(options: RefineCommandOptions) -> dict[str, Any]:
    """What a table takes besides its drafts; wrong values name their option."""
    from ..play.refine_table import SAMPLINGS
    from ..refine_search import RefineOptions

    if options.max_tokens is not None and options.max_tokens < 1:
        raise UsageError(f"--max-tokens: must be at least 1, got {options.max_tokens}")
    samplings: Mapping[str, Sampling] = SAMPLINGS
    if options.max_tokens is not None:
        samplings = {
            kind: dataclasses.replace(sampling, max_tokens=options.max_tokens)
            for kind, sampling in SAMPLINGS.items()
        }
    names = ("order", "branch", "keep", "depth", "judgements")
    try:
        search = RefineOptions(**{name: getattr(options, name) for name in names})
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    return {"options": search, "samplings": samplings}


def _search(
    policy: Any, left: Sequence[tuple[_Line, str]], settings: dict[str, Any], seed: int, out: Path
) -> None:
    """All trees at once; each is written as it ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..play import RefineTable, self_play, stream

    table: RefineTable = RefineTable(
        [line.draft for line, _ in left],
        seed=seed,
        indices=[line.number for line, _ in left],
        keep_turns=False,
        **settings,
    )
    by_number = {line.number: (line, key) for line, key in left}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    failures: list[str] = []
    accepted = rounds = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        out.open("a", encoding="utf-8") as file,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("trees", total=len(left))
        for _, episode in stream(self_play(policy), [table]):
            progress.advance(task)
            if "failure" in episode.kept:
                failures.append(f"line {episode.index}: {episode.kept['failure']}")
                continue
            accepted += episode.kept["refined"].accepted
            rounds = max(rounds, episode.kept["refined"].rounds)
            file.write(_row(*by_number[episode.index], episode.kept["refined"]))
            file.flush()
    print(f"{accepted} of {len(left)} passed, after at most {rounds} rounds each", file=sys.stderr)
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(left)} trees were given up ({failures[0]}); {len(left) - len(failures)} are in "
            f"{out}: run the same command again for the others"
        )


def _row(line: _Line, key: str, tree: Any) -> str:
    from ..play.refine_data import tree_to_json

    result = tree.result
    row = {
        "line": line.number,
        "id": line.id,
        "key": key,
        "response": None if result is None else result.response,
        "value": None if result is None else result.value,
        **tree_to_json(tree),
    }
    return json.dumps(row) + "\n"


def _key(options: RefineCommandOptions, line: _Line) -> str:
    """Names a line under these settings: a finished tree of the same key need not be grown again."""
    values = dataclasses.asdict(options)
    for name in ("prompts", "out", "malformed"):
        del values[name]
    text = json.dumps([values, line.number, dataclasses.asdict(line.draft)])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _finished_keys(out: Path, known: set[str]) -> set[str]:
    """Of the trees in ``out``; a line that was cut off while it was written is taken away."""
    if not out.exists():
        return set()
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    found = set()
    for number, line in enumerate(whole.splitlines(), 1):
        key = None
        with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
            key = json.loads(line)["key"]
        if key not in known:
            raise UsageError(
                f"--out: line {number} of {out} is no tree of these prompts and settings; name another file"
            )
        found.add(key)
    if len(whole) < len(data):
        with out.open("r+b") as file:
            file.truncate(len(whole))
    return found


def _read_prompts(path: Path, *, skip: bool) -> Iterator[_Line]:
    """The lines that are prompts; others are refused, or skipped with a word."""

    def malformed(number: int, reason: str) -> None:
        if not skip:
            hint = "(--malformed skip leaves such lines out)"
            raise UsageError(f"--prompts: line {number} of {path}: {reason} {hint}")
        print(f"line {number} skipped: {reason}", file=sys.stderr)

    for number, (name, draft) in json_lines("--prompts", path, _read_line, malformed=malformed):
        yield _Line(number, name, draft)


def _read_line(row: Mapping[str, Any]) -> tuple[Any, Draft]:
    from ..refine_search import Draft

    if row.get("prompt") is None:
        raise ValueError('it has no "prompt"')
    texts = {name: row[name] for name in ("prompt", "response", "critique") if row.get(name) is not None}
    for name in ("prompt", "response"):
        if isinstance(texts.get(name), str) and not texts[name].strip():
            raise ValueError(f"its {name} is empty")
    return row.get("id"), Draft(**texts)
