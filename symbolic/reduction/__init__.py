"""From equations as written to index 1."""
