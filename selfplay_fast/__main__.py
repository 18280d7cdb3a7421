"""`python -m selfplay_fast` is `selfplay-fast`; torchrun starts it like this."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
