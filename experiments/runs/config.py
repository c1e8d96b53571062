"""The settings of one run."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from ndae.experiments.files import file_digest, sealed, unsealed
from ndae.experiments.problems.registry import check_to_learn, is_file
from ndae.experiments.variants import (
    CHOICES_OF,
    FORCES,
    KEEPS,
    ON_MOLECULES,
    SCHEDULES,
    STABILISATIONS,
    STRENGTHS,
    default_strength,
)
from ndae.symbolic.ground.words import check_known

NETWORKS = ("mimetic", "mimetic-small", "mlp", *ON_MOLECULES)


DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run's numbers depend on, but for the machine and the number of its threads.

    `gamma`, `eta`: strengths of penalty (eq. 14) and auxiliary loss (eq. 4); 0 where the method has no such part, and 0
    switches a part off; None is the method's default. `stabilisation`: of the method "multiplier", what keeps
    constraints from drifting off; `force`, of that and of "soft": whether it is free or has a potential; `max_step`, of
    both: the longest step, in the problem's unit of time, None for the problem's own. `horizon`: steps (of 0.01 s for
    the pendulum) to predict ahead. `patience`: epochs without a better validation error after which training stops.
    `keep`: "best" or "last", the epoch whose weights are tested and kept. `problem`: a name, or the path of a Python
    file, whose content `problem_digest` tells. `trajectory`: path of a file to take the data from, of problems that
    can; `frame_step`: the time between its frames, in the problem's unit, None where the file tells.
    Raises `ValueError` for a value that no run can have.
    """

    problem: str = "pendulum"
    method: str = "none"
    gamma: float | None = None
    eta: float | None = None
    stabilisation: str = STABILISATIONS[0]
    force: str = FORCES[0]
    max_step: float | None = None
    n_train: int = 100
    horizon: int = 20
    seed: int = 0
    epochs: int = 50
    network: str = "mimetic"
    batch_size: int = 10
    learning_rate: float = 1e-3
    schedule: str = "constant"
    gradient_clip: float | None = None
    patience: int | None = None
    keep: str = KEEPS[0]
    dtype: str = "float32"
    integrator: str | None = None
    adjoint: bool = False
    device: str = "cpu"
    n_val: int = 200
    n_test: int = 1000
    trajectory: str | None = None
    frame_step: float | None = None
    problem_digest: str | None = None

    def __post_init__(self):
        check_to_learn(str(self.problem))
        if is_file(self.problem) and self.problem_digest is None and Path(self.problem).is_file():
            object.__setattr__(self, "problem_digest", file_digest(self.problem))
        choices = {"method": tuple(STRENGTHS), "network": NETWORKS, "dtype": DTYPES}
        choices |= {"schedule": SCHEDULES, "stabilisation": STABILISATIONS, "force": FORCES, "keep": KEEPS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown: give one of {', '.join(known)}")
            if name in CHOICES_OF and getattr(self, name) != known[0]:
                self._check_choice(name, f"{name} {getattr(self, name)!r}")
        for name in ("n_train", "horizon", "epochs", "batch_size", "patience", "n_val", "n_test", "seed"):
            self._check_count(name, least=0 if name == "seed" else 1)
        for name in ("gamma", "eta"):
            if getattr(self, name) is None or name not in STRENGTHS[self.method]:
                object.__setattr__(self, name, default_strength(self.method, name))
        if self.max_step is not None:
            self._check_choice("max_step", "max_step")
        if not (self.trajectory is None or isinstance(self.trajectory, str)):
            raise ValueError(f"trajectory is the path of a file, not {self.trajectory!r}")
        if self.frame_step is not None and self.trajectory is None:
            raise ValueError("frame_step is the time between the frames of a trajectory: give trajectory too")
        for name in ("learning_rate", "gradient_clip", "gamma", "eta", "max_step", "frame_step"):
            self._check_number(name, zero=name in ("gamma", "eta"))
        if not isinstance(self.adjoint, bool):
            raise ValueError(f"adjoint is true or false, not {self.adjoint!r}")
        if self.integrator is None:
            own = "velocity_verlet" if self.method == "soft" else "classical_rk4"
            object.__setattr__(self, "integrator", own)
        for name in ("integrator", "device"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is a name, not {getattr(self, name)!r}")

    def _check_choice(self, name: str, given: str) -> None:
        methods = CHOICES_OF[name]
        if self.method not in methods:
            of = f"method {methods[0]!r}" if len(methods) == 1 else f"methods {' and '.join(map(repr, methods))}"
            raise ValueError(f"{given} is of the {of} alone, and the method is {self.method!r}: leave it out")

    def _check_count(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is None and name == "patience":
            return
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise ValueError(f"{name} is a whole number of at least {least}, not {value!r}")

    def _check_number(self, name: str, zero: bool) -> None:
        value = getattr(self, name)
        if value is None and name in ("gradient_clip", "max_step", "frame_step"):
            return
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or value < 0
            or (value == 0 and not zero)
        ):
            raise ValueError(f"{name} is a finite number {'of at least 0' if zero else 'above 0'}, not {value!r}")
        object.__setattr__(self, name, float(value))

    def to_json(self) -> str:
        """The configuration as JSON, with a digest."""
        return json.dumps(sealed(dataclasses.asdict(self)), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Read what `to_json` made; fields left out take their defaults.

        Raises `ValueError` for text that is no JSON object or has changed since, a field that a run does not have, or a
        bad value.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"expected a JSON object, got {type(values).__name__}")
        values = unsealed(values, "the configuration")
        check_known(values, [field.name for field in dataclasses.fields(cls)], "a run", "setting")
        return cls(**values)
