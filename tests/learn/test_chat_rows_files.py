"""Files of rows, and batches drawn from rows. Oracle: json, and the packed batch of the rows that were drawn."""

import json
from itertools import islice

import numpy as np
import pytest

from selfplay_fast.learn.chat_rows import pack_dialogues, read_rows, row_batches
from selfplay_fast.policies.streams import derive_seed

ROWS = [
    {"messages": [{"role": "user", "content": f"take {i}"}, {"role": "assistant", "content": f"turns {i}"}]}
    for i in range(7)
]


def test_files(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    assert read_rows(path, "rows") == ROWS
    good = json.dumps(ROWS[0])
    for text, problem in (
        (f"{good}\n[1]", "line 2 .*it is no JSON object"),
        (f"{good}\nno", "line 2"),
        (f"{good}\n\n{{}}", "line 3 .*messages must be messages"),
        ('{"messages": [{"role": "user", "content": "?"}]}', "line 1 .*do not end with the assistant's"),
        ('{"messages": [{"role": "assistant", "content": "!"}]}', "line 1 .*speaks before it is asked"),
        ("", "is empty"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"given: .*{problem}"):
            read_rows(path, "given")
    with pytest.raises(ValueError, match="given: there is no file"):
        read_rows(tmp_path / "none", "given")


def test_batches_without_end(toy_policy):
    """Each follows from its number alone, and holds so many rows, some of them maybe twice."""
    batches = list(islice(row_batches(toy_policy, ROWS, size=3, seed=5), 4))
    for number, batch in enumerate(batches):
        drawn = np.random.default_rng(derive_seed(5, number)).integers(7, size=3)
        want = pack_dialogues(toy_policy, [ROWS[i] for i in drawn])
        assert [s.tolist() for s in batch.sequences] == [s.tolist() for s in want.sequences]
        assert batch.weights.sum() == pytest.approx(1)
    toy_policy.context_limit = 3
    with pytest.raises(ValueError, match=r"^shown: none of 2 is a dialogue of at most 3 tokens"):
        next(row_batches(toy_policy, ROWS, size=2, seed=5, setting="shown"))
    texts = {tuple(s.tolist()) for batch in batches for s in batch.sequences}
    assert len(texts) > 3
