"""The C++ include contract. Oracle: the arrows of docs/design.md, written down once more as `ALLOWED`."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
EVERYTHING = {"core", "games", "text", "search", "solvers", "rollout", "learn", "cuda", "bindings"}
ALLOWED = {
    "core": {"core"},
    "games": {"core", "games"},
    "text": {"core", "games", "text"},
    "search": {"core", "search"},
    "solvers": {"core", "solvers"},
    "rollout": {"rollout"},
    "learn": {"core", "learn"},
    "cuda": {"core", "games", "cuda"},
    "bindings": EVERYTHING,
}


def forbidden_includes(folder: str, source: str) -> list[str]:
    """The project headers `source`, a file of csrc/`folder`, includes although no arrow leads there."""
    headers = re.findall(r'^\s*#\s*include\s+"([^"]+)"', source, re.MULTILINE)
    return [header for header in headers if header.split("/")[0] not in ALLOWED[folder]]


@pytest.mark.parametrize(
    "path",
    sorted(path for kind in ("cpp", "h", "cu", "cuh") for path in CSRC.rglob(f"*.{kind}")),
    ids=lambda path: str(path.relative_to(CSRC)),
)
def test_arrows(path: Path) -> None:
    """Oracle: `ALLOWED`. Headers are named from csrc/, so the first part of a name is its folder."""
    assert forbidden_includes(path.relative_to(CSRC).parts[0], path.read_text()) == []


def test_a_planted_violation_is_found() -> None:
    """Oracle: one line written by hand against the arrows, among lines that respect them."""
    source = '#include <vector>\n#include "core/game.h"\n#include "text/reply.h"\n#include "games/kuhn.h"\n'
    assert forbidden_includes("games", source) == ["text/reply.h"]
