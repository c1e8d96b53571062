from .actuation import (
    Damping as Damping,
    InputForce as InputForce,
    sampled_inputs as sampled_inputs,
)
from .equivariant import EquivariantForce as EquivariantForce, EquivariantPotential as EquivariantPotential
from .networks import GraphForce as GraphForce, MLPForce as MLPForce
from .of_system import SystemForce as SystemForce
from .pair_potential import PairPotential as PairPotential
from .potentials import (
    GraphPotential as GraphPotential,
    MLPPotential as MLPPotential,
    PotentialForce as PotentialForce,
)
from .soft_constraint import SoftConstraint as SoftConstraint
