from .maps import FixedMap as FixedMap, LinearMap as LinearMap
from .molecular_dae import MolecularDAE as MolecularDAE
from .neural_dae import NeuralDAE as NeuralDAE
from .neural_motion import Motion as Motion, NeuralMotion as NeuralMotion
from .prediction import Prediction as Prediction
from .presets import (
    MOLECULAR_NETWORKS as MOLECULAR_NETWORKS,
    NETWORKS as NETWORKS,
    build_molecular_network as build_molecular_network,
    build_network as build_network,
)
from .shooting import Shooting as Shooting
