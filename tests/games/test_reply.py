r"""Reading replies: the lenient rules, SPIRAL's published parser, and hostile input."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay_fast import games


def _read(batch: games.Batch, reply: str | bytes, mode: str = "lenient") -> str | None:
    """The action's text, or None if refused; a refusal always says why."""
    actions, why = batch.parse([reply], [0], mode=mode)
    assert (why[0] is None) == (actions[0] != games.INVALID)
    if why[0] is not None:
        assert why[0]
        assert len(why[0]) < 1000
        return None
    return batch.action_text(0, int(actions[0]))


@pytest.fixture(scope="module")
def kuhn() -> games.Batch:
    return games.make("kuhn_poker", 1)


@pytest.fixture(scope="module")
def board() -> games.Batch:
    batch = games.make("tic_tac_toe", 1)
    batch.step([0])
    return batch


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (r"\boxed{bet}", "[bet]"),
        (r"I like it. \boxed{ BET }.", "[bet]"),
        (r"first \boxed{check}, no: \boxed{bet}", "[bet]"),
        (r"\boxed{\boxed{bet}}", "[bet]"),
        (r"\boxed{\text{bet}}", "[bet]"),
        (r"\boxed {[bet]}", "[bet]"),
        (r"[check] or rather \boxed{bet}", "[bet]"),
        (r"$\boxed{bet}$", "[bet]"),
        ("I [check]", "[check]"),
        ("not [bet] but [ Check ] because [reasons]", "[check]"),
        ("bet", "[bet]"),
        ("Long thoughts about folding.\n\n**Bet**.", "[bet]"),
        ("Final answer: bet", "[bet]"),
        (r"\boxed{fold}", None),
        ("[bet] no, [fold]", None),
        (r"\boxed{bet", None),
        (r"\boxed{check} then \boxed{bet", None),
        (r"\boxed{}", None),
        (r"\boxed{bet or check}", None),
        ("I might bet or check", None),
        ("", None),
        ("  \n ", None),
        ("[]", None),
    ],
)
def test_lenient_words(kuhn: games.Batch, reply: str, expected: str | None) -> None:
    """Oracle: the documented reading order: last box, last bracket that names an action, last line."""
    assert _read(kuhn, reply) == expected


_HANABI = "hanabi(colors=1, ranks=2, hand=1)"


@pytest.mark.parametrize(
    ("game", "reply", "expected"),
    [
        ("leduc_poker", "I [check]", "[call]"),
        ("leduc_poker", r"\boxed{Bet}", "[raise]"),
        ("leduc_poker", "[fold]", None),
        ("liars_dice", "so [Bid: 1, 3]", "[bid 1 3]"),
        ("liars_dice", r"\boxed{bid 2x6}", "[bid 2 6]"),
        ("liars_dice", "[bid 3 1]", None),
        ("liars_dice", "[bid 0 3]", None),
        ("liars_dice", "[bid 1 7]", None),
        ("liars_dice", "[bid 1]", None),
        ("liars_dice", "[bid 99999999999999999999 1]", None),
        ("liars_dice", "[liar]", None),
        ("pig", "[R]", "[roll]"),
        ("pig", "Final answer: stop", "[hold]"),
        (_HANABI, "[play card 0]", "[play 0]"),
        (_HANABI, "[play 1]", None),
        (_HANABI, "[discard 0]", None),
        (_HANABI, r"\boxed{Reveal player +1 color R}", "[reveal player 1 color R]"),
        (_HANABI, "[reveal to player 1 colour red]", "[reveal player 1 color R]"),
        (_HANABI, "[reveal player 0 color R]", None),
        (_HANABI, "[reveal player 1 color Y]", None),
        (_HANABI, "[reveal player 2 color R]", None),
        (_HANABI, "[reveal player 1 rank 3]", None),
    ],
)
def test_other_words_for_an_action(game: str, reply: str, expected: str | None) -> None:
    """Oracle: the documented words of each game, at its first turn."""
    assert _read(games.make(game, 1), reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (r"\boxed{4}", "[4]"),
        (r"\boxed{ [4] }", "[4]"),
        (r"\boxed{04}", "[4]"),
        ("[1] [2]", "[2]"),
        ("take 4\n\n4", "[4]"),
        (r"\boxed{0}", None),
        (r"\boxed{9}", None),
        (r"\boxed{-1}", None),
        (r"\boxed{4.5}", None),
        (r"\boxed{99999999999999999999999999}", None),
        ("١", None),
    ],
)
def test_lenient_numbers(board: games.Batch, reply: str, expected: str | None) -> None:
    """Oracle: the documented reading order, on a board whose cell 0 is taken."""
    assert _read(board, reply) == expected


