"""The known forces of a symbolic mechanical system."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndae._types import Features, Output
from ndae.forces.masses import Masses
from ndae.solvers.arguments import points_of
from ndae.solvers.mechanics.motion_torch import TorchMotion
from ndae.symbolic.ground.arguments import keeps_arguments
from ndae.symbolic.ground.words import check_known


@keeps_arguments
class SystemForce(nn.Module):
    """`F = −∇V(q) + F_ext(q, v, t)` of a symbolic system, so that what is known need not be learned.

    `system`: a System of points; `NeuralMotion(system.points.constraint, [SystemForce(system), MLPForce(…)],
    mass=system.points.mass, …)` learns what the system leaves out. `parameters` overrides numbers of its potential and
    force by name; an `nn.Parameter` there is trained with the model.

    Where the potential or the force has a parameter "mass" (`takes_mass`), as weight has, a motion that learns masses
    (`learn_mass`) gives those to them, so that inertia and weight are of one mass; a motion of other known masses than
    the system's is refused, unless "mass" is among `parameters`.

    Raises a ValueError on a system that is not of points, on a parameter that these do not have or that is a function,
    and on a mass that is learned here.
    """

    def __init__(self, system: Any, parameters: Mapping[str, Any] | None = None):
        super().__init__()
        given = dict(parameters or {})
        points = points_of(system)
        functions = {"potential": points.potential, "force": points.external_force}
        functions = {role: function for role, function in functions.items() if function is not None}
        known = sorted({name for function in functions.values() for name in function.parameters})
        check_known(given, known, f"the SystemForce of {system.name!r}")
        for name, value in given.items():
            if name == "mass" and isinstance(value, Tensor) and value.requires_grad:
                raise ValueError(
                    "the mass of a SystemForce cannot be learned by itself: give NeuralMotion(..., learn_mass=True), "
                    "which learns inertia and weight together, and no mass here"
                )
        self.system, self.name = TorchMotion(system, given), system.name
        self.learned = nn.ParameterDict({name: p for name, p in given.items() if isinstance(p, nn.Parameter)})
        self.mass, self.gives_mass = torch.as_tensor(points.mass), "mass" in given
        self._weighed = {
            role: _nodes_of(function, points.constraint) for role, function in functions.items() if _has_mass(function)
        }
        self.takes_mass = bool(self._weighed) and not self.gives_mass

    def energy(self, q: Output, t: Any = None, mass: Tensor | None = None) -> Float[Tensor, "*batch"]:
        """The system's `V(q)`, in joules; zero if it has no potential."""
        q = q.flatten(-2)
        potential, own = self.system.potential, self._with(mass).get("potential")
        if potential is None or own is None:
            return self.system.energy(q, torch.zeros_like(q), t)
        return potential.residual(q, t, {**self.system._own["potential"], **own}).sum(-1)

    def forward(self, t: Any, y: Features, mass: Tensor | None = None) -> Output:
        """Forces `(batch, nodes, dim)` at states `(batch, nodes, 2 dim)`, in newtons; `mass` (nodes,), in kg, goes over
        the system's."""
        q, v = y.chunk(2, -1)
        return self.system.force(q.flatten(-2), v.flatten(-2), t, self._with(mass)).reshape(q.shape)

    def check_masses(self, masses: Masses) -> None:
        """Raise ValueError where the masses of a motion and of this force cannot be the same; `NeuralMotion` asks."""
        if not self._weighed:
            return
        if masses.raw is None:
            known = masses.value
            same = known.ndim > 1 or torch.allclose(known, self.mass.to(known), rtol=1e-6, atol=0)
            if not (self.gives_mass or same):
                raise ValueError(
                    f"the motion has masses {_short(known)} kg, and the force of {self.name} those of the system, "
                    f"{_short(self.mass)} kg: give NeuralMotion(..., mass=system.points.mass), or, where weight is of "
                    'another mass on purpose, SystemForce(system, {"mass": ...})'
                )
            return
        if self.gives_mass:
            raise ValueError(
                f"the motion learns masses, and the force of {self.name} is told a fixed one: leave 'mass' out of the "
                "parameters of SystemForce, so that both are of one mass"
            )
        if masses.value.ndim > 1:
            raise ValueError(
                f"the motion learns a mass matrix for each node, and the force of {self.name} depends on one mass: "
                "give NeuralMotion one mass a node, or write that force as one that does not depend on masses"
            )
        if any(nodes is None for nodes in self._weighed.values()):
            raise ValueError(
                f"the force of {self.name} depends on the mass, but not node by node, so that learned ones cannot be "
                "put in: lay it over single nodes, Function.template(..., over=[(0,), (1,), ...])"
            )

    def _with(self, mass: Tensor | None) -> dict[str, dict[str, Tensor]]:
        """Masses (nodes,) as parameters of the functions that have them: one for each of their instances."""
        if mass is None or not self.takes_mass:
            return {}
        return {role: {"mass": mass[nodes]} for role, nodes in self._weighed.items()}


def _has_mass(function: Any) -> bool:
    return "mass" in function.parameters


def _nodes_of(function: Any, constraint: Any) -> Any:
    """The node that each instance of a function is about, or None where that is no single one."""
    if not function.is_template:
        return 0 if constraint.n_points == 1 else None
    slots = function.layout.slots
    return slots[:, 0].tolist() if slots.shape[1] == 1 and slots.min() >= 0 else None


def _short(mass: Tensor) -> list[float]:
    return [float(f"{m:.6g}") for m in mass.tolist()]
