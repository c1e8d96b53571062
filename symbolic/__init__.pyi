from . import library as library
from .expressions.derivatives import dot as dot
from .expressions.points import ANCHOR as ANCHOR, norm as norm, point as point
from .expressions.tables import table as table
from .expressions.unknowns import Unknown as Unknown, unknown as unknown
from .forms.functions import ReducedFunctions as ReducedFunctions
from .forms.reduced import ReducedSystem as ReducedSystem
from .functions.constraint import Constraint as Constraint
from .functions.function import Function as Function
from .functions.vector_function import VectorFunction as VectorFunction
from .parse import parse_expression as parse_expression
from .reduction.graphs import StructureError as StructureError
from .systems.system import System as System
