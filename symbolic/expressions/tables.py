"""Inputs given in numbers: a table as one node of an expression, however many rows it has."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import sympy as sp

from ndae.symbolic.expressions.names import check_name
from ndae.symbolic.expressions.nodes import Node
from ndae.symbolic.ground.kept import remembered
from ndae.symbolic.ground.typed import branches_of, symbols_of

KINDS, OUTSIDE = ("linear", "cubic", "hold"), ("refuse", "hold")
# How far beyond its ends a table is read by its last polynomial, of its length: what rounding makes of a time.
_SLACK = 1e-9
# Below it, of what is added up on either side, two derivatives at a knot are the same but for rounding.
_SAME = 1e-9


class Table(sp.AtomicExpr):
    """A function of one variable by polynomials between knots, called as u(t); told from others by its numbers.

    In the i-th interval, from breaks[i] on, it is Σ_k rows[i, k] (t - breaks[i])^(degree - k); from a knot on the next
    one counts. `table` makes one. It is known between `first` and `last`; outside, `held`, it keeps its end values, or
    has none (NaN, which no solve accepts).
    """

    is_commutative = True
    is_real = True

    if TYPE_CHECKING:
        breaks: np.ndarray
        rows: np.ndarray
        last: float
        held: bool
        label: str

    __slots__ = ("_known", "breaks", "held", "label", "last", "rows")

    def __new__(cls, breaks: Any, rows: Any, last: float, held: bool, label: str = "") -> "Table":
        self: Any = super().__new__(cls)
        self.breaks, self.rows = (np.array(a, dtype=np.float64, order="C") for a in (breaks, rows))
        self.breaks.flags.writeable = self.rows.flags.writeable = False
        self.last, self.held, self.label, self._known = float(last), bool(held), label, {}
        return self

    def __getnewargs__(self) -> tuple:
        return self.breaks, self.rows, self.last, self.held, self.label

    def __getstate__(self) -> None:
        return None

    def _hashable_content(self) -> tuple:
        def content():
            return self.label, self.held, self.last, self.rows.shape, self.breaks.tobytes(), self.rows.tobytes()

        return remembered(self._known, "content", content)

    @property
    def digest(self) -> str:
        """A name of the contents."""

        def digest():
            label, held, last, shape, *content = self._hashable_content()
            return hashlib.sha256(repr((label, held, last, shape)).encode() + b"".join(content)).hexdigest()

        return remembered(self._known, "digest", digest)

    def __call__(self, place: Any) -> sp.Expr:
        """Its value at `place`, an expression; of a number, the number."""
        return Lookup(self, sp.S.Zero, sp.sympify(place))

    def __str__(self) -> str:
        return self.label or f"table_{self.digest[:6]}"

    def _sympystr(self, printer) -> str:
        return str(self)

    def _latex(self, printer) -> str:
        return rf"\operatorname{{{str(self).replace('_', chr(92) + '_')}}}"

    def _sympyrepr(self, printer) -> str:
        return f"Table({str(self)!r}, sha256={self.digest!r})"

    # -- its numbers -------------------------------------------------------------------------------------------------

    @property
    def first(self) -> float:
        """Where it begins."""
        return float(self.breaks[0])

    @property
    def degree(self) -> int:
        """Of its polynomials."""
        return self.rows.shape[1] - 1

    @property
    def reach(self) -> tuple[float, float]:
        """Between which times it is read as it is, `first` and `last` with what rounding makes of them."""
        slack = 0.0 if self.held else _SLACK * (self.last - self.first)
        return self.first - slack, self.last + slack

    def derivative(self, order: int) -> np.ndarray:
        """The rows of a derivative."""

        def rows():
            found = self.rows
            for _ in range(order):
                found = found[:, :-1] * np.arange(found.shape[1] - 1, 0, -1)
            return np.ascontiguousarray(found)

        return remembered(self._known, order, rows)

    def values(self, x: Any, order: int = 0) -> np.ndarray:
        """A derivative at times of any shape; NaN where it is not known."""
        x, rows = np.asarray(x, dtype=np.float64), self.derivative(order)
        low, high = self.reach
        within = (x >= low) & (x <= high)
        inner = np.clip(x, self.first, self.last) if self.held else x
        i = np.clip(np.searchsorted(self.breaks, inner, side="right") - 1, 0, len(rows) - 1)
        s = inner - self.breaks[i]
        value = rows[i, 0]
        for k in range(1, rows.shape[1]):
            value = value * s + rows[i, k]
        return np.where(within, value, (0.0 if order else value) if self.held else np.nan)

    def of_number(self, order: int) -> Callable[[float], float]:
        """A derivative as a function of one float."""
        breaks, rows, (low, high) = self.breaks.tolist(), self.derivative(order).tolist(), self.reach

        def at(x: float) -> float:
            if not low <= x <= high:
                if not self.held:
                    return float("nan")
                if order:
                    return 0.0
                x = min(max(x, self.first), self.last)
            i = min(max(bisect_right(breaks, x) - 1, 0), len(rows) - 1)
            s, value = x - breaks[i], 0.0
            for c in rows[i]:
                value = value * s + c
            return value

        return at

    def sampled(self, x: np.ndarray, order: int) -> np.ndarray:
        """As `values`, with times outside brought inside: what equations depend on is judged where they are known."""
        if self.held:
            return self.values(x, order)
        low, high = self.reach
        inside = self.first + (self.last - self.first) * (0.5 + 0.5 * np.sin(x))
        return self.values(np.where((x >= low) & (x <= high), x, inside), order)

    def jumps(self, order: int) -> np.ndarray:
        """Where a derivative jumps."""

        def found():
            if order > self.degree:
                return np.zeros(0)
            rows, magnitudes = self.derivative(order), np.abs(self.derivative(order))
            width = np.diff(self.breaks)[: len(rows)]
            before, size = (np.zeros(len(width)) for _ in range(2))
            for k in range(rows.shape[1]):
                before = before * width + rows[: len(width), k]
                size = size * width + magnitudes[: len(width), k]
            n = len(rows) - 1  # knots inside
            differs = np.abs(before[:n] - rows[1:, -1]) > _SAME * np.maximum(size[:n], magnitudes[1:, -1])
            at = self.breaks[1 : n + 1][differs]
            if self.held and order:
                at = np.concatenate([[self.first], at, [self.last]])
            return np.unique(at)

        return remembered(self._known, ("jumps", order), found)

    def knots(self, order: int) -> np.ndarray:
        """Where a derivative is not smooth: where it, or the next one, jumps."""
        return np.union1d(self.jumps(order), self.jumps(order + 1))


class Lookup(Node):
    """Lookup(table, k, t): the k-th derivative of a table at t."""

    nargs = 3

    @classmethod
    def eval(cls, table, order, place):
        """Zero beyond the degree, and of a number the number."""
        if order > table.degree:
            return sp.S.Zero
        if not place.is_number:
            return None
        value = float(table.values(float(place), int(order)))
        if not np.isfinite(value):
            raise ValueError(f"{outside(table, float(place), float(place))}")
        return sp.Float(value)

    @property
    def table(self) -> Table:
        """What is looked up."""
        found: Any = self.args[0]
        return found

    @property
    def order(self) -> int:
        """Of the derivative."""
        return int(self.args[1])

    @property
    def place(self) -> sp.Expr:
        """Where."""
        return self.args[2]

    @property
    def called(self) -> str:
        """The name of the function in generated code."""
        return f"table_{self.table.digest[:16]}_{self.order}"

    def at(self, place: sp.Expr) -> sp.Expr:
        """The same at another place."""
        return self.func(self.args[0], self.args[1], place)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """The next derivative, which from a knot on is that of what follows."""
        table, order, place = self.args
        return self.func(table, order + 1, place) if argindex == 3 else sp.S.Zero

    def _eval_evalf(self, prec) -> None:
        return None

    def _sympystr(self, printer) -> str:
        return f"{self.table}{chr(39) * self.order}({printer.doprint(self.place)})"

    def _latex(self, printer, exp=None) -> str:
        text = rf"{printer._print(self.table)}{chr(39) * self.order}\left({printer.doprint(self.place)}\right)"
        return text if exp is None else rf"\left({text}\right)^{{{exp}}}"


def table(ts: Any, values: Any, kind: str = "linear", *, outside: str = "refuse", name: str = "") -> Table:
    """An input given in numbers, u = table(ts, values), to be written as u(t) in any equation of a System.

    - `ts` (n,): times, strictly increasing, in the unit of the system's time; `values` (n,): what is measured there.
    - `kind`: "linear" between them; "cubic", the not-a-knot spline, which has two continuous derivatives (as SymPy's
      interpolating_spline and SciPy's CubicSpline); "hold", each value from its time on until the next.
    - `outside` of [ts[0], ts[-1]]: "refuse", so that a solve that gets there stops with an error, or "hold" of the end
      values.
    - `name`: what it is called where it is printed.

    It may be asked at any expression, as u(t - 1), u(2*t), u(Mod(t, 24)) or of a state, and stands for one operation
    however many rows it has. Steps end at knots where the equations or their first derivatives jump. Derivatives by
    its values are not taken. Raises ValueError on times that do not increase, on anything that is no finite number, and
    on too few rows ("linear" and "hold" take two, "cubic" four).
    """
    what = f"table {name}" if name else "table"
    if kind not in KINDS or outside not in OUTSIDE:
        wrong, of = (kind, KINDS) if kind not in KINDS else (outside, OUTSIDE)
        raise ValueError(f"{what}: {wrong!r}: expected one of {', '.join(map(repr, of))}")
    if name:
        check_name(name, what)
    ts, values = _numbers(ts, f"{what}: ts"), _numbers(values, f"{what}: values")
    least = 4 if kind == "cubic" else 2
    if ts.ndim != 1 or ts.shape != values.shape or ts.size < least:
        raise ValueError(
            f"{what}: ts of shape {ts.shape} and values of shape {values.shape}: give as many of one as of the other, "
            f"at least {least}"
        )
    for array, of in ((ts, "ts"), (values, "values")):
        if not np.isfinite(array).all():
            i = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(f"{what}: {of}[{i}] is {array[i]}: give finite numbers; leave out rows that are missing")
    if not np.all(np.diff(ts) > 0):
        i = int(np.flatnonzero(~(np.diff(ts) > 0))[0])
        how = "twice the same" if ts[i] == ts[i + 1] else "not in order"
        raise ValueError(
            f"{what}: ts[{i}] = {ts[i]:.9g} and ts[{i + 1}] = {ts[i + 1]:.9g} are {how}: times increase strictly; "
            "sort the rows, and keep one of each time"
        )
    if kind == "hold":
        rows = values[:, None]
    elif kind == "linear":
        rows = np.stack([np.diff(values) / np.diff(ts), values[:-1]], axis=1)
    else:
        from scipy.interpolate import CubicSpline

        rows = CubicSpline(ts, values).c.T
    if not np.isfinite(rows).all():
        raise ValueError(f"{what}: its slopes are beyond double precision: scale the units")
    return Table(ts, rows, ts[-1], outside == "hold", name)


def _numbers(given: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(given)
        if array.dtype.kind not in "iuf":
            array = np.asarray([float(v) for v in array.ravel()]).reshape(array.shape)
        return array.astype(np.float64)
    except Exception as error:  # of JAX and torch, what has derivatives and so is no number
        raise ValueError(
            f"{where}: expected numbers, got {type(given).__name__} ({type(error).__name__}); no derivative goes "
            "through the numbers of a table: write what derivatives are wanted by as parameters, such as a * u(t) + b"
        ) from None


def spline(degree: int, ts: Any, values: Any) -> Table:
    """The spline of SymPy's interpolating_spline(degree, t, ts, values), of degree 1 to 5, as a table."""
    from scipy.interpolate import PPoly, make_interp_spline

    table(ts, values)  # which checks them
    if not 1 <= degree <= 5 or len(ts) <= degree:
        raise ValueError(
            f"a spline of degree {degree} through {len(ts)} points: give a degree from 1 to 5, and more points"
        )
    pieces = PPoly.from_spline(make_interp_spline(ts, values, k=degree))
    there = np.flatnonzero(np.diff(pieces.x) > 0)
    return Table([*pieces.x[there], ts[-1]], pieces.c[:, there].T, ts[-1], False, "spline")


def outside(table: Table, low: float, high: float) -> str:
    """That a table is asked where it is not known."""
    where = f"at {low:.9g}" if low == high else f"from {low:.9g} to {high:.9g}"
    return (
        f"the table {table} is asked {where}, and is known from {table.first:.9g} to {table.last:.9g}: stay inside, or "
        "keep its end values by ndae.table(..., outside='hold')"
    )


def spline_of(e: sp.Piecewise) -> Lookup | None:
    """A Piecewise without a last case, of polynomials of one symbol over intervals one after another, as a table.

    So SymPy's interpolating_spline writes its splines. None for any other.
    """
    pairs = branches_of(e)
    if pairs[-1][1] == sp.true or len(symbols_of(e)) != 1:
        return None
    (symbol,) = symbols_of(e)
    breaks, rows, end = [], [], None
    for value, condition in pairs:
        bounds = _interval(condition, symbol)
        if bounds is None or (end is not None and bounds[0] != end) or not value.is_polynomial(symbol):
            return None
        end = bounds[1]
        shifted = sp.Poly(value.subs(symbol, symbol + bounds[0]), symbol).all_coeffs()
        if not all(c.is_number and c.is_real for c in shifted):
            return None
        breaks.append(float(bounds[0]))
        rows.append([float(c) for c in shifted])
    width = max(map(len, rows))
    rows = [[0.0] * (width - len(row)) + row for row in rows]
    assert end is not None
    if not all(a < b for a, b in zip(breaks, [*breaks[1:], float(end)], strict=True)):
        return None
    found: Any = Table([*breaks, float(end)], rows, float(end), False, "spline")(symbol)
    return found


def _interval(condition: sp.Basic, symbol: sp.Symbol) -> tuple[sp.Expr, sp.Expr] | None:
    """(a, b) of a condition a ≤ x ≤ b."""
    parts = condition.args if isinstance(condition, sp.And) else (condition,)
    lower = upper = None
    for part in parts:
        if not isinstance(part, (sp.Ge, sp.Gt, sp.Le, sp.Lt)):
            return None
        small, large = (cast(sp.Expr, side) for side in (part.lts, part.gts))
        difference = large - small
        slope = difference.diff(symbol)
        if not slope.is_number or slope == 0:
            return None
        bound = -difference.subs(symbol, 0) / slope
        if slope > 0 and lower is None:
            lower = bound
        elif slope < 0 and upper is None:
            upper = bound
        else:
            return None
    return None if lower is None or upper is None else (lower, upper)
