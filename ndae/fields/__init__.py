"""Vector fields `σ(τ, z)` of neural DAEs."""

from ndae.fields.mimetic import ORIGIN, MimeticField
from ndae.fields.mlp import MLPField

__all__ = ["ORIGIN", "MLPField", "MimeticField"]
