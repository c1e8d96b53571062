"""Projection, stabilisation, integration and reference solutions."""
