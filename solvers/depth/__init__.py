"""Integrators in torch, and steps that end on the manifold."""
