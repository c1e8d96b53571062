"""Projection, stabilisation, integration and reference solutions."""

from importlib import import_module

# Name -> module that holds it; loaded on first use, since torch and JAX take seconds.
_PUBLIC = {
    "Baumgarte": "ndae.solvers.dae.formulations",
    "ConsistentStart": "ndae.solvers.dae.start",
    "FlowResult": "ndae.solvers.dae.flow",
    "GGL": "ndae.solvers.dae.formulations",
    "IntegrationError": "ndae.solvers.errors",
    "MissingExtraError": "ndae.solvers.outside.implicit_solve",
    "Plain": "ndae.solvers.dae.formulations",
    "Projected": "ndae.solvers.dae.formulations",
    "Projection": "ndae.solvers.manifold.projection",
    "ProjectionError": "ndae.solvers.errors",
    "ReferenceSolveError": "ndae.solvers.solution",
    "Solution": "ndae.solvers.solution",
    "classical_rk4_step": "ndae.solvers.depth.classical_rk4",
    "consistent_initial_condition": "ndae.solvers.dae.start",
    "dae_flow": "ndae.solvers.dae.flow",
    "integrate": "ndae.solvers.depth.integrate",
    "project": "ndae.solvers.manifold.projection",
    "project_latent": "ndae.solvers.manifold.projection",
    "reference_solution": "ndae.solvers.mechanics.reference",
    "solve_dae": "ndae.solvers.dae.solve",
    "solve_ida": "ndae.solvers.outside.ida",
    "solve_radau": "ndae.solvers.outside.radau",
    "solve_torch": "ndae.solvers.dae.solve_torch",
    "stabilisation": "ndae.solvers.manifold.penalty",
    "stabilisation_latent": "ndae.solvers.manifold.penalty",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'solvers' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *_PUBLIC])
