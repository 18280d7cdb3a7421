"""The games where users already are: PettingZoo, Gymnasium, OpenSpiel, TextArena; and the training: TRL, verl.

One module per library; a module imports its library, so nothing here is loaded before it is named.
"""
