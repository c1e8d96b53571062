"""Differential-algebraic systems as a user writes them: equations over states, their derivatives, parameters, time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from ndae.symbolic.backends.given import Given
from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.expressions.limits import check_size
from ndae.symbolic.expressions.reading import as_expressions, substituted
from ndae.symbolic.expressions.unknowns import Unknown, arities
from ndae.symbolic.expressions.written import lines_of
from ndae.symbolic.forms.equations import Equations
from ndae.symbolic.forms.reduced import with_formulas
from ndae.symbolic.functions.constraint import Constraint
from ndae.symbolic.functions.function import Function
from ndae.symbolic.ground.kept import kept
from ndae.symbolic.systems.functions import read_functions
from ndae.symbolic.systems.of_points import Points
from ndae.symbolic.systems.reading import (
    Reader,
    check_names,
    check_unknowns,
    is_empty,
    read_definitions,
    read_parameters,
    read_states,
    short,
    sized,
)

if TYPE_CHECKING:
    from ndae.symbolic.forms.reduced import ReducedSystem


class System(Equations):
    """n equations F(x', x, t; p) = 0 for n states x, in any form and of any differentiation index.

    `equations` are SymPy expressions that should vanish, or `sympy.Eq`, over the `states`, their derivatives
    `dot(x)`, `time` and `parameters`. States are symbols, or functions x(t) whose derivatives are x(t).diff(t).
    `parameters` maps symbols to default values; None, or a mere list of symbols, means that every solve has to give
    the value. `definitions` names subexpressions, put in in the order given, later ones over earlier ones.
    `invariants` maps names to expressions over states, time and parameters that every solution conserves, `outputs` to
    those, over derivatives dot(x) as well, that instruments show: what a Recording holds. Abs, Max,
    Min, sign, Heaviside and Piecewise may be used, and of time and parameters floor, ceiling, frac and Mod; where two
    branches meet, derivatives are those of the first. dot(W*x) of an expression is its derivative by the chain rule.
    With `redundant="least-norm"` constraints may follow from others, as in a parallelogram: what they leave open of
    multipliers is those with the least sum of squares, and solves check that they hold.

    Raises ValueError, naming the thing and the mend, on symbols that are undeclared or declared twice and on functions
    that can't be generated. That there are as many equations as states, and that these determine a solution, is the
    business of `reduce`.
    """

    # What a system `of_points` is made of, and solved by; None of one that is known by its equations alone.
    points: Points | None = None

    def __init__(
        self,
        equations,
        states,
        parameters=None,
        time: sp.Symbol | None = None,
        *,
        definitions: Mapping[sp.Symbol, sp.Expr] | None = None,
        invariants: Mapping[str, sp.Expr] | None = None,
        outputs: Mapping[str, sp.Expr] | None = None,
        redundant: str | None = None,
        name: str = "system",
    ):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"name={name!r}: expected a non-empty text")
        functions, symbols, time = read_states(states, time, name)
        declared = Equations(name, (), symbols, read_parameters(parameters, name), time)
        equations = as_expressions(equations, name)
        definitions = read_definitions(definitions, name)
        check_names(declared, definitions)
        for i, e in enumerate(equations):
            check_size(e, f"{name}: equation {i}")
        reader = Reader(declared, functions, definitions)
        read = tuple(reader.read(e, f"{name}: equation {i} ({short(e)})") for i, e in enumerate(equations))
        conserved = _named(reader, f"{name}: invariant", invariants, derivatives=False)
        shown = _named(reader, f"{name}: output", outputs, derivatives=True)
        check_unknowns(arities((*read, *conserved.values(), *shown.values()), name), declared)
        if redundant not in (None, "least-norm"):
            raise ValueError(
                f'{name}: redundant={redundant!r}: expected "least-norm", or None to refuse redundant ones'
            )
        super().__init__(name, read, symbols, declared.parameters, time, conserved, shown, redundant)

    # -- other ways to write it --------------------------------------------------------------------------------------

    @classmethod
    def semi_explicit(cls, f: Mapping, g=(), algebraic=(), parameters=None, time=None, **rest) -> "System":
        """x' = f(x, z, t), 0 = g(x, z, t): `f` maps each differential state to its rate, `algebraic` lists z.

        The keywords `definitions`, `invariants`, `redundant` and `name` are those of the class. Raises ValueError as
        the class does.
        """
        if not isinstance(f, Mapping):
            raise ValueError(f"f={f!r}: expected a mapping from each differential state to its rate, {{x: expression}}")
        g = as_expressions(g, f"{rest.get('name', 'system')}: g") if not is_empty(g) else ()
        algebraic = [algebraic] if isinstance(algebraic, (sp.Symbol, AppliedUndef)) else list(algebraic)
        rates = as_expressions(list(f.values()), f"{rest.get('name', 'system')}: f") if f else ()
        return cls(
            [dot(x) - rate for x, rate in zip(f, rates, strict=True)] + list(g),
            [*f, *algebraic],
            parameters,
            time,
            **rest,
        )

    @classmethod
    def linearly_implicit(cls, mass_matrix, f, states, parameters=None, time=None, **rest) -> "System":
        """M(x, t) x' = f(x, t); M may be singular, constant or not.

        Raises ValueError unless M is square with a row for each entry of `f`, and as the class does.
        """
        name = rest.get("name", "system")
        try:
            matrix = sp.Matrix(mass_matrix)
        except (TypeError, ValueError):
            raise ValueError(f"{name}: mass_matrix={mass_matrix!r}: expected a matrix, or a list of rows") from None
        f = sp.Matrix(as_expressions(f, f"{name}: f"))
        states = [states] if isinstance(states, (sp.Symbol, AppliedUndef)) else list(states)
        if matrix.shape != (len(f), len(states)):
            raise ValueError(
                f"{name}: a mass matrix of shape {matrix.shape} for {len(f)} right-hand sides "
                f"and {len(states)} states: expected ({len(f)}, {len(states)})"
            )
        return cls(matrix * sp.Matrix([dot(x) for x in states]) - f, states, parameters, time, **rest)

    @classmethod
    def mechanical(
        cls,
        q,
        v,
        *,
        mass=None,
        force=None,
        potential=None,
        lagrangian=None,
        holonomic=(),
        velocity_constraints=(),
        multipliers: Sequence[str] | None = None,
        parameters=None,
        time=None,
        outputs: Mapping[str, sp.Expr] | None = None,
        redundant: str | None = None,
        name: str = "system",
    ) -> "System":
        """Constrained motion: q' = v, M v' = F − ∂V/∂q − J(q, t)ᵀ λ − A(q, t)ᵀ μ, c(q, t) = 0, A v + b = 0.

        `mass` is one number or expression, one for each coordinate, or a matrix, which may depend on q (what comes
        with that, as Coriolis forces, then belongs to `force`); `force` lists F(q, v, t). A `lagrangian` L(q, v, t)
        takes the place of mass and potential: d/dt ∂L/∂v − ∂L/∂q = F − Jᵀ λ − Aᵀ μ. `holonomic` lists c and J =
        ∂c/∂q, `velocity_constraints` the expressions A v + b, linear in v. The multipliers λ, then μ, are named
        lam0, lam1, ..., mu0, ... or as `multipliers` says. Where the system conserves it, the energy is its invariant
        "energy". Raises ValueError on sizes that do not fit and as the class does.
        """
        from ndae.symbolic.systems.mechanical import mechanical_equations

        equations, states, invariants = mechanical_equations(
            q, v, mass, force, potential, lagrangian, holonomic, velocity_constraints, multipliers, time, name
        )
        rest = {"invariants": invariants, "outputs": outputs, "redundant": redundant, "name": name}
        return cls(equations, states, parameters, time, **rest)

    @classmethod
    def of_points(
        cls,
        constraint: Constraint,
        mass: float | Sequence[float] | np.ndarray = 1.0,
        potential: Function | None = None,
        force: Function | None = None,
        name: str = "system",
    ) -> "System":
        """Points with masses on a holonomic constraint: M q̈ = F(q, q̇, t) − J(q, t)ᵀ λ, c(q, t) = 0, F = −∇V + force.

        λ is the multiplier: with c = |b − a| − L in metres it is the tension of a link in newtons. `mass` is one number
        or one for each point (n_points,), in kg. `potential` is a `Function` over the same state whose residuals,
        summed, are V in joules. `force` is a `Function` with a number for each coordinate, over q, or over (q, q̇) side
        by side. These stay as `system.points`, and solves and models use their structure; the equations over states
        q0, ..., v0, ..., lam0, ... are written out when they are asked for. Parameters that are one number stay
        parameters there; those with a value for each instance, and the masses, are put in as numbers.

        Raises ValueError on masses that are not positive and on functions of another size.
        """
        return SystemOfPoints(Points(constraint, mass, potential, force, name))

    # -- what it is --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        sizes = f"n_equations={len(self.equations)}, n_states={self.n_states}"
        return f"System({self.name!r}, {sizes}, parameters={[p.name for p in self.parameters]})"

    # -- unknown functions -------------------------------------------------------------------------------------------

    def given(self, functions: Mapping[Any, Any]) -> "System":
        """The same system with some of its unknown functions known, by the Unknown or its name.

        Each is a torch module (..., n) -> (..., outputs); a function of n arrays, written with operators, NumPy, JAX or
        torch; an `ndae.table` of one argument, or a SymPy Lambda, which are put into the equations. What is reduced and
        compiled is shared with this system but for tables and Lambdas. Raises ValueError for functions that the system
        does not have, and for what is none.
        """
        return GivenSystem(self, functions)

    def written(self, expressions: Iterable[sp.Expr]) -> list[sp.Expr]:
        """Expressions with the functions put in that this system has as formulas: tables and Lambdas."""
        return list(expressions)

    # -- index reduction ---------------------------------------------------------------------------------------------

    #: What unknown functions are, by name, as far as that is given.
    functions: Mapping[str, Given] = {}

    @property
    def missing(self) -> list[str]:
        """Names of the unknown functions that are not given."""
        return [u.name for u in self.unknowns if u.name not in self.functions]

    @kept
    def _reduced(self) -> "ReducedSystem":
        from ndae.symbolic.reduction.reduce import reduce_index

        return reduce_index(self)

    def reduce(self) -> "ReducedSystem":
        """The underlying index-1 system with the hidden constraints; found once and kept.

        Raises StructureError, listing equations and unknowns, if there are more of the one than of the other, if they
        can't be matched, or if equations depend on one another.
        """
        return self._reduced

    @property
    def index(self) -> int:
        """Differentiation index: how often equations must be differentiated until they determine x' by x and t.

        By ranks of the derivative array; of a nonlinear system with n states and n · index > 300, what its structure
        says, which may be more.
        """
        return self._reduced.index

    def describe(self) -> str:
        """The equations, to read."""
        lines = [f"{self.name}: {len(self.equations)} equations, {self.n_states} states", ""]
        lines += lines_of([f"{i:>3}  0 = " for i in range(len(self.equations))], self.equations)
        lines += ["", "  states: " + ", ".join(s.name for s in self.states)]
        if self.parameters:
            lines.append("  parameters: " + ", ".join(f"{p} = {v}" for p, v in self.parameters.items()))
        if self.unknowns:
            known = [
                f"{u}({', '.join('·' * n)})" + (" (given)" * (u.name in self.functions))
                for u, n in self.unknowns.items()
            ]
            lines.append("  unknown functions, taken as smooth: " + ", ".join(known))
        lines += lines_of([f"invariant {key}: " for key in self.invariants], list(self.invariants.values()))
        return "\n".join(lines)


def _named(reader: Reader, where: str, given: Mapping[str, Any] | None, derivatives: bool) -> dict[str, sp.Expr]:
    """Expressions by name, read."""
    if not isinstance(given or {}, Mapping):
        raise ValueError(f"{where}s are {given!r}: expected a mapping, {{name: expression}}")
    found = {}
    for key, value in (given or {}).items():
        if not isinstance(key, str) or not key.strip():
            raise ValueError(f"{where} {key!r}: its name is a text")
        whole = sized(as_expressions([value], f"{where} {key!r}")[0], f"{where} {key!r}")
        found[key] = reader.read(whole, f"{where} {key!r}", derivatives=derivatives)
    return found


class SystemOfPoints(System):
    """A system whose equations are written out when they are asked for: a chain of thousands is solved without."""

    points: Points

    def __init__(self, points: Points) -> None:
        object.__setattr__(self, "points", points)  # frozen, as its base is
        object.__setattr__(self, "name", points.name)

    def __repr__(self) -> str:
        return f"System({self.name!r}, of {self.points.constraint.n_points} points)"

    @kept
    def _written(self) -> System:
        return System.mechanical(**self.points.written())

    @property
    def unknowns(self) -> dict[Unknown, int]:
        return {}

    @kept
    def states(self) -> tuple[sp.Symbol, ...]:
        q, v, lam = self.points.states()
        return (*q, *v, *lam)

    @property
    def equations(self) -> tuple[sp.Expr, ...]:
        return self._written.equations

    @property
    def parameters(self) -> Mapping[sp.Symbol, float | None]:
        return self._written.parameters

    @property
    def time(self) -> sp.Symbol | None:
        return self._written.time

    @property
    def invariants(self) -> Mapping[str, sp.Expr]:
        return self._written.invariants

    @property
    def outputs(self) -> Mapping[str, sp.Expr]:
        return {}


class GivenSystem(System):
    """A system of which some unknown functions are known."""

    def __init__(self, system: System, functions: Mapping[Any, Any]) -> None:
        given, formulas = read_functions(system, functions)
        named = (*system.invariants.values(), *system.outputs.values())
        table = with_formulas([*system.equations, *named], formulas)
        put: dict[sp.Basic, sp.Basic] = {}
        equations = tuple(substituted(e, table, put) for e in system.equations)
        invariants = {name: substituted(e, table, put) for name, e in system.invariants.items()}
        outputs = {name: substituted(e, table, put) for name, e in system.outputs.items()}
        declared = system.name, equations, system.states, system.parameters, system.time
        Equations.__init__(self, *declared, invariants, outputs, system.redundant)
        for name, value in {
            "points": system.points,
            "functions": {**system.functions, **given},
            "_given": (system, given, formulas),
        }.items():
            object.__setattr__(self, name, value)  # frozen, as its base is

    _given: tuple[System, Mapping[str, Given], Mapping[str, Any]]

    def written(self, expressions: Iterable[sp.Expr]) -> list[sp.Expr]:
        system, _, formulas = self._given
        found = system.written(expressions)
        table = with_formulas(found, formulas)
        return [substituted(e, table, {}) for e in found]

    @kept
    def _reduced(self) -> "ReducedSystem":
        system, given, formulas = self._given
        return system.reduce().given(self, given, formulas)
