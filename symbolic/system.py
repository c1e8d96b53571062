"""Differential-algebraic systems as a user writes them: equations over states, their derivatives, parameters, time."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import sympy as sp
from sympy.core.function import AppliedUndef

from symbolic.corners import as_corners, check_piecewise_smooth
from symbolic.divisors import check_divisors
from symbolic.expressions import as_expressions, substituted
from symbolic.kept import Recomputed, kept
from symbolic.limits import check_size
from symbolic.names import check_name

if TYPE_CHECKING:
    from symbolic.reduced import ReducedSystem


def dot(x: sp.Expr, order: int = 1) -> sp.Expr:
    """The time derivative of a state: for a symbol x the symbol "x_dot" ("x_dot_dot" for order 2), for x(t) dx/dt.

    It is real where x is; of a sign that x is declared to have, it knows nothing. Raises ValueError on anything else
    than a state, and on an order below 1.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"dot({x}, {order!r}): expected a whole number of derivatives, at least 1")
    if isinstance(x, AppliedUndef) and len(x.args) == 1 and x.args[0].is_Symbol:
        return x.diff(x.args[0], order)
    if not isinstance(x, sp.Symbol):
        raise ValueError(f"dot({x}): expected a state, one symbol or a function of time; differentiate others by hand")
    return sp.Symbol(x.name + "_dot" * order, real=True) if x.is_real else sp.Symbol(x.name + "_dot" * order)


class DAESystem(Recomputed):
    """n equations F(x', x, t; p) = 0 for n states x, in any form and of any differentiation index.

    `equations` are SymPy expressions that should vanish, or `sympy.Eq`, over the `states`, their derivatives
    `dot(x)`, `time` and `parameters`. States are symbols, or functions x(t) whose derivatives are x(t).diff(t).
    `parameters` maps symbols to default values; None, or a mere list of symbols, means that every solve has to give
    the value. `definitions` names subexpressions, put in in the order given, later ones over earlier ones.
    `invariants` maps names to expressions over states, time and parameters that every solution conserves. Abs, Max,
    Min, sign and Piecewise may be used; where two of their branches meet, derivatives are those of the first.

    Raises ValueError, naming the thing and the mend, on symbols that are undeclared or declared twice and on functions
    that can't be generated. That there are as many equations as states, and that these determine a solution, is the
    business of `reduce`.
    """

    def __init__(
        self,
        equations,
        states,
        parameters=None,
        time: sp.Symbol | None = None,
        *,
        definitions: Mapping[sp.Symbol, sp.Expr] | None = None,
        invariants: Mapping[str, sp.Expr] | None = None,
        name: str = "system",
    ):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"name={name!r}: expected a non-empty text")
        self.name = name
        functions, self.states, self.time = _read_states(states, time, name)
        self.parameters = _read_parameters(parameters, name)
        equations = as_expressions(equations, name)
        definitions = _read_definitions(definitions, name)
        self._check_names(definitions)
        for i, e in enumerate(equations):
            check_size(e, f"{name}: equation {i}")
        reader = _Reader(self, functions, definitions)
        self.equations = tuple(reader.read(e, f"{name}: equation {i} ({_short(e)})") for i, e in enumerate(equations))
        if not isinstance(invariants or {}, Mapping):
            raise ValueError(f"{name}: invariants={invariants!r}: expected a mapping, {{name: expression}}")
        self.invariants = {
            key: reader.read(
                _sized(as_expressions([value], f"{name}: invariant {key!r}")[0], f"{name}: invariant {key!r}"),
                f"{name}: invariant {key!r}",
                derivatives=False,
            )
            for key, value in (invariants or {}).items()
        }

    # -- other ways to write it --------------------------------------------------------------------------------------

    @classmethod
    def semi_explicit(cls, f: Mapping, g=(), algebraic=(), parameters=None, time=None, **rest) -> "DAESystem":
        """x' = f(x, z, t), 0 = g(x, z, t): `f` maps each differential state to its rate, `algebraic` lists z.

        The keywords `definitions`, `invariants` and `name` are those of the class. Raises ValueError as the class does.
        """
        if not isinstance(f, Mapping):
            raise ValueError(f"f={f!r}: expected a mapping from each differential state to its rate, {{x: expression}}")
        g = as_expressions(g, f"{rest.get('name', 'system')}: g") if not _is_empty(g) else ()
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
    def linearly_implicit(cls, mass_matrix, f, states, parameters=None, time=None, **rest) -> "DAESystem":
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
        name: str = "system",
    ) -> "DAESystem":
        """Constrained motion: q' = v, M v' = F − ∂V/∂q − J(q, t)ᵀ λ − A(q, t)ᵀ μ, c(q, t) = 0, A v + b = 0.

        `mass` is one number or expression, one for each coordinate, or a matrix, which may depend on q (what comes
        with that, as Coriolis forces, then belongs to `force`); `force` lists F(q, v, t). A `lagrangian` L(q, v, t)
        takes the place of mass and potential: d/dt ∂L/∂v − ∂L/∂q = F − Jᵀ λ − Aᵀ μ. `holonomic` lists c and J =
        ∂c/∂q, `velocity_constraints` the expressions A v + b, linear in v. The multipliers λ, then μ, are named
        lam0, lam1, ..., mu0, ... or as `multipliers` says. Where the system conserves it, the energy is its invariant
        "energy". Raises ValueError on sizes that do not fit and as the class does.
        """
        from symbolic.mechanical_equations import mechanical_equations

        equations, states, invariants = mechanical_equations(
            q, v, mass, force, potential, lagrangian, holonomic, velocity_constraints, multipliers, time, name
        )
        return cls(equations, states, parameters, time, invariants=invariants, name=name)

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.states)

    def __repr__(self) -> str:
        sizes = f"n_equations={len(self.equations)}, n_states={self.n_states}"
        return f"DAESystem({self.name!r}, {sizes}, parameters={[p.name for p in self.parameters]})"

    def derivative_of(self, symbol: sp.Symbol) -> tuple[sp.Symbol, int] | None:
        """The state and the order of derivative that a symbol stands for, (x, 0) for x itself; None for others."""
        base, order = symbol.name, 0
        while True:
            state = self._by_name.get(base)
            if state is not None:
                return (state, order) if symbol == (dot(state, order) if order else state) else None
            if not base.endswith("_dot"):
                return None
            base, order = base[: -len("_dot")], order + 1

    def is_algebraic(self, i: int) -> bool:
        """Whether equation i contains no derivative."""
        found = (self.derivative_of(s) for s in self.equations[i].free_symbols)
        return not any(entry is not None and entry[1] > 0 for entry in found)

    @kept
    def _by_name(self) -> dict[str, sp.Symbol]:
        return {s.name: s for s in self.states}

    # -- index reduction ---------------------------------------------------------------------------------------------

    @kept
    def _reduced(self) -> "ReducedSystem":
        from symbolic.reduce import reduce_index

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
        lines += [f"  {i:>3}  0 = {e}" for i, e in enumerate(self.equations)]
        lines += ["", "  states: " + ", ".join(s.name for s in self.states)]
        if self.parameters:
            lines.append("  parameters: " + ", ".join(f"{p} = {v}" for p, v in self.parameters.items()))
        lines += [f"  invariant {key}: {value}" for key, value in self.invariants.items()]
        return "\n".join(lines)

    def _check_names(self, definitions) -> None:
        time = () if self.time is None else (self.time,)
        roles: dict[str, str] = {}
        declared = {"state": self.states, "parameter": self.parameters, "time": time, "definition": definitions}
        for role, symbols in declared.items():
            for symbol in symbols:
                check_name(symbol.name, f"{self.name}: the {role}")
                if symbol.name in roles:
                    raise ValueError(
                        f"{self.name}: the name {symbol.name!r} is declared twice (as {roles[symbol.name]} and as "
                        f"{role}): rename one"
                    )
                if symbol.is_commutative is False or symbol.is_real is False:
                    raise ValueError(
                        f"{self.name}: the {role} {symbol.name!r} is declared not to be real: leave that out"
                    )
                roles[symbol.name] = role
        for name, role in roles.items():
            base = name
            while base.endswith("_dot"):
                base = base[: -len("_dot")]
                if base in self._by_name:
                    raise ValueError(
                        f"{self.name}: the {role} {name!r} has the name of a derivative of the state {base!r}: rename "
                        "one, or leave it out and write dot(state)"
                    )


