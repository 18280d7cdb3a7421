"""Runs import-linter on the selfplay_fast of this interpreter, with the linter of another environment.

python .ci/lint_imports.py CONFIG SITE_PACKAGES_OF_THE_LINTER
"""

from __future__ import annotations

import sys

sys.path.append(sys.argv[2])

from importlinter.cli import lint_imports

sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))
