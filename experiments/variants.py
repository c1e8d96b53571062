"""What is compared: methods, their strengths and the other choices of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# What the paper calls each method, in the order of its Table 1; multipliers it writes down (eq. 6) but does not train,
# and the soft constraint is none of its.
METHOD_TITLES = {
    "none": "No constraint",
    "auxiliary": "Auxiliary loss",
    "penalty": "Penalty",
    "end": "End projection",
    "smooth": "Smooth projection",
    "tangent": "Multiplier, first order",
    "multiplier": "Multiplier",
    "soft": "Soft constraint",
}


# Which strengths a method can have. Both projections come with a penalty and an auxiliary loss, as in section 4.1;
# those with multipliers have them only where they are asked for.
STRENGTHS = {
    "none": (),
    "auxiliary": ("eta",),
    "penalty": ("gamma",),
    "end": ("gamma", "eta"),
    "smooth": ("gamma", "eta"),
    "tangent": ("gamma", "eta"),
    "multiplier": ("gamma", "eta"),
    "soft": (),
}


METHODS = tuple(METHOD_TITLES)


# What keeps a motion with multipliers from drifting off, and which force a motion learns: the first is the default.
STABILISATIONS = ("projection", "ggl", "baumgarte", "none")


FORCES = ("free", "potential")


SCHEDULES = ("constant", "cosine")


# The epoch whose weights a run ends with: of the smallest validation error, or the last one.
KEEPS = ("best", "last")


# Networks over the atoms of molecules; the last learns forces, and no other field.
ON_MOLECULES = ("equivariant", "equivariant-small", "molecular")


NETWORKS = ("mimetic", "mimetic-small", "mlp", *ON_MOLECULES)


# Choices that only some methods have: those whose depth is physical time.
CHOICES_OF = {
    "stabilisation": ("multiplier",),
    "force": ("multiplier", "soft"),
    "max_step": ("multiplier", "soft"),
}


def default_strength(method: str, name: str) -> float:
    """γ or η of a method where none is given: the paper's 10, and 0 with multipliers."""
    return 10.0 if name in STRENGTHS[method] and method not in ("tangent", "multiplier") else 0.0


@dataclass(frozen=True)
class Variant:
    """A method at the strengths it really uses: γ (eq. 14) and η (eq. 4) are 0 where the method has no such term.

    `stabilisation` is of the method "multiplier", what keeps its constraints from drifting off; `force` of that and of
    "soft", whether the force is free or has a potential.
    """

    method: str
    gamma: float = 0.0
    eta: float = 0.0
    stabilisation: str = STABILISATIONS[0]
    force: str = FORCES[0]

    @classmethod
    def of(
        cls,
        method: str,
        gamma: float | None = None,
        eta: float | None = None,
        stabilisation: str = STABILISATIONS[0],
        force: str = FORCES[0],
    ) -> "Variant":
        """Build a variant, dropping what `method` does not use; strengths left out are `default_strength`.

        Raises `ValueError` for an unknown method, stabilisation or force.
        """
        if method not in METHOD_TITLES:
            raise ValueError(f"unknown method {method!r}: expected one of {', '.join(METHOD_TITLES)}")
        for name, value, known in (("stabilisation", stabilisation, STABILISATIONS), ("force", force, FORCES)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(known)}")
        gamma, eta = (
            default_strength(method, name) if value is None else float(value) if name in STRENGTHS[method] else 0.0
            for name, value in (("gamma", gamma), ("eta", eta))
        )
        chosen = {"stabilisation": stabilisation, "force": force}
        return cls(method, gamma, eta, **{name: v for name, v in chosen.items() if method in CHOICES_OF[name]})

    @classmethod
    def parse(cls, text: str, gamma: float | None = None, eta: float | None = None, **motion: str) -> "Variant":
        """Read a name as typed: a method, or with `-alone` behind it a projection or multiplier with γ = η = 0.

        `motion`: stabilisation and force of a multiplier.
        """
        name = text.strip()
        method = name.removesuffix("-alone")
        if method != name and method not in ("end", "smooth", "multiplier"):
            raise ValueError(
                f"unknown method {name!r}: only 'end', 'smooth' and 'multiplier' can be run '-alone' (without γ and η)"
            )
        return cls.of(method, 0.0, 0.0, **motion) if method != name else cls.of(method, gamma, eta, **motion)

    @property
    def alone(self) -> bool:
        """Whether this is a projection with neither penalty nor auxiliary loss."""
        return self.method in ("end", "smooth") and self.gamma == 0 and self.eta == 0

    @property
    def name(self) -> str:
        """Name for folders and the command line, such as `smooth`, `end-alone` or `multiplier-ggl`."""
        return f"{self.method}-alone" if self.alone else "-".join([self.method, *self.choices])

    @property
    def choices(self) -> list[str]:
        """Stabilisation and force where they are not the default."""
        choices = []
        if self.stabilisation != STABILISATIONS[0]:
            choices.append("drifting" if self.stabilisation == "none" else self.stabilisation)
        if self.force != FORCES[0]:
            choices.append(self.force)
        return choices

    @property
    def strengths(self) -> str:
        """The strengths in the paper's notation: `γ=10`, `γ,η=10`, `γ=3, η=10`, `alone` or nothing."""
        if self.alone:
            return "alone"
        if self.gamma and self.gamma == self.eta:
            return f"γ,η={self.gamma:g}"
        parts = [f"γ={self.gamma:g}"] if self.gamma or self.method == "penalty" else []
        parts += [f"η={self.eta:g}"] if self.eta or self.method == "auxiliary" else []
        return ", ".join(parts)

    @property
    def title(self) -> str:
        """Name for tables and legends, such as `Smooth projection γ,η=10` or `Multiplier GGL, potential`."""
        choices = [{"ggl": "GGL", "baumgarte": "Baumgarte"}.get(choice, choice) for choice in self.choices]
        return f"{METHOD_TITLES[self.method]} {', '.join([*choices, *filter(None, [self.strengths])])}".strip()

    @property
    def order(self) -> tuple:
        """Sort key: the paper's order, projections alone after all others."""
        choices = STABILISATIONS.index(self.stabilisation), FORCES.index(self.force)
        return self.alone, list(METHOD_TITLES).index(self.method), *choices, self.gamma, self.eta


class Setting(NamedTuple):
    """What must agree for two runs to stand in one table."""

    problem: str
    network: str
    n_train: int
    horizon: int
    epochs: int
    schedule: str = SCHEDULES[0]
    trajectory: str = ""
    keep: str = KEEPS[0]

    @classmethod
    def of(cls, settings: object) -> "Setting":
        """That of a run's settings."""
        given: dict[str, Any] = {name: getattr(settings, name) for name in cls._fields}
        return cls(**given)._replace(trajectory=given["trajectory"] or "")

    @property
    def problem_name(self) -> str:
        """The name of the problem, of the user's file that it is in if it is one."""
        return Path(self.problem).stem

    @property
    def name(self) -> str:
        """For files: everything that is not the default."""
        _, *parts, schedule, trajectory, keep = self
        parts = [self.problem_name, *parts]
        parts += [schedule] * (schedule != SCHEDULES[0]) + [Path(trajectory).stem] * (trajectory != "")
        parts += [keep] * (keep != KEEPS[0])
        return "-".join(map(str, parts))
