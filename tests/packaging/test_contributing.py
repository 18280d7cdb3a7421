"""The worked example of CONTRIBUTING.md is a game."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAIN = """
#include <cstdio>
#include "bindings/game_entry.h"
#include "games/stones.h"
#include "text/stones_text.h"
int main() {
    const auto entry = spf::make_game_entry<spf::Stones>();
    const auto batch = entry.make({}, 2, {}, entry.format(spf::Style::kBrief));
    const std::int64_t moves[] = {2, 0};
    batch->step(moves, std::nullopt, {});
    std::puts(batch->observation(std::nullopt, std::nullopt).bytes.c_str());
    std::puts(batch->reply_text(0, 1, std::nullopt).c_str());
    batch->random_playouts(std::nullopt);
    std::printf("%g %g\\n", batch->returns()[0] + batch->returns()[1], batch->returns()[0] * batch->returns()[0]);
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_example_compiles_and_plays(tmp_path: Path) -> None:
    """Oracle: the rules in the example's first line. Both files as printed, and a main program that plays."""
    blocks = re.findall(r"```cpp\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    for folder, name, block in zip(("games", "text"), ("stones.h", "stones_text.h"), blocks, strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(block)
    (tmp_path / "main.cpp").write_text(MAIN)
    build = [
        "c++",
        "-std=c++20",
        "-O0",
        "-Wall",
        "-Werror",
        f"-I{tmp_path}",
        f"-I{ROOT / 'csrc'}",
        "main.cpp",
    ]
    subprocess.run([*build, "-o", "main", "-pthread"], cwd=tmp_path, check=True)
    out = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout.split("\n")
    assert out[0] == ("stones player 1 left 18 legal [1] [2] [3]stones player 1 left 20 legal [1] [2] [3]")
    assert out[1:3] == ["\\boxed{2}", "0 1"]
