from .consistent import consistent_initial_condition as consistent_initial_condition
from .dae.flow import FlowResult as FlowResult, flow as flow
from .dae.formulations import (
    GGL as GGL,
    Baumgarte as Baumgarte,
    Plain as Plain,
    Projected as Projected,
)
from .dae.start import ConsistentStart as ConsistentStart
from .depth.classical_rk4 import classical_rk4_step as classical_rk4_step
from .depth.integrate import integrate as integrate
from .errors import IntegrationError as IntegrationError, ProjectionError as ProjectionError
from .manifold.penalty import stabilisation as stabilisation, stabilisation_latent as stabilisation_latent
from .manifold.projection import (
    Projection as Projection,
    project as project,
    project_latent as project_latent,
)
from .solution import Solution as Solution, SolveError as SolveError
from .solve import IDA as IDA, Radau as Radau, Torch as Torch, solve as solve
