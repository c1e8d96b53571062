"""Forces and potentials: learned, known, of a symbolic system."""
