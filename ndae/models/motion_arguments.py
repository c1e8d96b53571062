"""What a motion may be made of: sizes that fit, choices that go together, numbers in their ranges."""

import math
from collections.abc import Sequence
from typing import Any

from ndae.methods import Auxiliary, Method, Multiplier, SmoothProjection, Unconstrained

STARTS = ("check", "project", "given")
VERLET = "velocity_verlet"


def motion_sizes(constraint: Any, along: Any, method: Method) -> tuple[int, int]:
    """Nodes and coordinates of each, from the constraints; raises ValueError where these do not fit."""
    if constraint is None:
        if along is None:
            raise ValueError("a motion without any constraint: give constraint=, velocity_constraints=, or both")
        if not isinstance(method, SmoothProjection | Unconstrained):
            raise ValueError(
                f"{method!r} acts on positions, which nothing constrains here: give SmoothProjection(), which keeps "
                "velocities on their constraint after every step, or Unconstrained()"
            )
        nodes, dim = 1, along.n_states // 2
    else:
        nodes, dim = constraint.n_points, constraint.dim
    if along is not None and along.n_states != 2 * nodes * dim:
        raise ValueError(
            f"the velocity constraint is over {along.n_states} states, expected {2 * nodes * dim}: write it over all "
            f"{nodes * dim} coordinates, then their velocities, in the same order"
        )
    return nodes, dim


def check_force(force: Any) -> None:
    forces = {f"force[{i}]": part for i, part in enumerate(force)} if isinstance(force, Sequence) else {"force": force}
    for name, part in forces.items():
        if callable(part):
            continue
        raise ValueError(
            f"{name}={part!r}: give a function F(t, y) from states (batch, nodes, 2 dim) to newtons (batch, nodes, "
            "dim), a module such as ndae.forces.MLPForce(nodes, dim), or a list of these"
        )


def check_choices(multipliers: bool, method: Method, baumgarte: float, integrator: str, adjoint: bool) -> None:
    """Raise ValueError for choices that exclude each other."""
    if not multipliers and (baumgarte or any(isinstance(part, Multiplier) for part in method.parts)):
        raise ValueError(
            f"method={method!r}, baumgarte={baumgarte:g}: both work by multipliers, and there are none with "
            "multipliers=False: leave them out"
        )
    if integrator == VERLET and (multipliers or adjoint or not isinstance(method, Unconstrained | Auxiliary)):
        raise ValueError(
            f"integrator={VERLET!r} is for motions without multipliers (multipliers=False), under Unconstrained() or "
            "Auxiliary(...), with adjoint=False: give 'classical_rk4'"
        )


def check_numbers(duration, n_steps, n_times, baumgarte, starts, start_tol) -> None:
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"duration is a time in seconds, positive and finite, not {duration!r}")
    for name, value in (("n_steps", n_steps), ("n_times", n_times)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is a whole number of at least 1, not {value!r}")
    if n_steps % n_times:
        raise ValueError(f"n_steps={n_steps} is no multiple of n_times={n_times}: every time ends a step")
    if not (math.isfinite(baumgarte) and baumgarte >= 0):
        raise ValueError(f"baumgarte is a rate in 1/s, not negative, not {baumgarte!r}")
    if starts not in STARTS:
        raise ValueError(f"starts={starts!r} is unknown: give one of {', '.join(STARTS)}")
    if not (math.isfinite(start_tol) and start_tol > 0):
        raise ValueError(f"start_tol is the largest violation of a start, positive, not {start_tol!r}")
