"""Tables, figures and the animation, from records alone."""
