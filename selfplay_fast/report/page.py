"""One self-contained HTML page from a run directory.

What models said reaches the page only as JSON in which no `<` survives, and the page's scripts put it in
place as text, never as markup. A content policy naming our scripts by hash keeps anything else from running
or loading.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from . import charts, data, summary

_HERE = Path(__file__).parent
_SCRIPTS = ("charts.js", "transcripts.js")
MAX_STEPS = 60  # of transcripts on the page, spread evenly; the rest stays in episodes/
MAX_TRANSCRIPT_CHARS = 4_000_000
MAX_TEXT_CHARS = 20_000


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    Raises ValueError when the directory is not a run, OSError when the page cannot be written.
    """
    run_dir = Path(run_dir)
    path = run_dir / data.REPORT
    page = render(run_dir)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render(run_dir: Path) -> str:
    """The page as text."""
    config = data.read_config(run_dir)
    rows = data.read_metrics(run_dir)
    changes = summary.changes(rows)
    scripts = [(_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["measure"] = summary.format_value
    environment.filters["difference"] = summary.format_difference
    environment.filters["duration"] = summary.format_seconds
    return environment.get_template("page.html.j2").render(
        recipe=config["recipe"],
        name=run_dir.resolve().name,
        facts=_facts(config, rows),
        config=_config_items(config["config"]) + _changed(config),
        changes=_by_game(changes),
        phases=summary.phases(rows),
        benchmarks=summary.benchmark_changes(data.read_benchmarks(run_dir)),
        benchmark_note=summary.BENCHMARKS,
        doubt=summary.DOUBT if any(change.doubtful for change in changes) else None,
        first_step=rows[0]["step"] if rows else None,
        last_step=rows[-1]["step"] if len(rows) > 1 else None,
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        script_hashes=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        data=json_for_html({"sections": charts.sections(rows), "transcripts": transcripts(run_dir)}),
    )


def json_for_html(value: Any) -> str:
    """JSON that may stand inside a script element: no character in it can end the element or begin a tag."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def transcripts(run_dir: Path) -> dict[str, Any]:
    """The transcripts for the page: `texts`, each once, and `steps` whose turns refer to them by number."""
    files = data.episode_files(run_dir)
    count = min(MAX_STEPS, len(files))
    while True:
        chosen = [files[i * (len(files) - 1) // max(count - 1, 1)] for i in range(count)]
        texts: dict[str, int] = {}
        steps = [
            {"step": step, "episodes": [_episode(episode, texts) for episode in data.read_episodes(path)]}
            for step, path in chosen
        ]
        if count <= 2 or sum(map(len, texts)) <= MAX_TRANSCRIPT_CHARS:
            break
        count //= 2
    return {"texts": list(texts), "steps": steps, "left_out": len(files) - count}


def _episode(episode: Mapping[str, Any], texts: dict[str, int]) -> dict[str, Any]:
    returns = episode.get("returns")
    turns = episode.get("turns")
    return {
        "game": str(episode.get("game", "")),
        "options": ", ".join(f"{key}={value}" for key, value in (episode.get("options") or {}).items()),
        "seed": None if episode.get("seed") is None else str(episode["seed"]),  # may exceed 2^53
        "returns": {str(role): summary.number(value) for role, value in (returns or {}).items()},
        "turns": [_turn(turn, texts) for turn in turns or () if isinstance(turn, Mapping)],
    }


def _turn(turn: Mapping[str, Any], texts: dict[str, int]) -> dict[str, Any]:
    def index(value: Any) -> int | None:
        if value is None:
            return None
        text = str(value)
        if len(text) > MAX_TEXT_CHARS:
            rest = len(text) - MAX_TEXT_CHARS
            text = f"{text[:MAX_TEXT_CHARS]} … ({rest:,} more characters in the run folder)"
        return texts.setdefault(text, len(texts))

    action = turn.get("action_text")
    return {
        "role": str(turn.get("role", "")),
        "prompt": index(turn.get("prompt", "")),
        "reasoning": index(turn.get("reasoning") or None),
        "reply": index(turn.get("reply", "")),
        "action": index(turn.get("action") if action is None else action),
        "refusal": index(turn.get("refusal")),
        "reward": summary.number(turn.get("reward")),
        "advantage": summary.number(turn.get("advantage")),
    }


def _facts(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    facts = [("steps", f"{rows[-1]['step']:,}" if rows else "none yet")]
    seconds = summary.number(rows[-1].get("time_s")) if rows else None
    if seconds is not None:
        facts.append(("time", summary.format_seconds(seconds)))
    for key, name in (("peak_memory_mib", "peak memory"), ("gpu_peak_memory_mib", "peak memory, GPU")):
        peaks = [value for row in rows if (value := summary.number(row.get(key))) is not None]
        if peaks:
            facts.append((name, f"{max(peaks):,.0f} MiB"))
    facts += summary.troubles(rows)
    settings = config["config"] if isinstance(config["config"], Mapping) else {}
    for key in ("model", "games", "seed"):
        if settings.get(key) is not None:
            facts.append((key, _shown(settings[key])))
    if config.get("version"):
        facts.append(("version", str(config["version"])))
    return facts


def _config_items(settings: Any) -> list[tuple[str, str]]:
    return (
        [(str(key), _shown(value)) for key, value in settings.items()]
        if isinstance(settings, Mapping)
        else []
    )


def _changed(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"from step {change['from_step']}", data.describe_change(change))
        for change in data.read_changes(config)
    ]


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _by_game(changes: Sequence[summary.Change]) -> list[tuple[str, list[summary.Change]]]:
    games: dict[str, list[summary.Change]] = {}
    for change in changes:
        games.setdefault(change.game, []).append(change)
    return list(games.items())


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
