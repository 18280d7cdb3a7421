"""Tables (games, dialogues) and the scheduler that turns them into episodes."""

from selfplay_fast.play.asynchronous import Collected, Rollouts
from selfplay_fast.play.dialogue_table import DialogueTable, Outcome
from selfplay_fast.play.game_table import GameTable, InvalidRewards
from selfplay_fast.play.scheduler import Cast, Table, game_tables, mean_turns, play, play_games, self_play

__all__ = [
    "Cast",
    "Collected",
    "DialogueTable",
    "GameTable",
    "InvalidRewards",
    "Outcome",
    "Rollouts",
    "Table",
    "game_tables",
    "mean_turns",
    "play",
    "play_games",
    "self_play",
]
