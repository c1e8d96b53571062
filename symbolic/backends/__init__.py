"""Source made callable in NumPy, JAX and torch."""
