"""From expressions to source text."""
