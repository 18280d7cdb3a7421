"""docs/papers.md says where the parts of a paper are. Oracle: the source files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = re.findall(r"`([\w/]+\.py):(\d+)` \(`(\w+)`\)", (ROOT / "docs" / "papers.md").read_text())


def test_there_are_places() -> None:
    """Oracle: the page; every line with a file name and a number is one that the next test looks up."""
    assert len(PLACES) == (ROOT / "docs" / "papers.md").read_text().count(".py:") > 10


@pytest.mark.parametrize(("path", "line", "name"), PLACES)
def test_a_place_is_where_its_name_is_defined(path: str, line: str, name: str) -> None:
    """Oracle: the line of the definition in the source file."""
    source = (ROOT / "selfplay_fast" / path).read_text().splitlines()
    found = [n for n, text in enumerate(source, 1) if re.match(rf"\s*(def|class) {name}\b", text)]
    assert found == [int(line)]
