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
    for text, problem in (
        ("{}\n[1]", "line 2 .*it is no JSON object"),
        ("{}\nno", "line 2"),
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
    texts = {tuple(s.tolist()) for batch in batches for s in batch.sequences}
    assert len(texts) > 3
