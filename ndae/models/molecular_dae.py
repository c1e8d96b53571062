"""A neural DAE over atoms whose nodes are molecules."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ndae._types import Features, Output
from ndae.models.prediction import Prediction
from ndae.solvers.tensors import of_states
from ndae.symbolic.ground.arguments import keeps_arguments

GUESSES = ("constant velocity", "no motion")


@keeps_arguments
class MolecularDAE(nn.Module):
    """A NeuralDAE with a molecule a node, for atoms: `(batch, atoms, 6)` to `(batch, atoms, 3)`.

    Positions come before velocities, and the atoms of a molecule are one after another, every molecule in the same
    order. `dae`: over molecules of `n_atoms` atoms, with `6 n_atoms` features: all positions, then all velocities.

    What an untrained network predicts is its `guess`: `"constant velocity"`, `r + velocity_scale v`, or `"no motion"`,
    `r`. `velocity_scale`: the time that is predicted ahead, so that velocities become lengths.
    """

    def __init__(self, dae: Any, n_atoms: int, *, velocity_scale: float, guess: str = "constant velocity"):
        super().__init__()
        if not (hasattr(dae, "features") and hasattr(dae, "constraint")):
            raise ValueError(
                f"dae={dae!r}: give a NeuralDAE whose nodes are molecules, or build_molecular_network(...)"
            )
        if guess not in GUESSES:
            raise ValueError(f"guess={guess!r} is unknown: give one of {', '.join(map(repr, GUESSES))}")
        if not (velocity_scale > 0 and velocity_scale != float("inf")):
            raise ValueError(f"velocity_scale is a time, positive and finite, not {velocity_scale!r}")
        if (dae.features, dae.dim) != (6 * n_atoms, 3 * n_atoms):
            raise ValueError(
                f"molecules of {n_atoms} atoms have {6 * n_atoms} features, of which {3 * n_atoms} come out; "
                f"the neural DAE has {dae.features} and {dae.dim}"
            )
        self.dae, self.n_atoms = dae, n_atoms
        self.velocity_scale, self.guess = float(velocity_scale), guess

    @property
    def constraint(self) -> nn.Module:
        """The constraint, over the positions of all atoms."""
        return self.dae.constraint

    @property
    def method(self):
        """How the constraint is enforced."""
        return self.dae.method

    @of_states
    def forward(self, x: Features) -> Output:
        """The positions `(batch, atoms, 3)` that are predicted from `x` `(batch, atoms, 6)`."""
        return self.predict(x).y

    @of_states
    def predict(self, x: Features) -> Prediction:
        """The prediction, as of NeuralDAE; raises a `ValueError` for a number of atoms that is no whole molecules."""
        if x.shape[-1] != 6 or x.shape[-2] % self.n_atoms:
            raise ValueError(
                f"the input is (batch, atoms, 6), positions before velocities of molecules of {self.n_atoms} atoms, "
                f"not {tuple(x.shape)}"
            )
        position, moved = x[..., :3], self.velocity_scale * x[..., 3:]
        if self.guess == "constant velocity":
            position = position + moved
        molecules = [part.reshape(*x.shape[:-2], -1, 3 * self.n_atoms) for part in (position, moved)]
        prediction = self.dae.predict(torch.cat(molecules, -1))
        return replace(prediction, y=prediction.y.reshape(*x.shape[:-1], 3))
