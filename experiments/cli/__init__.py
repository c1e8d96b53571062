"""The command `ndae`."""
