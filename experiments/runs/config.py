"""The configuration of one run: its settings, checked and complete."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from ndae.experiments.files import file_digest, sealed, unsealed
from ndae.experiments.problems.registry import check_to_learn, is_file
from ndae.experiments.runs.settings import Settings, checked, foreign_choices, setting
from ndae.experiments.variants import STRENGTHS, default_strength
from ndae.symbolic.ground.words import check_known


@dataclass(frozen=True)
class RunConfig(Settings):
    """Everything that a run's numbers depend on, but for the machine and the number of its threads.

    What each of the `Settings` is stands where it is written. `problem_digest` is that of the Python file which
    `problem` is the path of. Raises `ValueError` for a value that no run can have, and for settings that do not go
    together.
    """

    problem_digest: str | None = setting(None)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            self._set(field.name, checked(field, getattr(self, field.name)))
        check_to_learn(self.problem)
        if is_file(self.problem) and self.problem_digest is None and Path(self.problem).is_file():
            self._set("problem_digest", file_digest(self.problem))
        for name, methods in foreign_choices(self).items():
            of = f"method {methods[0]!r}" if len(methods) == 1 else f"methods {' and '.join(map(repr, methods))}"
            given = name if name == "max_step" else f"{name} {getattr(self, name)!r}"
            raise ValueError(f"{given} is of the {of} alone, and the method is {self.method!r}: leave it out")
        if self.frame_step is not None and self.trajectory is None:
            raise ValueError("frame_step is the time between the frames of a trajectory: give trajectory too")
        for name in ("gamma", "eta"):
            if getattr(self, name) is None or name not in STRENGTHS[self.method]:
                self._set(name, default_strength(self.method, name))
        if self.integrator is None:
            self._set("integrator", "velocity_verlet" if self.method == "soft" else "classical_rk4")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

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
