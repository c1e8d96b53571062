"""SymPy constraints, what is derived from them, and the functions generated."""
