"""Many games side by side, stepped in C++.

    g = games.make("kuhn_poker", batch_size=128, seed=0)
    while not g.terminated.all():
        g.step(g.sample_actions(seed=7))  # one draw per (seed, row, episode, ply)
    g.returns

Shapes: ``B`` games, ``P`` players, ``A`` enumerable actions, ``K`` rows of a call. Players are numbered from 0; -1 is
chance, -2 all players at once, -4 means the game is over. In a joint game (``description.simultaneous``) all players
move in every step: actions are [K, P], legal actions [B, P, A], and what one player reads or says is asked for with
``player=``. A game with options may be written ``"kuhn_poker(rounds=5)"`` wherever a name is
taken.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay_fast import _native, arguments

if TYPE_CHECKING:
    from selfplay_fast.cuda_batch import CudaBatch

__all__ = [
    "CHANCE",
    "INVALID",
    "SIMULTANEOUS",
    "STYLES",
    "TERMINAL",
    "Batch",
    "Description",
    "describe",
    "make",
    "names",
]

CHANCE = -1
SIMULTANEOUS = -2
TERMINAL = -4
INVALID = -1
"""What ``parse`` gives for a refused reply and ``sample_actions`` for an ended game."""

Style = Literal["spiral", "plain", "brief", "mars"]
ParseMode = Literal["lenient", "strict"]
STYLES: tuple[Style, ...] = get_args(Style)
_INT32 = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a game is, with its options as configured."""

    name: str
    num_players: int
    num_actions: int
    """Enumerable actions; a game may take richer ones beside them."""
    max_turns: int
    """Of all players together."""
    zero_sum: bool
    perfect_information: bool
    speech: bool
    """Do the players hear what is said in ``step(texts=...)``?"""
    simultaneous: bool
    """Do all players move in every step?"""
    styles: tuple[Style, ...]
    """Ways to put the game in words, see ``make``."""
    options: dict[str, int | str]
    option_help: dict[str, str]
    """For every option what it means and which values it takes."""


def names() -> list[str]:
    """All games, in alphabetical order."""
    return list(_native.game_names())


def describe(game: str, **options: int | str) -> Description:
    """Describe ``game``, which may carry options: ``describe("kuhn_poker(rounds=5)")``.

    Raises ValueError for an unknown game or option (suggesting the nearest), for an option given twice and for a value
    out of range.
    """
    name, given = _resolve(game, options)
    return _description(_native.describe_game(name, given))


@overload
def make(game: str, batch_size: int, *, device: Literal["cpu"] = "cpu", **arguments: Any) -> Batch: ...


@overload
def make(game: str, batch_size: int, *, device: str, **arguments: Any) -> CudaBatch: ...


