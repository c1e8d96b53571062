"""Solvers of other makers."""
