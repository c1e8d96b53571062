"""Functions and constraints: what they derive, compile and print."""
