"""The model of a run: its method, its network or force, from a configuration."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndae.experiments.files import file_digest
from ndae.experiments.problems.registry import to_learn
from ndae.experiments.variants import ON_MOLECULES
from ndae.experiments.water.missing import load

if TYPE_CHECKING:
    import torch

    from ndae import NeuralDAE, NeuralMotion
    from ndae.experiments.problems.learning import LearningProblem
    from ndae.experiments.runs.config import RunConfig
    from ndae.methods import Method
    from ndae.models import MolecularDAE

    Model = NeuralDAE | NeuralMotion | MolecularDAE

# How much of a violation Baumgarte's stabilisation takes away in the problem's longest step: a time constant of a few.
_BAUMGARTE = 0.4
# Width of a learned force; the graph's does not grow with the bodies.
_FORCES = {"mlp": 64, "mimetic-small": 64, "mimetic": 256}
# Width of the two hidden layers of what a soft constraint has beyond stiffness and rest values.
_ANHARMONIC = 24


def problem_of(config: "RunConfig") -> "LearningProblem":
    """The problem of a configuration: that of its trajectory file where it names one.

    Raises `ValueError` for a trajectory of a problem that takes none, for a problem's file that has changed since, and
    what the problem has against the trajectory's.
    """
    digest, path = config.problem_digest, Path(config.problem)
    if digest is not None and path.is_file() and file_digest(path) != digest:
        raise ValueError(f"{path} has changed since this run was begun: give another folder for a new run")
    problem: Any = to_learn(config.problem)
    if config.trajectory is None:
        return problem
    if not hasattr(problem, "of"):
        raise ValueError(f"{problem.name} makes its own data and takes no trajectory: leave --trajectory out")
    return problem.of(config.trajectory, config.frame_step)


def build_method(config: "RunConfig") -> "Method":
    """The method of that name, with its strengths; a strength of 0 leaves that part out.

    "tangent" is the multiplier of first order: depth is not time. Of "multiplier" it is what keeps the motion from
    drifting off; Baumgarte's stabilisation is no method but a rate.
    """
    import ndae

    problem, parts = problem_of(config), []
    if config.gamma:
        parts.append(ndae.methods.Penalty(config.gamma))
    if config.eta:
        parts.append(ndae.methods.Auxiliary(config.eta))
    if config.method in ("end", "smooth"):
        projection = {"end": ndae.methods.EndProjection, "smooth": ndae.methods.SmoothProjection}[config.method]
        parts.append(projection(tol=problem.projection_tol))
    if config.method == "multiplier" and config.stabilisation == "projection":
        parts.append(ndae.methods.SmoothProjection(tol=problem.motion_tol[config.dtype]))
    if config.method == "tangent" or (config.method == "multiplier" and config.stabilisation == "ggl"):
        parts.append(ndae.methods.Multiplier())
    method = parts[0] if parts else ndae.methods.Unconstrained()
    for part in parts[1:]:
        method = method + part
    return method


def build_model(config: "RunConfig") -> "Model":
    """The network of a configuration on its problem, with weights that depend on the seed alone.

    By the methods "multiplier" and "soft" it is a motion: masses are known, the force is learned.

    Raises `ValueError` for an unknown integrator, and for a method or network that the problem cannot have.
    """
    import torch

    problem = problem_of(config)
    problem.check_method(config.method, config.network)
    if config.network in ON_MOLECULES and config.network != "molecular":
        load("e3nn", "an equivariant network")
    _check_integrator(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        build = _motion if config.method in ("multiplier", "soft") else _network
        return build(config, problem).to(getattr(torch, config.dtype))


def _network(config: "RunConfig", problem: Any) -> "NeuralDAE | MolecularDAE":
    import ndae

    constraint, method = problem.constraint.torch(), build_method(config)
    options: dict[str, Any] = {"integrator": config.integrator, "adjoint": config.adjoint}
    if config.network in ON_MOLECULES:
        return ndae.models.build_molecular_network(
            config.network, constraint, method, molecule=problem.molecule, lengths=problem.lengths,
            velocity_scale=config.horizon * problem.dt, **options,
        )  # fmt: skip
    # An MLP knows no edges; it is told by them how many nodes there are.
    edges = [(None, node) for node in range(problem.nodes)] if config.network == "mlp" else problem.edges
    return ndae.models.build_network(
        config.network, constraint, method, edges=edges, features=2 * problem.dim, dim=problem.dim, **options
    )


def _motion(config: "RunConfig", problem: Any) -> "NeuralMotion":
    import ndae

    soft, duration = config.method == "soft", config.horizon * problem.dt
    longest = config.max_step or (problem.soft_step if soft else problem.longest_step)
    constraint, along = (c if c is None else c.torch() for c in (problem.constraint, problem.velocity_constraint))
    forces: list[Any] = [_force(config, problem)]
    options: dict[str, Any] = {"integrator": config.integrator, "adjoint": config.adjoint}
    if soft:
        bonds = ndae.forces.SoftConstraint(
            constraint, problem.stiffness, size=problem.softness, alike=problem.alike, anharmonic=_ANHARMONIC
        )
        forces = [ndae.forces.PotentialForce(bonds), *forces]
        options["multipliers"] = False
    else:
        options["baumgarte"] = _BAUMGARTE / problem.longest_step if config.stabilisation == "baumgarte" else 0.0
        # Where constraints are not rigid the data obeys them nearly.
        options["starts"] = "check" if problem.stiffness is None else "project"
    return ndae.NeuralMotion(
        constraint, forces if soft else forces[0], duration=duration,
        n_steps=math.ceil(duration / longest * (1 - 1e-9)), mass=problem.mass, velocity_constraints=along,
        method=build_method(config), **options,
    )  # fmt: skip


def _force(config: "RunConfig", problem: Any) -> "torch.nn.Module":
    """The force to be learned, of the same name as a network would be; all with a potential, or free."""
    import ndae

    nodes, dim, free = problem.nodes, problem.dim, config.force == "free"
    if config.network == "molecular":  # always of a potential
        groups = [node // len(problem.molecule) for node in range(nodes)]
        kinds = problem.molecule * (nodes // len(problem.molecule))
        return ndae.forces.PotentialForce(ndae.forces.PairPotential(kinds, groups, **problem.pairs))
    if config.network in ON_MOLECULES:
        layout, size = (problem.molecule, nodes // len(problem.molecule)), problem.softness
        if free:
            return ndae.forces.EquivariantForce(*layout, lengths=problem.lengths, scale=problem.stiffness * size)
        energy = ndae.forces.EquivariantPotential(*layout, lengths=problem.lengths, scale=problem.stiffness * size**2)
        return ndae.forces.PotentialForce(energy)
    width = _FORCES[config.network]
    if config.network == "mlp":
        if free:
            return ndae.forces.MLPForce(nodes, dim, width)
        # Fields are often uniform.
        return ndae.forces.PotentialForce(ndae.forces.MLPPotential(nodes, dim, width, linear=True))
    if free:
        return ndae.forces.GraphForce(problem.edges, dim, width)
    return ndae.forces.PotentialForce(ndae.forces.GraphPotential(problem.edges, dim, width))


def _check_integrator(config: "RunConfig") -> None:
    """One evaluation of a trivial field: raises what the integrator has against its name."""
    import torch

    from ndae.solvers.depth.integrate import integrate

    if config.integrator == "velocity_verlet" and config.method == "soft":
        return  # NeuralMotion's own
    start = torch.zeros(1, 1, dtype=getattr(torch, config.dtype))
    integrate(lambda t, y: -y, start, torch.tensor([0.0, 1.0], dtype=start.dtype), integrator=str(config.integrator))
