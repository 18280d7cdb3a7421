"""Tables (games, dialogues, refinement trees) and the scheduler that turns them into episodes."""

from selfplay_fast.play.asynchronous import Rollouts
from selfplay_fast.play.dialogue_table import DialogueTable, Outcome, play_dialogues
from selfplay_fast.play.game_table import GameTable, InvalidRewards
from selfplay_fast.play.refine_prompts import RefinePrompts
from selfplay_fast.play.refine_table import RefineTable
from selfplay_fast.play.scheduler import (
    Cast,
    Table,
    game_tables,
    mean_turns,
    play,
    play_games,
    self_play,
    stream,
)
from selfplay_fast.records import NO_KEY

__all__ = [
    "NO_KEY",
    "Cast",
    "DialogueTable",
    "GameTable",
    "InvalidRewards",
    "Outcome",
    "RefinePrompts",
    "RefineTable",
    "Rollouts",
    "Table",
    "game_tables",
    "mean_turns",
    "play",
    "play_dialogues",
    "play_games",
    "self_play",
    "stream",
]