class _Reader:
    """Turns what the user wrote to expressions over plain symbols, and checks them."""

    def __init__(self, system: DAESystem, functions: Mapping[sp.Expr, sp.Symbol], definitions):
        self.system, self.functions = system, functions
        self.definitions: dict[sp.Symbol, sp.Expr] = {}
        for symbol, value in definitions.items():
            # Corners are closed before they are put in: SymPy would take every Max apart again, and again.
            where = f"{system.name}: definition {symbol}"
            value = substituted(as_corners(self._plain(_sized(value, where))), self.definitions, {})
            self.definitions[symbol] = _sized(value, where)
        self._known: dict[sp.Basic, sp.Basic] = {}

    def read(self, expression: sp.Expr, where: str, derivatives: bool = True) -> sp.Expr:
        expression = substituted(as_corners(self._plain(expression)), self.definitions, self._known)
        unknown = sorted(expression.atoms(AppliedUndef), key=str)
        if unknown:
            raise ValueError(
                f"{where}: the function {unknown[0]} is not declared: add it to the states, or if it is an input write "
                "it as an expression of time"
            )
        check_size(expression, where)
        check_piecewise_smooth(expression, where)
        check_divisors(expression, where, self.system.parameters)
        self._check_symbols(expression, where, derivatives)
        return expression

    def _plain(self, expression: sp.Expr) -> sp.Expr:
        """x(t) and its derivatives as symbols."""
        if not expression.has(AppliedUndef, sp.Derivative):
            return expression
        if expression.has(sp.Derivative):
            expression = expression.doit()
        table = dict(self.functions)
        for derivative in expression.atoms(sp.Derivative):
            state = self.functions.get(derivative.expr)
            if state is not None and all(s == self.system.time for s in derivative.variables):
                table[derivative] = dot(state, len(derivative.variables))
        return expression.xreplace(table)

    def _check_symbols(self, expression: sp.Expr, where: str, derivatives: bool) -> None:
        system = self.system
        known = {*system.states, *system.parameters, *([] if system.time is None else [system.time])}
        for symbol in sorted(expression.free_symbols - known, key=str):
            entry = system.derivative_of(symbol)
            if entry is not None:
                if derivatives:
                    continue
                raise ValueError(f"{where} contains the derivative {symbol}: write it over states, time and parameters")
            same = next((k for k in known if k.name == symbol.name), None)
            if same is None and "_dot" in symbol.name:
                same = next((dot(s) for s in system.states if dot(s).name == symbol.name), None)
            if same is not None:
                raise ValueError(
                    f"{where}: the symbol {symbol.name!r} is not the one declared: it has the same name, but other "
                    f"assumptions ({symbol.assumptions0.get('real')} and {same.assumptions0.get('real')} for real): "
                    "create it once (derivatives by dot(x)) and use that object everywhere"
                )
            fixed = next((k for k in (*system.parameters, *self.definitions) if symbol in (dot(k), dot(k, 2))), None)
            if fixed is not None:
                advice = "a parameter, which is constant: make it a state, or an expression of time"
                if fixed in self.definitions:
                    advice = (
                        "a definition: write out its derivative, or make it a state with its definition an equation"
                    )
                raise ValueError(f"{where} contains the derivative {symbol} of {fixed}, {advice}")
            raise ValueError(
                f"{where}: the symbol {symbol.name!r} is not declared: add it to the states, to "
                f"parameters={{{symbol.name}: value}}, to the definitions, or as time=; declared are "
                f"{sorted(k.name for k in known)}"
            )


