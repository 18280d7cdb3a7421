"""Which curves the page shows: metrics rows sorted into sections, charts and series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import summary

_TITLES = {
    "nash_conv": "NashConv",
    "legal_rate": "Legal replies",
    "scored_mass": "Probability on legal replies",
    "loss": "Loss",
    "entropy": "Entropy",
    "grad_norm": "Gradient norm",
    "tokens_per_s": "Tokens per second",
    "samples_per_s": "Samples per second",
}
_ACROSS_GAMES = ("nash_conv", "legal_rate", "scored_mass")  # one chart, one line per game
_GPU_PEAK = "_gpu_peak_memory_mib"  # after the name of a phase
_LEARNING = ("loss", "entropy", "grad_norm", "tokens_per_s", "samples_per_s")


def sections(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Charts by section: `{"title", "charts": [{"title", "note", "percent", "series": [...]}]}`.

    A series holds the steps of the rows that have its key: `x`, `y` (None where the value was not a number)
    and `e`, the standard errors, where the run logged them. Charts without a single row are left out.
    """
    games = summary.games(rows)
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in ("step", "time_s")))
    keys = [key for key in keys if not summary.is_error(key)]
    used: set[str] = set()

    def chart(
        title: str, named: Sequence[tuple[str, str]], note: str = "", percent: bool = False
    ) -> list[dict[str, Any]]:
        present = [(key, name) for key, name in named if key in keys and key not in used]
        used.update(key for key, _ in present)
        series = [_series(rows, key, name) for key, name in present]
        return [{"title": title, "note": note, "percent": percent, "series": series}] if series else []

    def of_game(game: str, part: str) -> list[str]:
        return [key for key in keys if key.startswith(f"{game}/") and part in key]

    strength = []
    for measure in _ACROSS_GAMES:
        note = "how much both sides could still gain; 0 is perfect" if measure == "nash_conv" else ""
        percent = measure != "nash_conv"
        strength += chart(
            _TITLES[measure], [(f"{game}/{measure}", _pretty(game)) for game in games], note, percent
        )
    for game in games:
        scores = [(key, _pretty(key.partition("/score_vs_")[2])) for key in of_game(game, "/score_vs_")]
        overall = [(key, name) for key, name in scores if not summary.is_seat(key)]
        strength += chart(f"{_pretty(game)}: score against", overall, "mean return, both seats")
        strength += chart(f"{_pretty(game)}: score by seat", scores)
        kept = [(key, _pretty(key.partition("/not_lost_vs_")[2])) for key in of_game(game, "/not_lost_vs_")]
        strength += chart(f"{_pretty(game)}: not lost against", kept, percent=True)
    returns = []
    for game in games:
        roles = [(key, _pretty(key.partition("/return/")[2])) for key in of_game(game, "/return/")]
        returns += chart(f"{_pretty(game)}: returns by role", roles, "mean of the step's games")
    learning = []
    for key in _LEARNING:
        learning += chart(_TITLES[key], [(key, _TITLES[key].lower())])
    ratios = [(key, key.partition("/")[2]) for key in keys if key.startswith("sampler_ratio/")]
    learning += chart("KL(sampler || learner)", [("sampler_kl", "k3")], "0 where both compute the same")
    learning += chart(
        "Probability: learner / sampler", ratios, "percentiles over the step's tokens; 1 is right"
    )
    outside = [("sampler_outside_share", "outside 0.9 … 1.1")]
    learning += chart(
        "Tokens on which they differ", outside, "share of ratios outside 0.9 … 1.1", percent=True
    )
    happened = [key for key in summary.TROUBLES if any(summary.number(row.get(key)) for row in rows)]
    wrong = [(key, summary.TROUBLES[key]) for key in happened]
    learning += chart("Replies that went wrong", wrong, percent=True)
    used.update(summary.TROUBLES if "forfeit_rate" in happened else ("forfeits", *summary.TROUBLES))
    learning += chart("Seconds per step", [(key, _pretty(key)) for key in keys if summary.is_phase(key)])
    utilised = [(key, _pretty(key.removesuffix("_mfu"))) for key in keys if key.endswith("_mfu")]
    learning += chart("Model FLOPs utilisation", utilised, "share of the card's peak", percent=True)
    speeds = [
        (key, _pretty(key.removesuffix("_tflop_per_s"))) for key in keys if key.endswith("_tflop_per_s")
    ]
    learning += chart("TFLOP per second", speeds)
    phases = [(key, f"GPU, {key.removesuffix(_GPU_PEAK)}") for key in keys if key.endswith(_GPU_PEAK)]
    memory = [("peak_memory_mib", "process"), ("gpu_peak_memory_mib", "GPU")]
    learning += chart("Peak memory, MiB", memory + phases)
    more = []
    for title, group in _families(keys, used).items():
        percent = all(summary.is_share(key) for key in group)
        more += chart(title, [(key, _pretty(key.rpartition("/")[2])) for key in group], percent=percent)
    named = (("Strength", strength), ("Self-play returns", returns), ("Learning", learning), ("More", more))
    return [{"title": title, "charts": found} for title, found in named if found]


def _families(keys: Sequence[str], used: set[str]) -> dict[str, list[str]]:
    """What has no chart yet, one chart per folder: `game/baseline/player_0` and `…/player_1` share."""
    families: dict[str, list[str]] = {}
    for key in keys:
        if key not in used:
            parts = key.split("/")
            title = ": ".join(_pretty(part) for part in (parts[:-1] if len(parts) > 2 else parts))
            families.setdefault(title, []).append(key)
    return families


def _series(rows: Sequence[Mapping[str, Any]], key: str, name: str) -> dict[str, Any]:
    having = [row for row in rows if key in row]
    series: dict[str, Any] = {
        "key": key,
        "name": name,
        "x": [row["step"] for row in having],
        "y": [summary.number(row[key]) for row in having],
    }
    errors = [summary.number(row.get(key + summary.ERROR_ENDING)) for row in having]
    if any(error is not None for error in errors):
        series["e"] = errors
    return series


def _pretty(name: str) -> str:
    text = summary.label(name).removesuffix(" s")
    return text[:1].upper() + text[1:]
