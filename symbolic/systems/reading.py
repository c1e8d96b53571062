"""What a person wrote of a system, read and checked: states, parameters, definitions, equations."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import sympy as sp
from sympy.core.function import AppliedUndef

from ndae.symbolic.expressions.choices import Floor
from ndae.symbolic.expressions.corners import as_corners, check_piecewise_smooth
from ndae.symbolic.expressions.derivatives import Rate, dot
from ndae.symbolic.expressions.limits import check_size, distinct
from ndae.symbolic.expressions.names import check_name
from ndae.symbolic.expressions.partials import partials
from ndae.symbolic.expressions.reading import as_expressions, substituted
from ndae.symbolic.expressions.tables import Lookup, Table
from ndae.symbolic.expressions.unknowns import Unknown
from ndae.symbolic.forms.equations import Equations
from ndae.symbolic.ground.typed import symbols_of, xreplaced
from ndae.symbolic.ground.words import shortened
from ndae.symbolic.numeric.continuity import check_continuous
from ndae.symbolic.numeric.divisors import check_divisors


class Reader:
    """Turns what the user wrote to expressions over plain symbols, and checks them."""

    def __init__(self, system: Equations, functions: Mapping[sp.Expr, sp.Symbol], definitions):
        self.system, self.functions = system, functions
        self._declared = {*system.states, *system.parameters}
        self._with_time = self._declared | {*([] if system.time is None else [system.time])}
        self.definitions: dict[sp.Symbol, sp.Expr] = {}
        for symbol, value in definitions.items():
            # Corners are closed before they are put in: SymPy would take every Max apart again, and again.
            where = f"{system.name}: definition {symbol}"
            value = substituted(as_corners(self._plain(sized(value, where))), self.definitions, {})
            self.definitions[symbol] = sized(self._with_rates(value, where), where)
        self._known: dict[sp.Basic, sp.Basic] = {}

    def read(self, expression: sp.Expr, where: str, derivatives: bool = True) -> sp.Expr:
        expression = substituted(as_corners(self._plain(expression)), self.definitions, self._known)
        expression = self._with_rates(expression, where)
        unknown = sorted(expression.atoms(AppliedUndef), key=str)
        if unknown:
            raise ValueError(
                f"{where}: the function {unknown[0]} is not declared: add it to the states, or if it is an input write "
                "it as an expression of time"
            )
        check_size(expression, where)
        known = {*self.system.parameters, self.system.time}
        jumping = sorted((e for e in expression.atoms(Floor) if not symbols_of(e) <= known), key=str)
        if jumping:
            raise ValueError(
                f"{where}: {jumping[0]} jumps when the states say so: floor, ceiling, frac and Mod are read of time "
                "and parameters alone; write a jump by a state as Piecewise((value, x < bound), ..., (value, True))"
            )
        bare = substituted(expression, {e: sp.S.Zero for e in expression.atoms(Lookup)}, {}).atoms(Table)
        if bare:
            name = min(map(str, bare))
            raise ValueError(f"{where} contains the table {name} itself: write {name}(t), its value at a time")
        check_piecewise_smooth(expression, where)
        check_divisors(expression, where, self.system.parameters)
        self._check_symbols(expression, where, derivatives)
        return expression

    def _plain(self, expression: sp.Expr) -> sp.Expr:
        """x(t) and its derivatives as symbols, derivatives of definitions as those of what they stand for."""
        for d in self.definitions:
            rates: dict[sp.Expr, sp.Basic] = {dot(d): Rate(d), dot(d, 2): Rate(Rate(d))}
            asked = {r: rate for r, rate in rates.items() if r in expression.free_symbols - self._declared}
            expression = xreplaced(expression, asked) if asked else expression
        if not expression.has(AppliedUndef, sp.Derivative):
            return expression
        if expression.has(sp.Derivative):
            expression = cast(sp.Expr, expression.doit())
        table: dict[sp.Expr, sp.Basic] = {**self.functions}
        for derivative in expression.atoms(sp.Derivative):
            state = self.functions.get(cast(sp.Expr, derivative.expr))
            if state is not None and all(s == self.system.time for s in derivative.variables):
                table[derivative] = dot(state, len(derivative.variables))
        return xreplaced(expression, table)

    def _with_rates(self, expression: sp.Expr, where: str) -> sp.Expr:
        """Derivatives dot(...) of expressions written out, the innermost first."""
        known: dict[sp.Basic, sp.Basic] = {}
        for node in [e for e in distinct(expression) if isinstance(e, Rate)]:
            inner = substituted(node.args[0], known, {})
            rates = self._rates(inner)
            check_continuous(inner, rates, f"{where}: dot({short(inner)})")
            known[node] = sp.Add(*[slope * rates[s] for s, slope in partials(inner, rates).items()])
        return substituted(expression, known, {}) if known else expression

    def _rates(self, expression: sp.Expr) -> dict[sp.Symbol, sp.Expr]:
        """What moves in an expression, with its derivatives by time."""
        rates: dict[sp.Symbol, sp.Expr] = {}
        for s in sorted(symbols_of(expression), key=str):
            entry = self.system.derivative_of(s)
            if entry is not None:
                rates[s] = dot(entry[0], entry[1] + 1)
            elif s == self.system.time:
                rates[s] = sp.S.One
        return rates

    def _check_symbols(self, expression: sp.Expr, where: str, derivatives: bool) -> None:
        system, known = self.system, self._with_time
        for symbol in sorted(symbols_of(expression) - known, key=str):
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
            fixed = next((k for k in system.parameters if symbol in (dot(k), dot(k, 2))), None)
            if fixed is not None:
                raise ValueError(
                    f"{where} contains the derivative {symbol} of {fixed}, a parameter, which is constant: make it a "
                    "state, or an expression of time"
                )
            raise ValueError(
                f"{where}: the symbol {symbol.name!r} is not declared: add it to the states, to "
                f"parameters={{{symbol.name}: value}}, to the definitions, or as time=; declared are "
                f"{sorted(k.name for k in known)}"
            )


def read_states(states, time, name) -> tuple[dict, tuple[sp.Symbol, ...], sp.Symbol | None]:
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


def read_parameters(parameters, name) -> dict[sp.Symbol, float | None]:
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


def read_definitions(definitions, name) -> dict[sp.Symbol, sp.Expr]:
    result = {}
    if not isinstance(definitions or {}, Mapping):
        raise ValueError(f"{name}: definitions={definitions!r}: expected a mapping, {{symbol: expression}}")
    for symbol, value in (definitions or {}).items():
        if not isinstance(symbol, sp.Symbol):
            raise ValueError(f"{name}: definition {symbol!r}: expected a SymPy symbol as key, {{symbol: expression}}")
        result[symbol] = as_expressions([value], f"{name}: definition {symbol}")[0]
    return result


def sized(expression: sp.Expr, where: str) -> sp.Expr:
    check_size(expression, where)
    return expression


def is_empty(entries) -> bool:
    return isinstance(entries, Sequence) and len(entries) == 0


def short(expression) -> str:
    text = str(expression) if expression.count_ops() < 200 else f"{expression.count_ops()} operations"
    return shortened(text)


def check_unknowns(unknowns: Mapping[Unknown, int], declared: Equations) -> None:
    """Raise ValueError where an unknown function has the name of something else."""
    time = () if declared.time is None else (declared.time,)
    for role, symbols in {"state": declared.states, "parameter": declared.parameters, "time": time}.items():
        for symbol in symbols:
            if any(u.name == symbol.name for u in unknowns):
                raise ValueError(
                    f"{declared.name}: the name {symbol.name!r} is declared twice (as {role} and as unknown function): "
                    "rename one"
                )


def check_names(declared: Equations, definitions: Mapping) -> None:
    """Raise ValueError where a name is declared twice, not to be real, or is that of a derivative of a state."""
    time = () if declared.time is None else (declared.time,)
    roles: dict[str, str] = {}
    roles_of = {"state": declared.states, "parameter": declared.parameters, "time": time, "definition": definitions}
    for role, symbols in roles_of.items():
        for symbol in symbols:
            check_name(symbol.name, f"{declared.name}: the {role}")
            if symbol.name in roles:
                raise ValueError(
                    f"{declared.name}: the name {symbol.name!r} is declared twice (as {roles[symbol.name]} and as "
                    f"{role}): rename one"
                )
            if symbol.is_commutative is False or symbol.is_real is False:
                raise ValueError(
                    f"{declared.name}: the {role} {symbol.name!r} is declared not to be real: leave that out"
                )
            roles[symbol.name] = role
    for name, role in roles.items():
        base = name
        while base.endswith("_dot"):
            base = base[: -len("_dot")]
            if base in declared.by_name:
                raise ValueError(
                    f"{declared.name}: the {role} {name!r} has the name of a derivative of the state {base!r}: rename "
                    "one, or leave it out and write dot(state)"
                )
