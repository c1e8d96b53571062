from . import (
    data as data,
    experiments as experiments,
    fields as fields,
    forces as forces,
    methods as methods,
    models as models,
    solvers as solvers,
    symbolic as symbolic,
    symmetry as symmetry,
    training as training,
)
from .data.reading import read_recordings as read_recordings
from .data.recording import Recording as Recording
from .fields.mlp import MLP as MLP
from .models.crosscheck import crosscheck as crosscheck
from .models.neural_dae import NeuralDAE as NeuralDAE
from .models.neural_motion import NeuralMotion as NeuralMotion
from .models.neural_system import NeuralSystem as NeuralSystem
from .models.saving import load as load, save as save
from .solvers.consistent import consistent_initial_condition as consistent_initial_condition
from .solvers.dae.flow import flow as flow
from .solvers.dae.start import ConsistentStart as ConsistentStart
from .solvers.errors import IntegrationError as IntegrationError, ProjectionError as ProjectionError
from .solvers.manifold.projection import project as project
from .solvers.solution import Solution as Solution, SolveError as SolveError
from .solvers.solve import solve as solve
from .symbolic import library as library
from .symbolic.expressions.derivatives import dot as dot
from .symbolic.expressions.points import (
    ANCHOR as ANCHOR,
    norm as norm,
    point as point,
)
from .symbolic.expressions.tables import table as table
from .symbolic.expressions.unknowns import unknown as unknown
from .symbolic.functions.constraint import Constraint as Constraint
from .symbolic.functions.function import Function as Function
from .symbolic.ground.extras import MissingExtraError as MissingExtraError
from .symbolic.reduction.graphs import StructureError as StructureError
from .symbolic.systems.system import System as System
from .training.evaluation import evaluate as evaluate
from .training.fit import fit as fit
from .training.recordings import Windows as Windows

__version__: str
