"""One problem by many solvers."""