def make(
    game: str,
    batch_size: int,
    *,
    seed: int = 0,
    threads: int | None = None,
    style: Style = "spiral",
    legal_list: bool | None = None,
    speech_characters: int = 200,
    chance: Literal["sampled", "explicit"] = "sampled",
    autoreset: Literal["off", "same_step", "next_step"] = "off",
    device: str = "cpu",
    **options: int | str,
) -> Batch | CudaBatch:
    r"""``batch_size`` new games.

    seed: with the row and the episode number it keys all chance; results depend on nothing else.
    threads: None for all cores; small jobs stay on the calling thread either way.
    style: ``"spiral"`` asks for the action in ``\boxed{}`` and lists actions as ``[bet]``; ``"plain"`` does neither.
        ``"brief"``, for small models that learn the rules by playing, takes replies as ``"spiral"`` does and shows the
        game's name and the changing state alone: ``kuhn_poker player 0 card Q actions none legal [check] [bet]``.
        ``"mars"`` is for chats that only grow (``messages_since``): turns are numbered, legal actions listed, and the
        reply is ``<think>...</think><answer>bet</answer>``.
    legal_list: end observations with the legal actions; None for the game's own habit.
    speech_characters: how much of one utterance the other player sees, in games with speech.
    chance: ``"explicit"`` stops where nature moves and lets ``step`` play one of ``chance_outcomes(row)``.
    autoreset: begin the next game in a row in the same step (its result stays visible until the next) or with the next.
    device: ``"cuda"`` (torch's current GPU) or ``"cuda:1"`` keeps and steps the games there: the result is a
        ``cuda_batch.CudaBatch``, which takes and gives torch tensors; threads and texts are those of its ``cpu()``. The
        same arguments give the same games on every device.
    options: of the game, see ``describe``.

    Raises ValueError for an unknown game or option (suggesting the nearest), for an option given twice, for a value out
    of range and for a device that is not there, TypeError for a value of another kind, RuntimeError where the build or
    the machine has no CUDA, MemoryError where the games do not fit.
    """
    name, given = _resolve(game, options)
    batch_size = arguments.whole("batch_size", batch_size, low=1)
    seed = arguments.seed_bits("seed", seed)
    cores = arguments.optional("threads", threads, low=1, high=_INT32) or 0  # 0: all of them
    words = [("style", style), ("chance", chance), ("autoreset", autoreset), ("device", device)]
    for what, value in words:
        arguments.word(what, value)
    legal_list = arguments.flag("legal_list", legal_list)
    speech_characters = arguments.whole("speech_characters", speech_characters, low=0)

    def host(size: int) -> Batch:
        texts = (style, legal_list, speech_characters)
        return Batch(_native.GameBatch(name, given, size, seed, cores, *texts, chance, autoreset))

    if device == "cpu":
        return host(batch_size)
    from selfplay_fast.cuda_batch import CudaBatch, open_device

    gpu = open_device(device)
    description = host(1).description  # which refuses what the host refuses
    native = _native.CudaBatch(name, given, batch_size, seed, chance, autoreset, gpu.index)
    return CudaBatch(native, gpu, description, lambda: host(batch_size))


