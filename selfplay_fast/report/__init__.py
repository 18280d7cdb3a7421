"""A run directory, read back: as tables in the terminal and as one HTML page."""

from .data import read_config, read_episodes, read_metrics
from .page import write_report
from .summary import changes

__all__ = ["changes", "read_config", "read_episodes", "read_metrics", "write_report"]
