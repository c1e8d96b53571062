from .equivariant import EquivariantField as EquivariantField
from .mimetic import ORIGIN as ORIGIN, MimeticField as MimeticField
from .mlp import MLP as MLP, MLPField as MLPField
