"""The command `ndae`."""

from ndae.experiments.cli.commands import main

__all__ = ["main"]
