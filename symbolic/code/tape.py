"""Expressions as a tape of small definitions, differentiated forwards and backwards by the chain rule.

Differentiating definition by definition keeps what the formulas share (a difference, a length, its reciprocal) shared
in every product with the Jacobian and the Hessian; whole expressions, differentiated first and searched for common
subexpressions afterwards, cost two to three times the operations.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, cast

import sympy as sp

from ndae.symbolic.expressions.choices import (
    COMPARISONS,
    JUNCTIONS,
    NON_SMOOTH,
    Both,
    Extreme,
    Floor,
    Guard,
    Magnitude,
    Not,
    Select,
    at_least,
    choices,
    extreme_of,
    may_fail,
    parts_of,
)
from ndae.symbolic.expressions.reading import substituted
from ndae.symbolic.expressions.tables import Lookup
from ndae.symbolic.expressions.unknowns import Applied
from ndae.symbolic.ground.typed import arguments, symbols_of, xreplaced

_HALF = sp.Rational(1, 2)
_LONGEST_PRODUCT = 8  # factors


class Tape:
    """Definitions symbol = expression, each one sum, product, power or function of earlier symbols, none of them twice.

    A value is a number, a symbol, or a number times a symbol; a condition is a symbol, true or false. What is not
    smooth is written as `Select`, whose derivatives are those of the branch that is selected, at every order.
    """

    def __init__(self, factor: int = 0):
        self.factor = factor  # how deep a product is opened to write a b + a c as a (b + c)
        self.definitions: dict[sp.Symbol, sp.Expr] = {}
        self._known: dict[sp.Basic, Any] = {}
        self._compared: dict[sp.Basic, Any] = {}  # values without guards, of what is compared alone
        self._differentiable = True
        self._partials: dict[sp.Symbol, list[tuple[sp.Symbol, sp.Expr]]] = {}
        self._sums: set[frozenset] = set()  # those that are defined, by their terms (coefficient, rest)
        self._places: dict[sp.Symbol, int] = {}  # of the definitions, in their order

    def value(self, expression: sp.Expr) -> sp.Expr:
        """Put an expression on the tape, reusing what is there."""
        expression = sp.sympify(expression)
        if isinstance(expression, sp.Symbol):
            return expression
        if expression.is_number:
            return _number(expression)
        memo = self._known if self._differentiable else self._compared
        known = memo.get(expression)
        if known is None:
            known = memo[expression] = self._flatten(expression)
        return known

    def _to_compare(self, expression: sp.Expr) -> sp.Expr:
        """The value of an expression that is compared alone, without guards, for no derivative passes a comparison.

        What is compared once for itself and once as part of a branch, in which all inputs stand behind guards, would
        else be there twice, and so four times where that is compared in turn.
        """
        plain, symbols = {}, symbols_of(expression)
        for s in symbols:
            inner = s
            while isinstance(e := self.definitions.get(inner), Guard):
                inner = cast(sp.Symbol, e.args[1])
            if inner is not s:
                plain[s] = inner
        before, self._differentiable = self._differentiable, False
        try:
            return self.value(substituted(expression, plain, {}) if plain else expression)
        finally:
            self._differentiable = before

    def _flatten(self, e: sp.Expr) -> sp.Expr:
        if isinstance(e, sp.Add):
            return self._sum(sp.Add(*[self.value(a) for a in e.args]))
        if isinstance(e, sp.Mul):
            return self._product(sp.Mul(*[self.value(a) for a in e.args]))
        if isinstance(e, sp.Pow):
            return self._power(self.value(e.base), self.value(e.exp))
        if isinstance(e, (sp.Abs, Magnitude)):
            a = self.value(arguments(e)[0])
            return self.select(self.condition(at_least(a, sp.S.Zero)), a, _scaled(-sp.S.One, a))
        if isinstance(e, Lookup):
            return self._define(e.at(self.value(e.place)))
        if isinstance(e, Applied):
            return self._define(e.at(map(self.value, e.places)))
        if isinstance(e, Floor):
            return self._define(Floor(self.value(arguments(e)[0])))
        if isinstance(e, (sp.Max, sp.Min, Extreme)):
            return self._extreme(extreme_of(e))
        if isinstance(e, NON_SMOOTH):
            return self._first_that_holds(choices(e))
        if isinstance(e, Select):
            return self.select(self.condition(e.args[0]), *[self.value(a) for a in e.args[1:]])
        if isinstance(e, Guard):
            holds, inner = self.condition(e.args[0]), self.value(e.args[1])
            return inner if inner.is_number or not isinstance(holds, sp.Symbol) else self._define(Guard(holds, inner))
        return self._define(e.func(*[self.value(a) for a in arguments(e)]))

    def _sum(self, total: sp.Expr) -> sp.Expr:
        if not isinstance(total, sp.Add):
            return self.value(total)
        content = sp.S.One
        if all(t.as_coeff_Mul()[0].is_Rational for t in total.args):
            candidate, rest = total.primitive()
            if all(t.as_coeff_Mul()[0].is_negative for t in total.args):
                candidate, rest = -candidate, -rest
            if _odd_coefficients(rest) < _odd_coefficients(total) or candidate == -1:
                content, total = candidate, rest
        if self.factor:
            factored = self._factored(total)
            if factored is not None:
                return _scaled(content, factored)
        terms = [t.as_coeff_Mul() for t in arguments(total)]
        if total not in self._known and frozenset((-c, rest) for c, rest in terms) in self._sums:
            content, total = -content, -total  # one difference for a − b and b − a
        else:
            self._sums.add(frozenset(terms))
        return _scaled(content, self._define(total))

    def _factored(self, total: sp.Expr) -> sp.Expr | None:
        terms = [t.as_coeff_Mul() for t in arguments(total)]
        powers = [self._powers(symbol, self.factor) if isinstance(symbol, sp.Symbol) else {} for _, symbol in terms]
        common = {s: min(p.get(s, 0) for p in powers) for s in powers[0]}
        common = {s: n for s, n in common.items() if n > 0}
        if not common:
            return None
        rests = [{s: n - common.get(s, 0) for s, n in p.items()} for p in powers]
        inner = sp.Add(*[c * self._monomial(rest) for (c, _), rest in zip(terms, rests, strict=True)])
        return self.value(self._monomial(common) * self._sum(inner))

    def _powers(self, symbol: sp.Symbol, depth: int) -> dict[sp.Symbol, int]:
        """A symbol as a product of whole powers of symbols that are no products themselves."""
        definition: Any = self.definitions.get(symbol)
        if (
            depth == 0
            or definition is None
            or not (isinstance(definition, sp.Mul) or (isinstance(definition, sp.Pow) and definition.exp.is_Integer))
        ):
            return {symbol: 1}
        result: dict[sp.Symbol, int] = {}
        for factor in sp.Mul.make_args(definition):
            base, exponent = factor.as_base_exp()
            if not isinstance(base, sp.Symbol) or exponent.is_negative:
                return {symbol: 1}
            for s, n in self._powers(base, depth - 1).items():
                result[s] = result.get(s, 0) + n * int(exponent)
        return result

    def _monomial(self, powers: Mapping[sp.Symbol, int]) -> sp.Expr:
        return self.value(sp.Mul(*[s**n for s, n in powers.items()]))

    def _product(self, product: sp.Expr) -> sp.Expr:
        coefficient, rest = product.as_coeff_Mul()
        factors = [self._power(f.base, f.exp) if isinstance(f, sp.Pow) else f for f in sp.Mul.make_args(rest)]
        if len(factors) > _LONGEST_PRODUCT:  # by halves: of one long product every derivative would be as long
            half = len(factors) // 2
            factors = [self._product(sp.Mul(*part)) for part in (factors[:half], factors[half:])]
        return _scaled(coefficient, self._define(sp.Mul(*factors)))

    def _power(self, base: sp.Expr, exponent: sp.Expr) -> sp.Expr:
        if base.is_number and exponent.is_number:
            return self.value(base**exponent)
        coefficient, symbol = base.as_coeff_Mul()
        if exponent.is_Integer:
            return _scaled(coefficient**exponent, self._define(symbol**exponent))
        symbol = symbol if coefficient == 1 else self._define(base)
        if not (isinstance(exponent, sp.Rational) and exponent.q == 2 and isinstance(symbol, sp.Symbol)):
            return self._define(sp.Pow(symbol, exponent, evaluate=False))
        root = self._define(sp.Pow(symbol, -_HALF, evaluate=False))  # u = rsqrt(s), and √s is written s u
        if exponent < 0:
            return self._define(root ** (-2 * exponent))  # s^(-3/2) = u³: finite where u is
        root = self._define(sp.Pow(symbol, _HALF, evaluate=False))
        return self._product(symbol ** (exponent - _HALF) * root) if exponent != _HALF else root

    def _define(self, e: sp.Expr) -> sp.Expr:
        if isinstance(e, sp.Symbol) or e.is_number:
            return e
        known = self._known.get(e)
        if known is None:
            known = sp.Symbol(f"{len(self.definitions)}'")  # no identifier, so never the name of an input
            self._known[e] = known
            self._places[known] = len(self.definitions)
            self.definitions[known] = e
        return known

    # -- choices -----------------------------------------------------------------------------------------------------

    def condition(self, c: sp.Basic) -> sp.Basic:
        """Put a condition (comparisons, and, or, not) on the tape: a symbol, true or false."""
        if isinstance(c, sp.Symbol) or c in (sp.true, sp.false):
            return c
        known = self._known.get(c)
        if known is None:
            known = self._known[c] = self._compare(c)
        return known

    def _compare(self, c: sp.Basic) -> Any:
        kind, parts = parts_of(c)
        if kind in COMPARISONS:
            a, b = (self._to_compare(cast(sp.Expr, x)) for x in parts)
            if a.is_number and b.is_number:
                return sp.sympify({"Less": a < b, "LessEqual": a <= b, "Equal": sp.Eq(a, b)}[kind.__name__])
            return self._define(kind(a, b))
        parts = [self.condition(x) for x in parts]
        if kind is Not:
            (part,) = parts
            return self._define(Not(part)) if isinstance(part, sp.Symbol) else sp.Not(part)
        neutral = sp.true if kind is Both else sp.false
        if any(p == sp.Not(neutral) for p in parts):
            return sp.Not(neutral)
        total, *rest = list(dict.fromkeys(p for p in parts if p != neutral)) or [neutral]
        for part in rest:
            total = self._define(kind(total, part))
        return total

    def select(self, condition: sp.Basic, a: sp.Expr, b: sp.Expr) -> sp.Expr:
        """The value a where a condition on the tape holds, otherwise b."""
        if a == b or condition == sp.true:
            return a
        return b if condition == sp.false else self._define(Select(condition, a, b))

    def _extreme(self, e: Extreme) -> sp.Expr:
        """A running extreme, and beside it what is chosen; where a value may fail, by its inputs behind guards."""
        guards = self._differentiable and any(map(may_fail, e.chosen))
        values = [self._to_compare(a) if guards else self.value(a) for a in e.compared]
        conditions, extreme = [], values[0]
        for other in values[1:]:
            conditions.append(self.condition(e.keeps(extreme, other)))
            extreme = self.select(conditions[-1], extreme, other)
        if not e.placed and not guards:
            return extreme
        here, later = [], sp.true  # whether each is the one that is chosen, from the last to the first
        for condition in reversed(conditions):
            here.append(self._compare(Both(self._compare(Not(condition)), later)))
            later = self._compare(Both(condition, later))
        chosen = [self._guarded(a, holds) for a, holds in zip(e.chosen, [later, *reversed(here)], strict=True)]
        result = chosen[0]
        for condition, other in zip(conditions, chosen[1:], strict=True):
            result = self.select(condition, result, other)
        return result

    def _guarded(self, value: sp.Expr, here: sp.Basic) -> sp.Expr:
        """A branch, read through guards if its derivative may fail where it is not selected."""
        if self._differentiable and may_fail(value) and here not in (sp.true, sp.false):
            inputs = sorted(symbols_of(value), key=str)
            value = substituted(value, {x: self._define(Guard(here, x)) for x in inputs}, {})
        return self.value(value)

    def _first_that_holds(self, pairs) -> sp.Expr:
        branches, before = [], sp.true
        for value, condition in pairs:
            holds = self.condition(condition)
            if holds == sp.false:
                continue
            here = self._compare(Both(before, holds))  # and none before it
            branches.append((holds, self._guarded(value, here)))
            if holds == sp.true:
                break
            before = self._compare(Both(before, self._compare(Not(holds))))
        result = branches.pop()[1]
        for holds, value in reversed(branches):
            result = self.select(holds, value, result)
        return result

    # -- derivatives -------------------------------------------------------------------------------------------------

    def partials(self, symbol: sp.Symbol) -> list[tuple[sp.Symbol, sp.Expr]]:
        """The derivatives of one definition by the symbols in it."""
        if symbol not in self._partials:
            e = self.definitions[symbol]
            pairs: list[tuple[Any, sp.Expr]]
            if isinstance(e, (*COMPARISONS, *JUNCTIONS)):
                pairs = []
            elif isinstance(e, sp.Add):
                pairs = [(s, c) for c, s in (t.as_coeff_Mul() for t in e.args) if isinstance(s, sp.Symbol)]
            elif isinstance(e, sp.Mul) and all(isinstance(f, sp.Symbol) for f in e.args):
                pairs = [(f, sp.Mul(*[g for g in e.args if g is not f])) for f in e.args]
            elif isinstance(e, sp.Pow) and e.exp.is_Rational:
                coefficient, base = e.base.as_coeff_Mul()  # of √(−s), s
                pairs = [(base, coefficient * e.exp * e.base ** (e.exp - 1))]
            else:
                pairs = [(a, sp.diff(e, a)) for a in sorted(symbols_of(e), key=str)]
            self._partials[symbol] = [(a, self.value(p)) for a, p in pairs]
        return self._partials[symbol]

    def needed(self, values: Iterable[sp.Basic], known: Container[sp.Symbol] = ()) -> list[sp.Symbol]:
        """The definitions behind some values, in their order, but those `known` and what is behind them."""
        found: set[sp.Symbol] = set()
        stack = [s for v in values for s in symbols_of(v)]
        while stack:
            symbol = stack.pop()
            if symbol in self.definitions and symbol not in found and symbol not in known:
                found.add(symbol)
                stack.extend(symbols_of(self.definitions[symbol]))
        return sorted(found, key=self._places.__getitem__)

    def lookups(self) -> dict[str, Lookup]:
        """The tables that definitions look up, by the names that generated code calls them by."""
        found = (e for e in self.definitions.values() if isinstance(e, Lookup))
        return {e.called: e for e in found}

    def unknowns(self, values: Iterable[sp.Basic]) -> list[str]:
        """The unknown functions behind some values, by the names that generated code calls them by."""
        found = (self.definitions[s] for s in self.needed(values))
        return sorted({e.called for e in found if isinstance(e, Applied)})

    def replaced(self, values: Sequence[sp.Expr], by: Mapping[sp.Symbol, sp.Expr]) -> list[sp.Expr]:
        """Values on the tape with inputs replaced by values, also where these stand behind definitions."""
        new: dict[sp.Symbol, Any] = dict(by)
        for symbol in self.needed(values):
            e = self.definitions[symbol]
            if not new.keys().isdisjoint(e.free_symbols):
                put = self.condition if isinstance(e, (*COMPARISONS, *JUNCTIONS)) else self.value
                new[symbol] = put(xreplaced(e, new))
        return [self.value(xreplaced(v, new)) for v in values]

    def tangents(self, values: Sequence[sp.Expr], of: Mapping[sp.Symbol, sp.Expr]) -> list[sp.Expr]:
        """Derivatives of `values` along the direction `of` of the inputs (forward mode)."""
        rate = dict(of)
        for symbol in self.needed(values):
            e = self.definitions[symbol]
            if isinstance(e, (Select, Guard)):
                sides = [self._tangent(v, rate) for v in e.args[1:]]
                rate[symbol] = self.select(e.args[0], *sides, *([sp.S.Zero] if isinstance(e, Guard) else []))
                continue
            terms = [p * rate[a] for a, p in self.partials(symbol) if rate.get(a, 0) != 0]
            rate[symbol] = self.value(sp.Add(*[self.value(t) for t in terms])) if terms else sp.S.Zero
        return [self._tangent(v, rate) for v in values]

    def _tangent(self, value, rate):
        coefficient, symbol = value.as_coeff_Mul()
        return _scaled(coefficient, rate.get(symbol, sp.S.Zero)) if isinstance(symbol, sp.Symbol) else sp.S.Zero

    def adjoints(self, values: Sequence[sp.Expr], seeds: Sequence[sp.Expr], by: Sequence[sp.Symbol]) -> list[sp.Expr]:
        """Derivatives of Σ seedᵢ valueᵢ by the inputs, the seeds held fixed (reverse mode)."""
        collected = self._collected(values, seeds)
        return [self._total(collected, x) for x in by]

    def row(self, value: sp.Expr, places: Mapping[sp.Symbol, int]) -> dict[int, sp.Expr]:
        """The derivatives of one value by inputs, by their `places`, as far as they are not zero, in their order."""
        collected = self._collected([value], [sp.S.One])
        inputs = sorted((places[s], s) for s in collected.keys() & places.keys())
        return {j: entry for j, s in inputs if (entry := self._total(collected, s)) != 0}

    def _collected(self, values: Sequence[sp.Expr], seeds: Sequence[sp.Expr]) -> dict[sp.Symbol, list[sp.Expr]]:
        """What is added up in the derivative by each symbol behind some values."""
        collected: dict[sp.Symbol, list[sp.Expr]] = {}

        def collect(value, seed):
            coefficient, symbol = value.as_coeff_Mul()
            if isinstance(symbol, sp.Symbol):
                collected.setdefault(symbol, []).append(_scaled(coefficient, seed))

        for value, seed in zip(values, seeds, strict=True):
            collect(value, seed)
        for symbol in reversed(self.needed(values)):
            adjoint = self._total(collected, symbol)
            if adjoint == 0:
                continue
            e = self.definitions[symbol]
            if isinstance(e, (Select, Guard)):
                collect(e.args[1], self.select(e.args[0], adjoint, sp.S.Zero))
                if isinstance(e, Select):
                    collect(e.args[2], self.select(e.args[0], sp.S.Zero, adjoint))
            else:
                for a, p in self.partials(symbol):
                    collected.setdefault(a, []).append(self.value(p * adjoint))
        return collected

    def _total(self, collected: Mapping[sp.Symbol, Sequence[sp.Expr]], symbol: sp.Symbol) -> sp.Expr:
        return self.value(sp.Add(*collected.get(symbol, ())))


def _scaled(coefficient: sp.Expr, value: sp.Expr) -> sp.Expr:
    inner, symbol = value.as_coeff_Mul()
    return _number(coefficient * inner) * symbol


def _number(value: sp.Expr) -> sp.Expr:
    """A number as Rational where that is exact and short, so that 0.5 and 1/2 are one, and as a double otherwise."""
    if value.is_Rational:
        return value
    number = float(value)
    exact = cast(sp.Rational, sp.Rational(number))
    return exact if exact.q <= 64 and abs(exact.p) < 10**6 else sp.Float(number)


def _odd_coefficients(total: sp.Expr) -> int:
    return sum(abs(t.as_coeff_Mul()[0]) != 1 for t in sp.Add.make_args(total) if not t.is_number)
