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
    while not batch.terminated[0]:
        player, action = batch.current_player[0], int(batch.sample_actions(3)[0])
        reply = batch.reply_text(0, action)
        if batch.description.speech:  # talk goes inside the box, before the move
            reply = reply.replace("\\boxed{", f"\\boxed{{Word {len(lines) // 2}. ")
        lines += [f"=== player {player} reads", batch.observation()[0]]
        lines += [f"=== player {player} replies", reply]
        actions, why = batch.parse([reply])
        assert why == [None]
        batch.step(actions, texts=[reply])
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
