from .checkpoints import CheckpointError as CheckpointError, load_weights as load_weights
from .evaluation import evaluate as evaluate
from .fit import TrainingResult as TrainingResult, fit as fit
from .history import NonFiniteError as NonFiniteError
from .levenberg import Levenberg as Levenberg
from .optimizers import lbfgs as lbfgs
from .schedules import Plateau as Plateau
