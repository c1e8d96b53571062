"""One trained network against the reference."""
