"""The games where users already are: PettingZoo, Gymnasium, OpenSpiel, TextArena; and TRL's trainers.

One module per library; a module imports its library, so nothing here is loaded before it is named.
"""
