"""The command `play`: a person's lines in, the game's words out.

Oracles: the same game played by the library with a scripted player, the solvers, and what was typed wrong.
"""

import io
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from selfplay_fast.cli import main
from selfplay_fast.play import GameTable, play
from selfplay_fast.policies import RandomPolicy, ScriptedPolicy


@pytest.fixture
def sit_down(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Play with the given lines typed; what the terminal showed."""

    def run(line: str, *typed: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{text}\n" for text in typed)))
        assert main(["play", *line.split()]) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize(
    ("game", "typed"),
    [
        ("tic_tac_toe", [str(cell) for cell in (4, 0, 8, 2, 6, 1, 3, 5, 7)]),
        ("kuhn_poker(rounds=5)", ["bet", "fold", "check", "call"] * 10),
        ("snake", ["up", "sideways", "left", "down", "right"] * 10),
        ("negotiation", ["Hello. [offer: 1 Wood -> 2 Gold]", "[accept]"] * 10),
    ],
)
def test_a_game_to_its_end(game: str, typed: list[str], seat: int, sit_down: Callable[..., str]) -> None:
    """Oracle: the library. A scripted player that says the same lines, refused ones left out, reads all that is
    shown at its turns and gets the printed returns."""
    lines = iter(typed)

    def say(ask, sample):
        line = next(lines)
        while ask.seat.batch.parse([line], [ask.seat.row], player=ask.seat.player)[1] != [None]:
            line = next(lines)
        return line

    cast = {f"player_{seat}": ScriptedPolicy(say), f"player_{1 - seat}": RandomPolicy()}
    (episode,) = play(cast, [GameTable(game, episodes=1, seed=7, style="plain")])
    shown = sit_down(f"{game.replace(' ', '')} --seat {seat} --seed 7", *typed)
    words, at = " ".join(shown.split()), 0
    for turn in episode.turns:
        if turn.ask.role == f"player_{seat}":
            changing = turn.ask.prompt_text[turn.ask.prompt_text.index("You are") :]
            at = words.index(" ".join(changing.split()), at)
        elif at:  # its moves before the first turn are part of what is shown there
            assert f"Player {1 - seat}: {turn.action_text}" in words[at:]
    own = episode.returns[f"player_{seat}"]
    result = "You win." if own > 0 else "You lose." if own < 0 else "A draw."
    points = [f"player {p}{' (you)' * (p == seat)} {v:+g}" for p, v in enumerate(episode.returns.values())]
    assert shown.splitlines()[-1] == f"{result} Returns: {', '.join(points)}."


def test_the_seed_deals(sit_down: Callable[..., str]) -> None:
    """Oracle: equal text for equal seeds, all three cards over ten seeds, another game every time without one."""
    shown = [sit_down(f"kuhn_poker --seed {seed}", "check", "fold") for seed in (*range(10), *range(10))]
    assert shown[:10] == shown[10:]
    assert {text.split("Your card: ")[1][0] for text in shown} == set("JQK")
    assert len({sit_down("kuhn_poker", "check", "fold").splitlines()[0] for _ in range(3)}) > 1


def test_wrong_moves_may_be_retried(sit_down: Callable[..., str]) -> None:
    """Oracle: the reader's reasons, one per wrong line, and the game goes on with the first right one."""
    shown = sit_down("tic_tac_toe --seed 1", "", "the middle", "9", "[4]", "4")
    assert shown.count("That is no move: ") == 4
    for reason in (
        "the reply is empty",
        "no action found",
        "'9' is not allowed now",
        "'4' is not allowed now",
    ):
        assert f"That is no move: {reason}" in shown
    assert "3 O 5" in shown
    assert shown.endswith("> \nYou left; the game is not finished.\n")


def test_the_optimal_opponent(sit_down: Callable[..., str]) -> None:
    """Oracle: the games' values. Nobody beats perfect tic-tac-toe; a folder on every bet loses 1 to an equilibrium,
    which bets kings and never folds them."""
    rng = random.Random(0)
    results = []
    for seed in range(12):
        lines = [str(rng.randrange(9)) for _ in range(200)]
        shown = sit_down(f"tic_tac_toe --opponent optimal --seat {seed % 2} --seed {seed}", *lines)
        results.append(shown.splitlines()[-1].split(" Returns")[0])
    assert set(results) <= {"You lose.", "A draw."}
    assert "You lose." in results
    bluffed = [sit_down(f"kuhn_poker --opponent optimal --seed {seed}", "bet") for seed in range(60)]
    returns = {text.split("(you) ")[1][:2] for text in bluffed if "Your card: J" in text}
    assert returns == {"+1", "-2"}  # the equilibrium folds jacks, calls with kings and some queens


def test_a_searching_opponent(sit_down: Callable[..., str]) -> None:
    """Oracle: tic-tac-toe is a draw; whoever plays at random does not beat a search that proves what it plays."""
    rng = random.Random(0)
    for seed in range(4):
        lines = [str(rng.randrange(9)) for _ in range(200)]
        shown = sit_down(
            f"tic_tac_toe --opponent mcts(simulations=3000) --seat {seed % 2} --seed {seed}", *lines
        )
        assert shown.splitlines()[-1].split(" Returns")[0] in ("You lose.", "A draw.")
    shown = sit_down(
        "kuhn_poker --opponent ismcts(simulations=200,c=1.5) --seed 1", *["bet", "check", "fold"] * 3
    )
    assert "Returns: " in shown


def test_a_model_folder(tmp_path: Path, sit_down: Callable[..., str]) -> None:
    """Oracle: contract. An untrained model's noise is shown as no move and loses the game for it."""
    from selfplay_fast.policies.language_model import LanguageModel
    from selfplay_fast.policies.nano import build_nano

    LanguageModel(*build_nano(["kuhn_poker"], seed=0)).save(tmp_path / "model")
    shown = sit_down(f"kuhn_poker --opponent {tmp_path / 'model'} --seed 1", "check")
    assert "The reply of player_1 is no move: " in shown
    assert shown.splitlines()[-1] == "You win. Returns: player 0 (you) +1, player 1 -1."


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["GAME", "missing"]),
        ("tictactoe", ["'tictactoe'", "'tic_tac_toe'"]),
        ("kuhn_poker(round=5)", ["'round'", "'rounds'"]),
        ("kuhn_poker --seat 2", ["--seat", "0 to 1", "got 2"]),
        ("kuhn_poker --seat -1", ["--seat", "got -1"]),
        ("kuhn_poker --seat first", ["--seat", "whole number", "'first'"]),
        ("kuhn_poker --oponent random", ["--oponent", "'--opponent'"]),
        ("kuhn_poker --opponent rndom", ["'rndom'", "'random'"]),
        ("tic_tac_toe --opponent mcts(simulations=0)", ["--opponent", "simulations must be"]),
        ("tic_tac_toe --opponent mcts(depth=3)", ["--opponent", "'depth'"]),
        ("kuhn_poker --opponent mcts", ["--opponent", "use ismcts"]),
        ("tic_tac_toe --opponent mcts(many)", ["--opponent", "mcts(simulations=100"]),
        ("kuhn_poker --opponent optimum", ["'optimum'", "'optimal'"]),
        ("kuhn_poker --opponent ./nowhere", ["./nowhere", "no such folder"]),
        ("negotiation --opponent optimal", ["negotiation is too large"]),
    ],
)
def test_wrong_input_is_one_line(line: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit code 2 and one line that names the wrong word, with the right one where one is near."""
    assert main(["play", *line.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    for word in words:
        assert word in captured.err


def test_a_process_survives_broken_bytes_and_is_interrupted(tmp_path: Path) -> None:
    """Oracle: a real process. Bytes that are no UTF-8 are a wrong move, Ctrl-C ends with 130 and a sentence."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # jobs may ignore it
    )
    code += "from selfplay_fast.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-u", "-c", code, "play", "tic_tac_toe", "--seed", "1"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\xff\xfe\n")
        process.stdin.flush()
        shown = b""
        while b"no move" not in shown:
            line = process.stdout.readline()
            assert line, process.communicate(timeout=60)[1].decode()
            shown += line
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert b"You left" in rest
        assert errors == b""