def _read_states(states, time, name) -> tuple[dict, tuple[sp.Symbol, ...], sp.Symbol | None]:
    if isinstance(states, (sp.Symbol, AppliedUndef)):
        states = [states]
    if not isinstance(states, (Iterable, sp.MatrixBase)):
        raise ValueError(f"{name}: states={states!r}: expected a list of SymPy symbols, or of functions such as x(t)")
    states = [s for entry in states for s in (entry if isinstance(entry, sp.MatrixBase) else [entry])]
    if time is not None and not isinstance(time, sp.Symbol):
        raise ValueError(f"{name}: time={time!r}: expected a SymPy symbol")
    functions, symbols = {}, []
    for s in states:
        if isinstance(s, AppliedUndef) and len(s.args) == 1 and isinstance(s.args[0], sp.Symbol):
            time = s.args[0] if time is None else time
            if s.args[0] != time:
                raise ValueError(f"{name}: state {s} is no function of the time {time}: write all over one time")
            functions[s] = sp.Symbol(s.func.__name__, real=True)
            symbols.append(functions[s])
        elif isinstance(s, sp.Symbol):
            symbols.append(s)
        else:
            raise ValueError(f"{name}: state {s!r}: expected a SymPy symbol, or a function of time such as x(t)")
    if not symbols:
        raise ValueError(f"{name}: no states: give at least one")
    return functions, tuple(symbols), time


def _read_parameters(parameters, name) -> dict[sp.Symbol, float | None]:
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        parameters = dict.fromkeys(parameters)
    result = {}
    for symbol, value in parameters.items():
        if isinstance(symbol, AppliedUndef):
            raise ValueError(
                f"{name}: parameter {symbol}: parameters are constant; write an input as an expression of time, or "
                "make it a state"
            )
        if not isinstance(symbol, sp.Symbol):
            raise ValueError(f"{name}: parameter {symbol!r}: expected a SymPy symbol as key, {{symbol: value}}")
        if value is not None:
            try:
                value = float(value)
            except (TypeError, ValueError):
                raise ValueError(f"{name}: parameter {symbol} is {value!r}: expected a number, or None") from None
            if not math.isfinite(value):
                raise ValueError(f"{name}: parameter {symbol} is {value}: expected a finite number, or None")
        result[symbol] = value
    return result


def _read_definitions(definitions, name) -> dict[sp.Symbol, sp.Expr]:
    result = {}
    if not isinstance(definitions or {}, Mapping):
        raise ValueError(f"{name}: definitions={definitions!r}: expected a mapping, {{symbol: expression}}")
    for symbol, value in (definitions or {}).items():
        if not isinstance(symbol, sp.Symbol):
            raise ValueError(f"{name}: definition {symbol!r}: expected a SymPy symbol as key, {{symbol: expression}}")
        result[symbol] = as_expressions([value], f"{name}: definition {symbol}")[0]
    return result


def _sized(expression: sp.Expr, where: str) -> sp.Expr:
    check_size(expression, where)
    return expression


def _is_empty(entries) -> bool:
    return isinstance(entries, Sequence) and len(entries) == 0


def _short(expression) -> str:
    text = str(expression) if expression.count_ops() < 200 else f"{expression.count_ops()} operations"
    return text if len(text) <= 60 else text[:57] + "..."