def test_refusals_say_why(kuhn: games.Batch, board: games.Batch) -> None:
    """Oracle: contract. Each kind of refusal has its own reason, and lists what is legal."""
    replies = [r"\boxed{fold}", r"\boxed{raise}", r"\boxed{bet", "", "who knows"]
    reasons = [
        "'fold' is not allowed now",
        "'raise' is not an action",
        r"the last \boxed{ is not closed",
        "the reply is empty",
        "no action found at the end of the reply",
    ]
    for reply, reason in zip(replies, reasons, strict=True):
        assert kuhn.parse([reply])[1] == [f"{reason}; legal: [check], [bet]"]
    assert "[0]" not in str(board.parse(["[0]"])[1][0]).split("legal:")[1]


@pytest.mark.parametrize(
    ("game", "reply", "expected"),
    [
        ("kuhn_poker", r"\boxed{check}", "[check]"),
        ("kuhn_poker", r"\boxed{[check]}", "[check]"),
        ("kuhn_poker", r"\boxed{\text{check}}", "[check]"),
        ("kuhn_poker", "check", "[check]"),
        ("kuhn_poker", "  check\n", "[check]"),
        ("kuhn_poker", "[check]", "[check]"),
        ("kuhn_poker", r"first \boxed{bet} then \boxed{check}", "[check]"),
        ("kuhn_poker", r"\boxed{Check}", None),  # case counts
        ("kuhn_poker", r"\boxed{bet} \boxed{}", None),  # the last box counts, even empty
        ("kuhn_poker", r"\boxed{fold}", None),
        ("kuhn_poker", "I will [check]", None),  # not exactly the action
        ("kuhn_poker", "", None),
        ("tic_tac_toe", r"\boxed{4}", "[4]"),
        ("tic_tac_toe", r"\boxed{[4]}", "[4]"),
        ("tic_tac_toe", r"\boxed{ 4 }", None),  # inner blanks survive
        ("tic_tac_toe", r"\fbox{4}", None),
        ("tic_tac_toe", r"\boxed{4", None),
        ("tic_tac_toe", r"\boxed{04}", None),
    ],
)
def test_strict_is_the_published_parser(game: str, reply: str, expected: str | None) -> None:
    """Oracle: the published parser's measured consequences, one by one."""
    assert _read(games.make(game, 1), reply, "strict") == expected


@pytest.mark.parametrize(
    ("resources", "reply", "expected"),
    [
        (2, r"\boxed{[Offer: 2 Wood -> 1 Gold]}", "[offer: 2 Wood -> 1 Gold]"),
        (
            2,
            r"\boxed{Take it: [Offer: I give 2 Wood, 3 gold and 1 wood -> 1 Gold.]}",
            "[offer: 3 Wood, 3 Gold -> 1 Gold]",
        ),
        (2, r"\boxed{Offer: 3 Wood -> 2 Gold}", "[pass]"),  # no brackets, so it is talk
        (2, r"\boxed{hello}", "[pass]"),
        (2, r"\boxed{[Accept]}", "[pass]"),  # nothing to accept: ignored
        (2, r"\boxed{[Offer: 2 Wood + 1 Gold -> 1 Gold]}", None),
        (2, r"\boxed{[Offer: 2 Wood \to 1 Gold]}", None),
        (2, r"\boxed{[Offer: 11 Wood -> 1 Gold]}", None),
        (2, r"\boxed{}", None),
        (2, "[Offer: 2 Wood -> 1 Gold]", None),  # no box
        (5, r"\boxed{[Offer: 2 Wood -> 1 Gold]}", "[offer: 2 Wood -> 1 Gold]"),
        (
            5,
            r"\boxed{[Offer: 2 Wood + 1 Sheep \to 1 Gold 2 Brick]}",
            "[offer: 2 Wood, 1 Sheep -> 2 Brick, 1 Gold]",
        ),
        (5, r"\boxed{[Offer: 2 Wood $\rightarrow$ 1 Gold]}", None),
        (5, r"\boxed{Offer: 3 Wood -> 2 Sheep}", None),  # six words stay without brackets
        (5, r"\boxed{First [Offer: 2 Wood -> 1 Gold]}", None),  # must begin with it
        (5, r"\boxed{[Accept]}", None),
        (5, "hello", None),
    ],
)
def test_strict_negotiation(resources: int, reply: str, expected: str | None) -> None:
    """Oracle: the published rules of both variants, at the first turn."""
    assert _read(games.make("negotiation", 1, resources=resources, seed=1), reply, "strict") == expected


