"""What a run changed: for every game and set of held-out prompts, each measure at the start and at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ERROR_ENDING = "_error"  # `score_vs_random_error` is the standard error of `score_vs_random`
ENOUGH_MASS = 0.99  # of a model's probability must be on the replies that were scored
DOUBT = "* less than 99 % of the model's probability is on legal replies, so this is not yet the NashConv of its play"
ERRORS = "± is one standard error."
MARKS = f"Legal replies and returns are those of self-play; {ERRORS}"
BENCHMARKS = "± is one standard error; of a difference, that of two independent samples."
CHANGES = "▲ ▼: larger or smaller by two standard errors or more, green for better."
TROUBLES = {
    "forfeit_rate": "games dropped because a reply never came",
    "unclosed_rate": "replies whose reasoning was cut or did not end",
}
_SEATS = ("_first", "_second")
# The order of the tables; what is not here follows by name.
_ORDER = ("legal_rate", "return/", "score_vs_", "not_lost_vs_", "nash_conv", "accuracy")
_ACCURACIES = ("accuracy", "search_accuracy")  # of tasks in words, which stand where games do
_HELD_OUT = ("reward", "average")  # of responses to held-out prompts


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One measure of one game: its first and its last known value."""

    game: str  # "kuhn_poker"
    key: str  # "score_vs_random"
    label: str  # "score vs random"
    before: float | None
    after: float | None  # None while there is only one value
    before_step: int
    after_step: int
    before_error: float | None = None  # standard errors, where the run logged them
    after_error: float | None = None
    before_doubtful: bool = False  # see `DOUBT`
    after_doubtful: bool = False

    @property
    def doubtful(self) -> bool:
        """Whether a value is not to be trusted; tables mark it with a star and print `DOUBT` below."""
        return self.before_doubtful or self.after_doubtful

    @property
    def better(self) -> bool | None:
        """Whether the change is in the right direction.

        None for measures without one, for single seats, and for changes of less than two standard errors.
        """
        if self.before is None or self.after is None or self.before == self.after or self.doubtful:
            return None
        if is_seat(self.key):
            return None  # half the games and no standard error
        noise = math.hypot(self.before_error or 0.0, self.after_error or 0.0)
        if abs(self.after - self.before) < 2 * noise:
            return None
        if self.key.startswith("nash_conv"):
            return self.after < self.before
        if self.key in ("legal_rate", *_ACCURACIES, *_HELD_OUT) or "_vs_" in self.key:
            return self.after > self.before
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkChange:
    """One measure of one benchmark: at step 0, or where it was first asked, and where it was last."""

    task: str
    measure: str  # "acc"
    questions: int | None
    before: float | None
    after: float | None  # either is None where only the other was asked
    before_error: float | None
    after_error: float | None
    higher_is_better: bool | None

    @property
    def difference(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def error(self) -> float | None:
        """Of the difference: the two standard errors as if they were independent, which for equal questions is much."""
        if self.difference is None or self.before_error is None or self.after_error is None:
            return None
        return math.hypot(self.before_error, self.after_error)

    @property
    def better(self) -> bool | None:
        """Whether the change is in the right direction; None where it is within two standard errors."""
        if not self.difference or self.error is None or self.higher_is_better is None:
            return None
        return (
            (self.difference > 0) == self.higher_is_better if abs(self.difference) >= 2 * self.error else None
        )


def number(value: Any) -> float | None:
    """A finite number, or None: what a metrics row holds may be missing, null or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def is_error(key: str) -> bool:
    """Whether a metric is the standard error of another one."""
    return key.endswith(ERROR_ENDING)


def is_share(key: str) -> bool:
    """Whether a metric is a share between 0 and 1, shown in percent."""
    return key.endswith(("_rate", "_mass", "_share")) or "not_lost" in key or "_rate_vs_" in key


def is_seat(key: str) -> bool:
    """Whether a metric is the part of another one that was measured in one seat."""
    return key.endswith(_SEATS)


def games(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The games that the rows speak of, and whatever else an evaluation is of, in order of appearance.

    In step 0 a policy is evaluated, and nothing else happens.
    """
    found: dict[str, None] = {}
    for row in rows:
        for key in row:
            game, slash, rest = key.partition("/")
            measures = ("legal_rate", "nash_conv", "accuracy")
            measured = rest in measures or rest.startswith(("return/", "score_vs_"))
            if slash and (measured or row.get("step") == 0):
                found[game] = None
    return list(found)


def troubles(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What went wrong with replies, in words, and its share: the mean of the steps and the largest; none of 0."""
    found = []
    for key, words in TROUBLES.items():
        shares = [share for row in rows if (share := number(row.get(key))) is not None]
        if any(share > 0 for share in shares):
            mean = format_value(key, sum(shares) / len(shares))
            found.append((words, f"{mean} on average, at most {format_value(key, max(shares))} in a step"))
    return found


def label(key: str) -> str:
    """A measure's name for people: `return/player_0` -> `return, player 0`."""
    for seat in _SEATS:
        if key.endswith(seat):
            key = f"{key.removesuffix(seat)}, {seat[1:]}"
    for raw, words in (
        ("_vs_", " vs "),
        ("legal_rate", "legal replies"),
        ("nash_conv", "NashConv"),
        ("/", ", "),
    ):
        key = key.replace(raw, words)
    return key.replace("_", " ")


def phases(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """(phase, its seconds in all rows, its share of all phases), the longest first; speeds are not phases."""
    totals: dict[str, float] = {}
    for row in rows:
        for key, value in row.items():
            if is_phase(key):
                totals[key.removesuffix("_s")] = totals.get(key.removesuffix("_s"), 0.0) + (
                    number(value) or 0.0
                )
    whole = sum(totals.values())
    ordered = sorted(totals.items(), key=lambda item: -item[1])
    return [(name, seconds, seconds / whole) for name, seconds in ordered if whole > 0]


def is_phase(key: str) -> bool:
    """Whether a metric holds the seconds of one phase of the work."""
    return key.endswith("_s") and not key.endswith("_per_s") and key != "time_s" and "/" not in key


def format_seconds(seconds: float) -> str:
    """A time as people say it: `0.42 s`, `38 s`, `12 min 5 s`, `3 h 20 min`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute} min" if hours else f"{minute} min {second} s" if minute else f"{second} s"


def format_value(key: str, value: float | None, error: float | None = None) -> str:
    """A value as shown in tables: rates as percentages, a dash for what is unknown."""
    if value is None:
        return "–"
    if is_share(key):
        # 0.9996 must not read "100.0 %": a rate is rounded towards the worse side
        return f"{math.floor(value * 1000 + 1e-9) / 10:.1f} %"
    text = f"{value:+.3f}" if key.startswith("return/") or "_vs_" in key else f"{value:.3f}"
    text = text.replace("-", "−")
    return f"{text} ± {error:.3f}" if error is not None else text


def format_difference(change: BenchmarkChange) -> str:
    """A difference with its sign and its standard error."""
    if change.difference is None:
        return "–"
    text = f"{change.difference:+.3f}".replace("-", "−")
    return text if change.error is None else f"{text} ± {change.error:.3f}"


def changes(rows: Sequence[Mapping[str, Any]]) -> list[Change]:
    """First and last value of every measure of every game, in the order of the closing table."""
    result = []
    for game in games(rows):
        keys = {key.partition("/")[2]: None for row in rows for key in row if key.startswith(f"{game}/")}
        for key in sorted((key for key in keys if not is_error(key)), key=_rank):
            name = f"{game}/{key}"
            known = [row for row in rows if number(row.get(name)) is not None]
            if not known:
                continue
            first, last = known[0], known[-1]
            result.append(
                Change(
                    game=game,
                    key=key,
                    label=label(key),
                    before=number(first[name]),
                    after=number(last[name]) if last is not first else None,
                    before_step=int(first["step"]),
                    after_step=int(last["step"]),
                    before_error=_error(first, name),
                    after_error=_error(last, name),
                    before_doubtful=is_doubtful(first, game, key),
                    after_doubtful=last is not first and is_doubtful(last, game, key),
                )
            )
    return result


# What two results must have in common to be compared.
_SETTINGS = ("task", "measure", "questions", "few_shot", "chat_template", "temperature", "max_tokens")


def benchmark_changes(rows: Sequence[Mapping[str, Any]]) -> list[BenchmarkChange]:
    """Of every benchmark the first and the last step that were asked in the same way."""
    by_setting: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: int(row["step"])):
        by_setting.setdefault(tuple(str(row.get(name)) for name in _SETTINGS), []).append(row)
    result = []
    for same in by_setting.values():
        last = same[-1]
        untrained = int(last["step"]) == 0
        first = same[0] if len(same) > 1 or untrained else {}
        after = {} if untrained else last
        higher, questions = last.get("higher_is_better"), number(last.get("questions"))
        result.append(
            BenchmarkChange(
                task=str(last["task"]),
                measure=str(last["measure"]),
                questions=None if questions is None else int(questions),
                before=number(first.get("value")),
                after=number(after.get("value")),
                before_error=number(first.get("error")),
                after_error=number(after.get("error")),
                higher_is_better=higher if isinstance(higher, bool) else None,
            )
        )
    return result


def headline(changes_: Sequence[Change]) -> list[Change]:
    """The measures that the closing table in the terminal shows."""
    return [
        change
        for change in changes_
        if change.key in ("legal_rate", "nash_conv", "attack_success_rate", *_ACCURACIES, *_HELD_OUT)
        or change.key.startswith("return/")
        or (change.key.startswith("score_vs_") and not is_seat(change.key))
    ]


def is_doubtful(row: Mapping[str, Any], game: str, key: str) -> bool:
    """Whether a value of a row is not to be trusted yet, see `DOUBT`."""
    mass = number(row.get(f"{game}/scored_mass"))
    return key == "nash_conv" and mass is not None and mass < ENOUGH_MASS


def _error(row: Mapping[str, Any], name: str) -> float | None:
    return number(row.get(name + ERROR_ENDING))


def _rank(key: str) -> tuple[int, str]:
    return next((i for i, prefix in enumerate(_ORDER) if key.startswith(prefix)), len(_ORDER)), key
