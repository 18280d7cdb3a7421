"""Which samples are decoded together, so that their keys and values fit a bounded cache."""

from __future__ import annotations

from collections.abc import Sequence

Part = list[list[tuple[int, Sequence[int]]]]  # groups of (prompt, its rows)


def split_parts(
    groups: Sequence[Sequence[int]], longest: Sequence[int], rows: Sequence[Sequence[int]], limit: int
) -> list[Part]:
    """Groups of prompts as parts that are decoded one after another, the long ones first.

    Each of the ``rows[p]`` of prompt p becomes a context of up to ``longest[p]`` tokens, and all contexts of a part
    take as much room as its longest. A part holds at most ``limit`` tokens, or a single row, and at most half of what
    it holds is padding; groups and the rows of a prompt are cut where they do not fit.
    """
    parts: list[Part] = []
    count = width = needed = 0  # rows, longest row and tokens of the part being filled
    for group in sorted(groups, key=lambda group: -max(longest[p] for p in group)):
        fresh = True  # does this group's next prompt open a new list in its part?
        for p in sorted(group, key=lambda p: -longest[p]):
            step = max(1, limit // longest[p])
            for start in range(0, len(rows[p]), step):
                members = rows[p][start : start + step]
                tokens = len(members) * longest[p]
                slots = (count + len(members)) * max(width, longest[p])
                if not parts or slots > min(limit, 2 * (needed + tokens)):
                    parts.append([])
                    count, width, needed, fresh = 0, 0, 0, True
                if fresh:
                    parts[-1].append([])
                parts[-1][-1].append((p, members))
                fresh = False
                count += len(members)
                width = max(width, longest[p])
                needed += tokens
    return parts
