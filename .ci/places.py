"""Writes the line numbers in docs/papers.md anew: of `path.py:LINE` (`name`) the line of the definition of `name`."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "papers.md"
PLACE = re.compile(r"`([\w/]+\.py):\d+` \(`(\w+)`\)")


def line_of(path: str, name: str) -> int:
    lines = (ROOT / "selfplay_fast" / path).read_text().splitlines()
    found = [n for n, text in enumerate(lines, 1) if re.match(rf"\s*(def|class) {name}\b", text)]
    if len(found) != 1:
        raise SystemExit(f"docs/papers.md: {path} defines {name} {len(found)} times")
    return found[0]


PAGE.write_text(PLACE.sub(lambda m: f"`{m[1]}:{line_of(m[1], m[2])}` (`{m[2]}`)", PAGE.read_text()))
