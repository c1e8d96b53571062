"""A reduced system written as F(t, Y, Y') = 0, for solvers of fully implicit equations (IDA, Radau).

Such solvers take index-1 equations, and index-2 ones where the variables of index 2 are kept out of their error test.
The forms, all with the same solutions:

- "original": the equations as the user wrote them; for index 1, and for index 2 in Hessenberg form.
- "index1": y' = rates(y, w), T(y, w, t) = 0. The constraints hold by the start alone: the solution drifts off them.
- "ggl": every constraint is an equation, and those below their last level, C_low, have multipliers of their own,

      x^(k)' = x^(k+1) + (∂C_low/∂x^(k))ᵀ μ,    C(y, t) = 0,    and the equations of T that were not differentiated.

  μ = 0 in the solution. For a mechanical system this is the index-2 form of Gear, Leimkuhler and Gupta (1985); where no
  equation was differentiated twice it has no μ and puts the constraints in the place of their derivatives.
- "dummy": all constraints and T, with as many derivatives of y made algebraic variables (dummy derivatives, Mattsson
  and Söderlind 1993); of index 1, with no drift, and valid near the point at which they were chosen:

      x' = ẋ where x is not determined by constraints,    C(y, t) = 0,    T(y, w, t) = 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import sympy as sp

from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.forms.reduced import ReducedSystem
from ndae.symbolic.functions.vector_function import VectorFunction
from ndae.symbolic.ground.kept import Recomputed, kept
from ndae.symbolic.ground.typed import xreplaced
from ndae.symbolic.numeric.ranks import RANK

FORMS = ("original", "index1", "ggl", "dummy")


@dataclass(frozen=True, eq=False)  # compiled functions are cached by identity
class ImplicitForm(Recomputed):
    """F(t, Y, Y') = 0 with m equations and unknowns, and what its unknowns are in the reduced system.

    - `unknowns`, `rates` (m,): symbols of Y and Y'; `equations` (m,): F.
    - `stands_for` (m,): the entry of the reduced system's y or w that each unknown is, None for a multiplier μ.
    - `uncontrolled` (m,): multipliers and variables of index 2, which an error test has to leave out.
    """

    kind: str
    reduced: ReducedSystem
    unknowns: tuple[sp.Symbol, ...]
    rates: tuple[sp.Symbol, ...]
    equations: tuple[sp.Expr, ...]
    stands_for: tuple[sp.Symbol | None, ...]
    uncontrolled: tuple[bool, ...]

    @kept
    def algebraic(self) -> tuple[bool, ...]:
        """Whether no equation has this entry of Y', (m,)."""
        present = set().union(*(e.free_symbols for e in self.equations))
        return tuple(rate not in present for rate in self.rates)

    @kept
    def functions(self) -> Any:
        """F compiled for NumPy: `functions(Y, Yp, t=, parameters=)` and its `.jacobian("Y" or "Yp", ...)`."""
        inputs = {"Y": self.unknowns, "Yp": self.rates}
        name = f"{self.kind}_form"
        return VectorFunction(self.equations, inputs, self.reduced.time, self.reduced.parameters, name=name).numpy()

    def residual(self, t: float, Y: np.ndarray, Yp: np.ndarray, parameters: Mapping[str, Any] | None = None):
        """F (..., m) at Y, Y' (..., m)."""
        return self.functions(Y, Yp, t=t, parameters=self.reduced.numpy().with_functions(parameters))

    def jacobians(
        self, t: float, Y: np.ndarray, Yp: np.ndarray, parameters: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """∂F/∂Y and ∂F/∂Y', each (..., m, m)."""
        jacobian, parameters = self.functions.jacobian, self.reduced.numpy().with_functions(parameters)
        return jacobian("Y", Y, Yp, t=t, parameters=parameters), jacobian("Yp", Y, Yp, t=t, parameters=parameters)

    def start(self, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Y and Y' (m,) at a consistent point y (N,), w (n,); 0 for μ and for derivatives of algebraic variables."""
        r = self.reduced
        value = dict(zip(r.y, y, strict=True)) | dict(zip(r.w, w, strict=True))
        rate: dict[sp.Symbol | None, Any] = {
            symbol: value[derivative] for symbol, derivative in zip(r.y, r.rates, strict=True)
        }
        Y = np.array([0.0 if s is None else value[s] for s in self.stands_for], dtype=np.float64)
        Yp = np.array([rate.get(s, 0.0) for s in self.stands_for], dtype=np.float64)
        return Y, Yp

    def differential(self, Y: np.ndarray, Yp: np.ndarray) -> np.ndarray:
        """The reduced system's y (..., N)."""
        return self._found(self.reduced.y, Y, Yp)

    def leading(self, Y: np.ndarray, Yp: np.ndarray) -> np.ndarray:
        """The reduced system's w (..., n), as accurate as the solver holds it: no error test watches most of it."""
        return self._found(self.reduced.w, Y, Yp)

    @kept
    def tested(self) -> tuple[int, ...]:
        """The j of those w_j that are unknowns which the error test watches."""
        watched = {s for s, free in zip(self.stands_for, self.uncontrolled, strict=True) if s is not None and not free}
        return tuple(j for j, symbol in enumerate(self.reduced.w) if symbol in watched)

    def _found(self, symbols: Sequence[sp.Symbol], Y: np.ndarray, Yp: np.ndarray) -> np.ndarray:
        places = [self._places.get(symbol) for symbol in symbols]
        if None in places:
            raise ValueError(
                f"the form {self.kind!r} of {self.reduced.system.name!r} has neither {symbols[places.index(None)]} nor "
                "what it is the derivative of; use the form 'ggl'"
            )
        parts = {"Y": Y, "Yp": Yp}
        found = [parts[where][..., i] for where, i in places]
        return np.stack(found, axis=-1) if found else np.zeros((*Y.shape[:-1], 0))

    @kept
    def _places(self) -> dict[sp.Symbol, tuple[str, int]]:
        """Of each entry of y and w that can be read off: from Y, or as the derivative of one that is in Y."""
        r = self.reduced
        found = {symbol: ("Y", i) for i, symbol in enumerate(self.stands_for) if symbol is not None}
        for symbol, derivative in zip(r.y, r.rates, strict=True):
            if symbol in found and found[symbol][0] == "Y":
                found.setdefault(derivative, ("Yp", found[symbol][1]))
        return found


def implicit_form(reduced: ReducedSystem, kind: str = "ggl", *, at: Any = None) -> ImplicitForm:
    """The system as F(t, Y, Y') = 0 in the form `kind`: "original", "index1", "ggl" or "dummy" (see the module).

    `at` is the point (y, w, t) at which "dummy" chooses its algebraic variables, or (y, w, t, parameters) where values
    differ from the defaults. That form is valid as long as the constraints determine these variables: a pendulum turned
    by a quarter needs another choice, and there the pencil of the form becomes singular. Raises ValueError for another
    kind, a missing or singular point, and an original form of index 3 or more.
    """
    if kind not in FORMS:
        raise ValueError(f"form {kind!r} is not known; choose one of {', '.join(FORMS)}")
    if kind == "dummy":
        if at is None:
            raise ValueError('the form "dummy" depends on a point: give at=(y, w, t)')
        return _dummy(reduced, *at)
    return {"original": _original, "index1": _index1, "ggl": _ggl}[kind](reduced)


def direct_unknowns(reduced: ReducedSystem) -> set[sp.Symbol]:
    """Algebraic variables that undifferentiated equations determine from y: those of index 1.

    Blocks are solved in order, so such a variable is in a block of undifferentiated equations whose leading unknowns
    are algebraic and all in that block or in earlier ones of this sort.
    """
    algebraic, found, leading = set(reduced.w) - set(reduced.rates), set(), set(reduced.w)
    for block in reduced.blocks:
        own = {reduced.w[j] for j in block.unknowns}
        used = set().union(*(reduced.equations[i].free_symbols for i in block.equations)) & leading
        plain = all(reduced.differentiations[i] == 0 for i in block.equations)
        if plain and own <= algebraic and used <= own | found:
            found |= own
    return found


def _index1(r: ReducedSystem) -> ImplicitForm:
    unknowns = (*r.y, *r.w)
    rates = _rate_symbols(r, unknowns)
    wiring = [rate - derivative for rate, derivative in zip(rates, r.rates, strict=False)]
    direct = direct_unknowns(r)
    uncontrolled = tuple([False] * len(r.y) + [s not in direct for s in r.w])
    return ImplicitForm("index1", r, unknowns, rates, (*wiring, *r.equations), unknowns, uncontrolled)


def _ggl(r: ReducedSystem) -> ImplicitForm:
    algebraic = [s for s in r.w if s not in set(r.rates)]
    low = [c for c, (i, k) in zip(r.constraints, r.constraint_of, strict=True) if k <= r.differentiations[i] - 2]
    multipliers = _fresh("mu", len(low), r)
    unknowns = (*r.y, *algebraic, *multipliers)
    rates = _rate_symbols(r, unknowns)
    rate_of = dict(zip(r.y, rates, strict=False))
    inner = set(r.y)
    chain, leads = [], {}
    for symbol, derivative in zip(r.y, r.rates, strict=True):
        if derivative in inner:
            push = sum(c.diff(symbol) * mu for c, mu in zip(low, multipliers, strict=True) if symbol in c.free_symbols)
            chain.append(rate_of[symbol] - derivative - push)
        else:
            leads[derivative] = rate_of[symbol]
    plain = [xreplaced(e, leads) for e, c in zip(r.equations, r.differentiations, strict=True) if c == 0]
    direct = direct_unknowns(r)
    uncontrolled = (*[False] * len(r.y), *[s not in direct for s in algebraic], *[True] * len(low))
    stands_for = (*r.y, *algebraic, *[None] * len(low))
    return ImplicitForm("ggl", r, unknowns, rates, (*chain, *plain, *r.constraints), stands_for, uncontrolled)


def _original(r: ReducedSystem) -> ImplicitForm:
    if r.redundant:
        raise ValueError(
            f"the original equations of {r.system.name!r} are redundant and determine no multipliers; use the form "
            '"ggl" or "index1"'
        )
    if r.index > 2:
        raise ValueError(
            f"the original equations of {r.system.name!r} have index {r.index}, and solvers of implicit equations take "
            'up to 2; use the form "ggl" or "index1"'
        )
    derivative: dict[sp.Symbol | None, sp.Symbol] = dict(zip(r.y, r.rates, strict=True))
    present = set().union(*(e.free_symbols for e in r.system.equations))
    unknowns: list[sp.Symbol] = []
    stands_for: list[sp.Symbol | None] = []
    links: list[tuple[sp.Symbol, sp.Symbol]] = []  # of an unknown and the one that is its derivative
    rate_symbol: dict[sp.Symbol, sp.Symbol] = {}
    for state, symbol in zip(r.system.states, r.states, strict=True):
        order = max((k for k in range(1, 9) if dot(state, k) in present), default=0)
        chain = [state, *(dot(state, k) for k in range(1, max(order, 1)))]
        for k, unknown in enumerate(chain):
            unknowns.append(unknown)
            stands_for.append(symbol)
            symbol = derivative.get(symbol)
            if k + 1 < len(chain):
                links.append((unknown, chain[k + 1]))
            else:
                rate_symbol[unknown] = dot(state, k + 1)
    # Of a chain x, x_dot the latter is an unknown, so the rate of x needs a name of its own.
    fresh = dict(zip(unknowns, _rate_symbols(r, unknowns), strict=True))
    rates = tuple(rate_symbol.get(u, fresh[u]) for u in unknowns)
    equations = (*[fresh[a] - b for a, b in links], *r.system.equations)
    direct, algebraic = direct_unknowns(r), set(r.w) - set(r.rates)
    uncontrolled = tuple(s in algebraic and s not in direct for s in stands_for)
    return ImplicitForm("original", r, tuple(unknowns), rates, equations, tuple(stands_for), uncontrolled)


def _dummy(r: ReducedSystem, y: Any, w: Any, t: float, parameters: Mapping[str, Any] | None = None) -> ImplicitForm:
    determined = _determined(r, y, w, t, parameters)
    dummies = {derivative for symbol, derivative in zip(r.y, r.rates, strict=True) if symbol in determined}
    replaced = set(r.rates) - set(r.y) - dummies  # leading derivatives that are the rate of an unknown
    algebraic = [s for s in r.w if s not in replaced]
    unknowns = (*r.y, *algebraic)
    rates = _rate_symbols(r, unknowns)
    rate_of = dict(zip(r.y, rates, strict=False))
    chain, leads = [], {}
    for symbol, derivative in zip(r.y, r.rates, strict=True):
        if derivative in replaced:
            leads[derivative] = rate_of[symbol]
        elif derivative not in dummies:
            chain.append(rate_of[symbol] - derivative)
    equations = (*chain, *[xreplaced(e, leads) for e in r.equations], *r.constraints)
    direct = direct_unknowns(r)
    uncontrolled = tuple([False] * len(r.y) + [s not in direct for s in algebraic])
    return ImplicitForm("dummy", r, unknowns, rates, equations, unknowns, uncontrolled)


def _determined(r: ReducedSystem, y: Any, w: Any, t: float, parameters: Mapping[str, Any] | None) -> set[sp.Symbol]:
    """The entries of y that the constraints determine from the others near a point, one for each constraint.

    The derivatives of these are the dummies. Level m = 1, 2, ... has the constraints f_i^(c_i − m), whose Jacobian by
    x_j^(d_j − m) is that of the leading equations c_i ≥ m by w_j. Of the j chosen on level m − 1 (on the first all),
    as many are chosen as there are rows, independent and pivoted for size: then x_j^(d_j − m) are determined
    (S. E. Mattsson and G. Söderlind, SIAM J. Sci. Comput. 14 (1993) 677, section 3).
    """
    point = [np.asarray(part, dtype=np.float64) for part in (y, w)]
    for name, value, symbols in (("y", point[0], r.y), ("w", point[1], r.w)):
        if value.shape != (len(symbols),) or not np.isfinite(value).all():
            listed = ", ".join(s.name for s in symbols)
            raise ValueError(
                f'at=(y, w, t) of the form "dummy": {name} must be {len(symbols)} finite numbers, {listed}'
            )
    jacobian = r.numpy().leading_jacobian(*point, t=t, parameters=parameters)
    before = {derivative: symbol for symbol, derivative in zip(r.y, r.rates, strict=True)}
    candidates, level = list(range(len(r.w))), list(r.w)
    found: set[sp.Symbol] = set()
    for m in range(1, max(r.differentiations, default=0) + 1):
        rows = [i for i, c in enumerate(r.differentiations) if c >= m]
        candidates = [j for j in candidates if level[j] in before]
        chosen = _pivots(jacobian[np.ix_(rows, candidates)])
        if len(chosen) < len(rows):
            listed = ", ".join(f"0 = {r.equations[i]}"[:70] for i in rows[:4])
            raise ValueError(
                f'the form "dummy" of {r.system.name!r} can\'t be made at this point, t = {t:g}: {len(rows)} '
                f"constraints determine only {len(chosen)} variables there ({listed}); choose a regular point"
            )
        candidates = [candidates[j] for j in chosen]
        for j in candidates:
            level[j] = before[level[j]]
            found.add(level[j])
    return found


def _pivots(matrix: np.ndarray) -> list[int]:
    """Columns that are independent in numbers, as many as the rank, by QR decomposition with column pivoting."""
    from scipy.linalg import qr

    if not np.isfinite(matrix).all() or not matrix.size:
        return []
    scaled = matrix / np.maximum(np.abs(matrix).max(axis=1, keepdims=True), np.finfo(float).tiny)
    decomposed = qr(scaled, mode="economic", pivoting=True)
    _, triangle, order = cast("tuple[np.ndarray, np.ndarray, np.ndarray]", decomposed)
    sizes = np.abs(np.diag(triangle))
    return sorted(int(j) for j in order[: int((sizes > RANK * sizes[0]).sum())])


def _rate_symbols(r: ReducedSystem, unknowns: Sequence[sp.Symbol]) -> tuple[sp.Symbol, ...]:
    taken = {s.name for s in (*r.y, *r.w, *r.parameters, *unknowns)}
    made = []
    for unknown in unknowns:
        name = f"{unknown.name}_prime"
        while name in taken:
            name += "_"
        taken.add(name)
        made.append(sp.Symbol(name, **unknown.assumptions0))
    return tuple(made)


def _fresh(stem: str, count: int, r: ReducedSystem) -> tuple[sp.Symbol, ...]:
    taken = {s.name for s in (*r.y, *r.w, *r.parameters)}
    while any(name.startswith(stem) for name in taken):
        stem += "_"
    return sp.symbols(f"{stem}1:{count + 1}")
