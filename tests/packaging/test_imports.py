"""The Python import contract of .importlinter, linted in the layout of an installed wheel.

Oracle: import-linter over the package as it is (kept) and over the same package with one arrow turned round
(broken, naming the contract). In a source checkout kernels/ lies outside the package and would go unseen.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="import-linter comes with the extra 'dev'")

ROOT = Path(__file__).parents[2]
# An editable install finds the checkout before anything on sys.path; here the copy must win.
LINT = """
import os, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
sys.path.insert(0, os.getcwd())
from importlinter.cli import lint_imports
sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))
"""


@pytest.fixture
def installed_layout(tmp_path: Path) -> Path:
    """A copy of the package's Python files as a wheel lays them out, kernels inside."""
    package = tmp_path / "selfplay_fast"
    python_only = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "selfplay_fast", package, ignore=python_only)
    shutil.copytree(ROOT / "kernels", package / "kernels", ignore=python_only, dirs_exist_ok=True)
    return package


def lint(package: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LINT, str(ROOT / ".importlinter")]
    return subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=False)


def test_package_keeps_the_contract(installed_layout: Path) -> None:
    """Oracle: every contract of .importlinter is kept by the package as it is."""
    result = lint(installed_layout)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("kernels/planted.py", "from selfplay_fast import records", "Arrows point down only"),
        ("kernels/planted.py", "import transformers", "Kernels need torch and triton only"),
        ("play/planted.py", "import selfplay_fast.learn", "Arrows point down only"),
        ("records.py", "from selfplay_fast.play import *", "Arrows point down only"),
        ("integrations/planted.py", "import selfplay_fast.commands", "Arrows point down only"),
        ("recipes/planted.py", "import selfplay_fast.integrations", "Arrows point down only"),
        ("newcomer.py", "import selfplay_fast.records", "Arrows point down only"),
        (
            "recipes/planted.py",
            "from selfplay_fast.recipes import spiral",
            "Recipes do not import each other",
        ),
    ],
)
def test_a_planted_violation_is_found(installed_layout: Path, module: str, line: str, contract: str) -> None:
    """Oracle: one import written against the arrows, or a module nobody placed, breaks exactly its contract."""
    with (installed_layout / module).open("a") as file:
        file.write(f"\n{line}\n")
    result = lint(installed_layout)
    broken = [text for text in result.stdout.splitlines() if text.endswith("BROKEN")]
    assert result.returncode == 1
    assert [text.removesuffix(" BROKEN") for text in broken] == [contract], result.stdout + result.stderr
