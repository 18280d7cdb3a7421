"""Golden transcripts: one whole episode per game, exactly as a model reads and answers it.

After a wanted change of wording: SPF_REWRITE_GOLDEN=1 pytest tests/games/test_golden.py, and read the diff.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from selfplay_fast import games

FOLDER = Path(__file__).parent / "golden"


def transcript(game: str, style: games.Style) -> str:
    batch = games.make(game, 1, seed=7, style=style)
    lines = []
    about = batch.description
    while not batch.terminated[0]:
        moves = batch.sample_actions(3)
        replies = []
        for view in range(about.num_players) if about.simultaneous else (None,):
            player, action = (
                (int(batch.current_player[0]), moves[0]) if view is None else (view, moves[0, view])
            )
            reply = batch.reply_text(0, int(action), view)
            if about.speech:  # talk goes inside the box, before the move
                reply = reply.replace("\\boxed{", f"\\boxed{{Word {len(lines) // 2}. ")
            lines += [f"=== player {player} reads", batch.observation(player=view)[0]]
            lines += [f"=== player {player} replies", reply]
            read, why = batch.parse([reply], player=view)
            assert (read[0], why) == (action, [None])
            replies.append(reply)
        batch.step(moves, texts=replies[:1])
    lines.append(f"=== returns {batch.returns[0].tolist()}")
    return "\n".join(lines) + "\n"


def test_transcript(game: str, style: games.Style) -> None:
    """Oracle: golden transcript, committed."""
    name = "_".join(re.findall(r"\w+", game))
    path = FOLDER / f"{name}.{style}.txt"
    now = transcript(game, style)
    if os.environ.get("SPF_REWRITE_GOLDEN"):
        path.write_text(now, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == now
