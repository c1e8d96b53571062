"""Pieces of a diffrax solve: projected steps, implicit methods, jumps, the compiled kernel."""
