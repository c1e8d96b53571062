"""Neural differential-algebraic equations: constraints in SymPy, continuous-depth networks that obey them.

`import ndae` gives the public names of the rooms below as well; each is loaded when it is first used, so that torch,
JAX and Lightning cost nothing to those who do not use them.
"""

from importlib import import_module
from typing import Any

_HERE = {
    "Auxiliary": "ndae.methods", "Combined": "ndae.methods", "EndProjection": "ndae.methods",
    "Manifold": "ndae.methods", "Method": "ndae.methods", "Multiplier": "ndae.methods", "Penalty": "ndae.methods",
    "SmoothProjection": "ndae.methods", "Unconstrained": "ndae.methods",
    "LinearMap": "ndae.maps", "NeuralDAE": "ndae.neural_dae", "Prediction": "ndae.neural_dae",
    "Motion": "ndae.motion", "NeuralMotion": "ndae.motion", "GraphForce": "ndae.forces", "MLPForce": "ndae.forces",
    "GraphPotential": "ndae.potentials", "MLPPotential": "ndae.potentials", "PotentialForce": "ndae.potentials",
    "Damping": "ndae.actuation", "InputForce": "ndae.actuation", "SystemForce": "ndae.actuation",
    "sampled_inputs": "ndae.actuation",
    "MLPField": "ndae.fields", "MimeticField": "ndae.fields", "ORIGIN": "ndae.fields",
    "TrainingResult": "ndae.training", "fit": "ndae.training", "lbfgs": "ndae.lbfgs", "Shooting": "ndae.shooting",
    "load_weights": "ndae.checkpoints",
    "CheckpointError": "ndae.checkpoints", "NonFiniteError": "ndae.history", "evaluate": "ndae.evaluation",
    "NETWORKS": "ndae.networks", "build_network": "ndae.networks",
    "MOLECULAR_NETWORKS": "ndae.networks", "build_molecular_network": "ndae.networks",
    "SoftConstraint": "ndae.soft_constraint", "PairPotential": "ndae.pair_potential",
    "MolecularDAE": "ndae.molecular", "FixedMap": "ndae.maps", "EquivariantField": "ndae.fields.equivariant",
    "EquivariantForce": "ndae.molecular_forces", "EquivariantPotential": "ndae.molecular_forces",
    "assert_equivariant": "ndae.equivariance", "check_equivariance": "ndae.equivariance",
}  # fmt: skip
_ROOMS = ("symbolic", "solvers")


def __getattr__(name: str) -> Any:
    if name in _HERE:
        value = getattr(import_module(_HERE[name]), name)
    elif name.startswith("_"):
        raise AttributeError(name)
    else:
        for room in map(import_module, _ROOMS):
            if name in room.__all__:
                value = getattr(room, name)
                break
        else:
            raise AttributeError(f"ndae has no {name!r}; it has {', '.join(sorted(__dir__()))}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_HERE, *(name for room in map(import_module, _ROOMS) for name in room.__all__)})
