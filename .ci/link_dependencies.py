"""Gives a virtual environment the declared dependencies of a distribution, without installing them.

    python .ci/link_dependencies.py DISTRIBUTION SITE_PACKAGES

Follows the requirements of DISTRIBUTION (its extras left out) and links their files from the environment this
runs in into SITE_PACKAGES. What is not declared is not there, so a missing requirement is an ImportError.
"""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a requirement's marker holds here, with one of `extras` or without any."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})


def dependencies(name: str) -> dict[str, set[str]]:
    """Every distribution `name` needs, directly or not, with the extras it is needed with."""
    found: dict[str, set[str]] = {}
    pending = [Requirement(name)]
    while pending:
        parent = pending.pop()
        for text in distribution(parent.name).requires or []:
            child = Requirement(text)
            known = found.get(child.name)
            if applies(child, parent.extras) and (known is None or not child.extras <= known):
                found[child.name] = (known or set()) | child.extras
                pending.append(child)
    return found


def link(name: str, site_packages: Path) -> None:
    """Link the top-level files and folders of one distribution."""
    source = distribution(name)
    tops = {file.parts[0] for file in source.files or []} - {"..", "__pycache__"}
    for top in tops:
        target = site_packages / top
        if not target.exists():
            target.symlink_to(Path(str(source.locate_file(top))))


if __name__ == "__main__":
    for needed in dependencies(sys.argv[1]):
        link(needed, Path(sys.argv[2]))