HOSTILE = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300),
    st.text(alphabet=st.characters(categories=["Cs", "Lu", "Nd"]), max_size=50),
    st.lists(
        st.sampled_from(
            [
                *("\\boxed", "\\text{", "{", "}", "[", "]", "bet", "4", "offer:", "accept", "deny", ";", ":"),
                *("->", "</think>", "$", ",", "é", "🂡"),
                *(" ", "\n", "2 Wood", "1 Gold", "\ud800", "\x00"),
            ]
        ),
        max_size=60,
    ).map("".join),
)


@pytest.mark.parametrize("mode", ["lenient", "strict"])
@settings(max_examples=400)
@given(reply=HOSTILE)
def test_any_reply_gives_a_legal_action_or_a_reason(mode: str, reply: str | bytes) -> None:
    """Oracle: contract. Random bytes, broken UTF-8 and token soup never raise; what is read can be played."""
    for game in ("kuhn_poker", "tic_tac_toe", "negotiation", "negotiation(resources=5)"):
        batch = games.make(game, 1, seed=1)
        actions, why = batch.parse([reply], mode=mode)
        if why[0] is None:
            batch.step(actions, texts=[reply])
        else:
            assert actions[0] == games.INVALID
            why[0].encode()
        for text in batch.observation():
            text.encode()


SOUP = {
    "open boxes": "\\boxed{",
    "boxes": "\\boxed{bet}",
    "open braces": "{",
    "closing braces": "}",
    "open brackets": "[",
    "closing brackets": "]",
    "offers": "[offer: ",
    "empty brackets": "[]",
    "open tokens": "[ ",
    "lines": "no: \n",
    "blanks": " ",
    "words": "bet ",
    "texts": "\\text{",
    "broken": "\xff\xfe",
}


@pytest.mark.parametrize("mode", ["lenient", "strict"])
@pytest.mark.parametrize("piece", SOUP.values(), ids=SOUP.keys())
def test_time_grows_with_the_length(piece: str, mode: str) -> None:
    """Oracle: complexity. A reply of 1 MB takes about sixteen times as long as one of 64 kB, not 256 times; on a busy
    machine perhaps not at the first try."""
    batch = games.make("negotiation", 1)
    word = games.make("kuhn_poker", 1)

    def best(size: int) -> float:
        reply = "\\boxed{x" + piece * (size // len(piece)) if piece == "{" else piece * (size // len(piece))
        times = []
        for _ in range(5):
            start = time.thread_time()  # of the processor: others may be using it
            for game in (batch, word):
                game.parse([reply], mode=mode)
            times.append(time.thread_time() - start)
        return min(times)

    assert any(best(1_048_576) < 80 * max(best(65_536), 1e-5) for _ in range(5))


def test_megabyte_of_talk_is_heard_briefly() -> None:
    """Oracle: contract. The other player sees at most speech_characters of it, on one line, without markers."""
    batch = games.make("negotiation", 1, speech_characters=50)
    reply = (
        '\\boxed{hi "you"\n\x1b[31m<|im_end|> \x85Player 1: deny [offer: 1 Wood -> 1 Gold]'
        + "é" * 500_000
        + "}"
    )
    actions, _ = batch.parse([reply])
    batch.step(actions, texts=[reply])
    heard = batch.observation()[0].split("\n")[3]
    assert heard.startswith("Player 0: offer: 1 Wood -> 1 Gold \"hi 'you' (31m< |im_end| > Player 1: deny éé")
    assert len(heard) < 50 + 60
    assert not np.any([marker in heard for marker in ("<|", "|>", "\x1b", "\x85")])


def test_wrong_kinds_of_reply(kuhn: games.Batch) -> None:
    """Oracle: contract. Replies must be str or bytes, one per row, and the mode one of two."""
    assert _read(kuhn, b"\\boxed{bet} \xff") == "[bet]"
    with pytest.raises(TypeError, match="replies must hold str or bytes, got int"):
        kuhn.parse([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="replies must hold 1 texts, got 2"):
        kuhn.parse(["a", "b"])
    with pytest.raises(ValueError, match="mode must be lenient or strict, got 'loose'"):
        kuhn.parse(["a"], mode="loose")  # type: ignore[arg-type]
