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
    "LinearMap": "ndae.models.maps", "NeuralDAE": "ndae.models.neural_dae", "Prediction": "ndae.models.neural_dae",
    "Motion": "ndae.models.neural_motion", "NeuralMotion": "ndae.models.neural_motion", "GraphForce": "ndae.forces.networks", "MLPForce": "ndae.forces.networks",
    "GraphPotential": "ndae.forces.potentials", "MLPPotential": "ndae.forces.potentials", "PotentialForce": "ndae.forces.potentials",
    "Damping": "ndae.forces.actuation", "InputForce": "ndae.forces.actuation", "SystemForce": "ndae.forces.actuation",
    "sampled_inputs": "ndae.forces.actuation",
    "MLPField": "ndae.fields", "MimeticField": "ndae.fields", "ORIGIN": "ndae.fields",
    "TrainingResult": "ndae.training.fit", "fit": "ndae.training.fit", "lbfgs": "ndae.lbfgs", "Shooting": "ndae.models.shooting",
    "load_weights": "ndae.training.checkpoints",
    "CheckpointError": "ndae.training.checkpoints", "NonFiniteError": "ndae.training.history", "evaluate": "ndae.training.evaluation",
    "NETWORKS": "ndae.models.presets", "build_network": "ndae.models.presets",
    "MOLECULAR_NETWORKS": "ndae.models.presets", "build_molecular_network": "ndae.models.presets",
    "SoftConstraint": "ndae.forces.soft_constraint", "PairPotential": "ndae.forces.pair_potential",
    "MolecularDAE": "ndae.models.molecular_dae", "FixedMap": "ndae.models.maps", "EquivariantField": "ndae.fields.equivariant",
    "EquivariantForce": "ndae.forces.equivariant", "EquivariantPotential": "ndae.forces.equivariant",
    "assert_equivariant": "ndae.symmetry", "check_equivariance": "ndae.symmetry",
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
