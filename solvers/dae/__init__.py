"""Solves of any system, in JAX and torch: start, formulation, motion, outcome."""
