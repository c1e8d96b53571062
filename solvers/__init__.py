"""Projection, stabilisation, integration and reference solutions."""

from importlib import import_module

# Name -> module that holds it; loaded on first use, since torch and JAX take seconds.
_PUBLIC = {
    "Baumgarte": "solvers.formulations",
    "ConsistentStart": "solvers.start",
    "FlowResult": "solvers.flow",
    "GGL": "solvers.formulations",
    "IntegrationError": "solvers.errors",
    "MissingExtraError": "solvers.implicit_solve",
    "Plain": "solvers.formulations",
    "Projected": "solvers.formulations",
    "Projection": "solvers.projection",
    "ProjectionError": "solvers.errors",
    "ReferenceSolveError": "solvers.solution",
    "Solution": "solvers.solution",
    "classical_rk4_step": "solvers.classical_rk4",
    "consistent_initial_condition": "solvers.start",
    "dae_flow": "solvers.flow",
    "integrate": "solvers.integration",
    "project": "solvers.projection",
    "project_latent": "solvers.projection",
    "reference_solution": "solvers.reference",
    "solve_dae": "solvers.dae",
    "solve_ida": "solvers.ida",
    "solve_radau": "solvers.radau",
    "solve_torch": "solvers.torch_reduced",
    "stabilisation": "solvers.stabilise",
    "stabilisation_latent": "solvers.stabilise",
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
