"""Systems as a person makes them."""
