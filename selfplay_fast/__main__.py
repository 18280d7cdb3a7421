"""`python -m selfplay_fast` is `selfplay-fast`; torchrun starts it like this."""

import sys

from .cli import main

sys.exit(main())
