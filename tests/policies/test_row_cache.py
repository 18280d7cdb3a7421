"""The room of the rows that are spoken. Oracle: its size; keys and values are tested by what decodes with them."""

import numpy as np

from selfplay_fast.policies.row_cache import RowCache
from selfplay_fast.records import Ask, Key, Sampling


def ask(tokens, turn):
    prompt = np.arange(3, 3 + tokens, dtype=np.int32)
    return Ask(role="player_0", append=prompt, key=Key(0, 0, turn), sampling=Sampling(max_tokens=3))


def test_the_room_stays_until_the_policy_forgets(toy_policy):
    """Oracle: the same buffer after a second turn, none in another thread's speaker, a new one for other options."""
    toy_policy.generate([ask(20, 0)])
    room = toy_policy.take_room()
    toy_policy.give_room(room)
    toy_policy.generate([ask(30, 1)])
    again = toy_policy.take_room()
    assert again is room
    toy_policy.give_room(again)
    assert toy_policy.speaker().take_room() is not room
    toy_policy.max_cache_tokens //= 2
    assert toy_policy.take_room() is not room
    toy_policy.give_room(room)
    toy_policy.max_cache_tokens *= 2
    toy_policy.forget()
    assert toy_policy.take_room() is not room


def test_room_for_one_long_row_does_not_multiply(toy_policy):
    """Oracle: ``max_tokens`` bounds rows times columns, after one row of 100 tokens and then 16 rows of 10."""
    cache = RowCache(toy_policy.model, 200)
    shape = (toy_policy.model.config.num_key_value_heads, toy_policy.model.config.head_dim)
    layers = toy_policy.model.config.num_hidden_layers
    for rows, width in ((1, 100), (16, 10)):
        cache.clear()
        keys = [(toy_policy.model.lm_head.weight.new_ones(rows, shape[0], width, shape[1]),) * 2] * layers
        cache.add(keys, [np.arange(width)] * rows)
        held = cache.layers()[0][0]
        assert held.shape[0] * held.shape[2] <= 200
        assert bool((held[:rows, :, :width] == 1).all())