class Batch:
    """``B`` games of one kind; made by ``make``. Games in a batch share nothing but their options."""

    __slots__ = ("_native", "description")

    def __init__(self, native: _native.GameBatch, description: Description | None = None) -> None:
        self._native = native
        self.description = description or _description(native.info)

    def __len__(self) -> int:
        return len(self._native.current_player)

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"<{self.name}({options}) x {len(self)}>"

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def options(self) -> dict[str, int | str]:
        return self.description.options

    @property
    def current_player(self) -> NDArray[np.int32]:
        """int32[B]: the player to move, ``CHANCE``, ``SIMULTANEOUS`` or ``TERMINAL``; a read-only view that follows."""
        return self._native.current_player

    @property
    def legal_actions(self) -> NDArray[np.bool_]:
        """bool[B, A] or bool[B, P, A], all False at chance nodes and after the end.

        A read-only view, updated by this access.
        """
        return self._native.legal_actions

    @property
    def legal_bits(self) -> NDArray[np.uint64]:
        """uint64[B, W] or uint64[B, P, W]: ``legal_actions`` as bits, action a in bit a % 64 of word a // 64.

        A read-only view, updated by this access.
        """
        return self._native.legal_bits

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """bool[B]. A read-only view that follows the games."""
        return self._native.terminated

    @property
    def returns(self) -> NDArray[np.float32]:
        """float32[B, P], 0 until a game is over. A read-only view that follows the games."""
        return self._native.returns

    def step(
        self, actions: ArrayLike, rows: ArrayLike | None = None, texts: Sequence[str | bytes] | None = None
    ) -> None:
        """Play ``actions`` int64[K] in ``rows`` int64[K], or in all rows, where entries of ended games are ignored.

        A joint game takes int64[K, P], one action per player.
        texts: the whole reply per action; what it says aloud is heard in games with speech and ignored in others.
        Raises ValueError naming game, row and action, and TypeError for a wrong dtype, before anything changes.
        """
        moves = arguments.int64_array("actions", actions)
        if texts is not None and len(arguments.texts_list("texts", texts)) == 0 < moves.size:
            raise ValueError(f"{self.name}: texts must hold {len(np.atleast_1d(moves))} strings, got 0")
        self._native.step(moves, _numbers(rows), texts)

    def reset(
        self, rows: ArrayLike | None = None, seeds: Iterable[int] | None = None, repeat: int = 1
    ) -> None:
        """Begin new games in ``rows``, or everywhere, each with its next random stream.

        repeat: consecutive groups of this many rows get the same deal. seeds: one per group; the deal is then a
        function of the seed alone, whatever the row.
        """
        keys = None if seeds is None else arguments.seeds_bits(seeds)
        self._native.reset(_numbers(rows), keys, arguments.whole("repeat", repeat))

    def sample_actions(self, seed: int) -> NDArray[np.int64]:
        """int64[B] or int64[B, P]: uniform legal actions by (seed, row, episode, ply); ``INVALID`` after the end."""
        return self._native.sample_actions(arguments.seed_bits("seed", seed))

    def random_playouts(self, seed: int | None = None) -> int:
        """Play every game to its end with uniform actions; return the number of turns (of a joint game: steps).

        Without a seed a row goes on by its own random stream, so copies of a batch end alike, and an ended game of an
        autoreset batch stays as it is until it is reset. With one, moves and chance are those of (seed, row); of a
        joint game the moves alone.
        """
        return self._native.random_playouts(None if seed is None else arguments.seed_bits("seed", seed))

    def observation(self, rows: ArrayLike | None = None, player: int | None = None) -> list[str]:
        """The complete message for the player to move of each row, or for ``player``; empty where nobody is to move."""
        return self._native.observation(_numbers(rows), arguments.player_number(player))

    def observation_bytes(
        self, rows: ArrayLike | None = None, player: int | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """``observation`` as one UTF-8 buffer uint8[N] and offsets int64[K + 1].

        Text ``i`` is ``buffer[offsets[i]:offsets[i + 1]]``. No string is made: for tokenisers that read bytes, and for
        more texts than a Python list should hold.
        """
        return self._native.observation_bytes(_numbers(rows), arguments.player_number(player))

    def observation_tensor(
        self, rows: ArrayLike | None = None, player: int | None = None
    ) -> NDArray[np.float32]:
        """float32[K, ...] as the player to move or ``player`` sees it; ValueError if the game has none.

        A joint game gives float32[K, P, ...] unless a player is named. Zeros where nobody is to move.
        OpenSpiel's encoding where it has the game, else what the game's header says.
        """
        return self._native.observation_tensor(_numbers(rows), arguments.player_number(player))

    def messages_since(self, row: int, player: int) -> list[str]:
        """What is new for ``player`` since its last turn: the others' moves, then what it sees if it is to move.

        Before its first turn: the complete observation.
        """
        return self._native.messages_since(*_place(row, player))

    def information_state(self, row: int, player: int) -> str:
        """The canonical key of all that ``player`` knows; in hanabi of all that it sees on the table."""
        return self._native.information_state(*_place(row, player))

    def action_text(self, row: int, action: int, player: int | None = None) -> str:
        """A legal action as legal lists show it: ``[bet]``, in styles plain and mars ``bet``."""
        return self._native.action_text(*_move(row, action), arguments.player_number(player))

    def reply_text(self, row: int, action: int, player: int | None = None) -> str:
        r"""The canonical reply that plays a legal action: ``\boxed{bet}``, ``bet`` or ``<answer>bet</answer>``."""
        return self._native.reply_text(*_move(row, action), arguments.player_number(player))

    def parse(
        self,
        replies: Sequence[str | bytes],
        rows: ArrayLike | None = None,
        mode: ParseMode = "lenient",
        player: int | None = None,
    ) -> tuple[NDArray[np.int64], list[str | None]]:
        r"""Read one reply per row: int64[K] of legal actions or ``INVALID``, and for each why it was refused.

        Lenient reads the last ``\boxed{}``, else the last ``[...]`` that names an action, else the last line, in style
        mars of the last ``<answer>`` if there is one. Strict reads what SPIRAL's published parser reads, in style mars
        what MARS's does. Replies may hold anything; their content never raises.
        """
        arguments.word("mode", mode)
        texts = arguments.texts_list("replies", replies)
        return self._native.parse(texts, _numbers(rows), mode, arguments.player_number(player))

    def chance_outcomes(self, row: int) -> list[tuple[int, float]]:
        """(action, probability) of what nature may do next; empty unless it is to move (chance="explicit")."""
        return self._native.chance_outcomes(arguments.whole("row", row))

    def history(self, row: int) -> list[int]:
        """All actions of the row's game so far, nature's included; in a joint game step by step, player by player."""
        return self._native.history(arguments.whole("row", row))

    def copy(self) -> Batch:
        """An independent batch in the same state."""
        return Batch(self._native.copy(), self.description)

    def resample(self, rows: ArrayLike | None = None, player: int | None = None, seed: int = 0) -> Batch:
        """New games that the player to move (or ``player``) cannot tell from those in ``rows``, or in all rows.

        All moves and what the player knows stay; what it cannot know is drawn anew by nature's probabilities given
        that, and what nature does later is drawn anew too. A row may be named many times. Rows where nobody is to move
        are copied, unless a player is given.
        """
        key = arguments.seed_bits("seed", seed)
        return Batch(self._native.resample(_numbers(rows), arguments.player_number(player), key))

    def state(self) -> bytes:
        """A snapshot of all games, for ``set_state`` of a batch made with the same game, options and size."""
        return self._native.state()

    def set_state(self, state: bytes) -> None:
        """Load a snapshot. ValueError, and nothing changes, if it is damaged or of another kind of batch."""
        if not isinstance(state, bytes):
            raise TypeError(f"state must be bytes, got {type(state).__name__}")
        self._native.set_state(state)


def _resolve(game: str, options: dict[str, int | str]) -> tuple[str, list[tuple[str, int | str]]]:
    """Split "name(option=value, ...)", merge the options and check their names; C++ checks the values."""
    if not isinstance(game, str):
        raise TypeError(f"game must be a name, one of {', '.join(names())}; got {type(game).__name__}")
    name, written = arguments.name_and_options(game)
    known = names()
    if name not in known:
        raise ValueError(f"unknown game {name!r}{_nearest(name, known)}")
    allowed = {option.name: option for option in _native.describe_game(name, []).options}
    for option in [*written, *options]:
        if option not in allowed:
            raise ValueError(f"{name} has no option {option!r}{_nearest(option, list(allowed))}")
        if option in written and option in options:
            raise ValueError(f"{name}: option {option} is given twice, in {game!r} and by itself")
    merged = {**written, **options}
    return name, [(key, arguments.option_value(name, allowed[key], value)) for key, value in merged.items()]


def _numbers(rows: ArrayLike | None) -> ArrayLike | None:
    return None if rows is None else arguments.int64_array("rows", rows)


def _place(row: int, player: int) -> tuple[int, int]:
    return arguments.whole("row", row), arguments.whole("player", player, -_INT32, _INT32)


def _move(row: int, action: int) -> tuple[int, int]:
    return arguments.whole("row", row), arguments.whole("action", action)


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known) or 'none'}"


def _description(info: Any) -> Description:
    options: dict[str, int | str] = {}
    texts = {}
    for option in info.options:
        options[option.name] = option.words[option.value] if option.words else option.value
        values = option.words or [str(v) for v in range(option.low, option.high + 1, option.step)]
        texts[option.name] = (
            f"{option.help}: {', '.join(values) if len(values) < 6 else values[0] + '..' + values[-1]}"
        )
    return Description(
        name=info.name,
        num_players=info.num_players,
        num_actions=info.num_actions,
        max_turns=info.max_turns,
        zero_sum=info.zero_sum,
        perfect_information=info.perfect_information,
        speech=info.speech,
        simultaneous=info.simultaneous,
        styles=STYLES,
        options=options,
        option_help=texts,
    )
