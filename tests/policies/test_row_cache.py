"""The room of the rows that are spoken. Oracle: its size; keys and values are tested by what decodes with them."""

import numpy as np
import torch

from selfplay_fast.policies.row_cache import RowCache
from selfplay_fast.records import Ask, Key, Sampling


def ask(tokens, turn):
    prompt = np.arange(3, 3 + tokens, dtype=np.int32)
    return Ask(role="player_0", append=prompt, key=Key(0, 0, turn), sampling=Sampling(max_tokens=3))


def test_the_room_stays_until_it_is_released(toy_policy):
    """Oracle: the same buffer after a second turn, none in another thread's speaker, a new one for other options; with
    few shapes the same after all is forgotten, too."""
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
    toy_policy.static_shapes = True
    toy_policy.generate([ask(20, 0)])
    room = toy_policy.take_room()
    toy_policy.give_room(room)
    toy_policy.forget()
    assert toy_policy.take_room() is room
    assert not len(room.lengths)
    toy_policy.give_room(room)
    toy_policy.release()
    assert toy_policy.take_room() is not room


def test_captured_steps_go_when_the_weights_are_elsewhere(toy_policy):
    """Oracle: which steps there are. Weights that change in place are seen by a captured step, others are not."""
    toy_policy.static_shapes = True
    toy_policy.generate([ask(20, 0)])
    room = toy_policy.take_room()
    steps = dict(room._steps)
    assert steps
    toy_policy.give_room(room)
    weight = toy_policy.model.lm_head.weight
    with torch.no_grad():
        weight.mul_(1.1)
    assert toy_policy.take_room()._steps == steps
    toy_policy.give_room(room)
    weight.data = weight.data.clone()
    assert not toy_policy.take_room()._steps


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
