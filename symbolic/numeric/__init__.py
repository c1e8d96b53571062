"""Expressions in numbers: random points, ranks, series, arithmetic modulo a prime."""
