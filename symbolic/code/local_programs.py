"""The functions generated for an expression c(x, t; p), as programs on tapes."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import sympy as sp

from ndae.symbolic.code.tape import Tape
from ndae.symbolic.code.term_sizes import cancelling_size
from ndae.symbolic.expressions.names import fresh, identifiers
from ndae.symbolic.ground.kept import remembered
from ndae.symbolic.ground.typed import xreplaced

#: How the entries of an output are joined: rows of the instances, columns of the state, or a matrix for each instance.
ROWS, COLUMNS, MATRIX = "rows", "columns", "matrix"
RESERVED = {
    "torch",
    "jnp",
    "jax",
    "np",
    "xp",
    "rsqrt",
    "split",
    "split_rows",
    "rows",
    "columns",
    "matrix",
    "xs",
    "vs",
    "us",
    "ws",
}

_WORTH_FACTORING = 300  # operations; longer programs gain little for the time that the search takes


@dataclass(frozen=True)
class Program:
    """One function to generate: array inputs with the symbols that they are split into, and outputs with their join."""

    name: str
    doc: str
    tape: Tape
    inputs: tuple[tuple[str, tuple[sp.Symbol, ...]], ...]
    outputs: tuple[tuple[str, tuple[sp.Expr, ...]], ...]

    def count_operations(self) -> int:
        """Array operations that the program takes, without splitting and joining."""
        values = [v for _, entries in self.outputs for v in entries]
        written = [self.tape.definitions[s] for s in self.tape.needed(values)] + values
        powers = [e.exp for e in written if isinstance(e, sp.Pow) and e.exp.is_Integer and e.exp > 2]
        return sum(int(sp.count_ops(e)) for e in written) + sum(int(n) - 2 for n in powers)


class Programs:
    """Every function that is generated from m expressions over the n coordinates x of one instance."""

    def __init__(
        self,
        expressions: Sequence[sp.Expr],
        coordinates: Sequence[sp.Symbol],
        time: sp.Symbol | None,
        parameters: Sequence[sp.Symbol],
    ):
        extras = (() if time is None else (time,)) + tuple(parameters)
        names = identifiers((*coordinates, *extras), RESERVED)
        self.x = tuple(names[s] for s in coordinates)
        self.extras = tuple(names[s] for s in extras)
        self.time = None if time is None else names[time]
        self.c = tuple(xreplaced(e, names) for e in expressions)
        taken = RESERVED | {s.name for s in names.values()}
        self.v, self.u, self.a = (fresh([prefix + s.name for s in self.x], taken) for prefix in ("v_", "u_", "a_"))
        self._factor = 0
        self._chosen: dict[str, Program] = {}
        self.w = fresh([f"w{i}" for i in range(len(self.c))], taken)

    #: The functions that are generated, each a method below.
    names = ("residual", "local_jacobian", "linearise", "jvp", "vjp", "hvp", "time_derivative", "velocity", "curvature")
    names += ("penalty", "penalty_jvp", "scale", "linearise_scaled")

    def __getitem__(self, name: str) -> Program:
        """One program by its name, with products opened for factoring as deep as costs the fewest operations."""
        return remembered(self._chosen, name, lambda: self._fewest(name))

    def _fewest(self, name: str) -> Program:
        candidates = [getattr(self, name)()]
        if candidates[0].count_operations() <= _WORTH_FACTORING:
            for factor in (1, 2, 3):
                opened = copy.copy(self)
                opened._factor = factor
                candidates.append(getattr(opened, name)())
        return min(candidates, key=Program.count_operations)

    def _start(self) -> tuple[Tape, list[sp.Expr]]:
        tape = Tape(self._factor)
        return tape, [tape.value(e) for e in self.c]

    def _program(self, name: str, doc: str, tape: Tape, arrays: str, *outputs) -> Program:
        inputs = tuple((a + "s", getattr(self, a)) for a in arrays)
        return Program(name, doc, tape, inputs, tuple((join, tuple(values)) for join, values in outputs))

    def _rows(self, tape: Tape, c: Sequence[sp.Expr]) -> list[sp.Expr]:
        return [entry for value in c for entry in tape.adjoints([value], [sp.S.One], self.x)]

    def _along(self, v, time_rate=0) -> dict[sp.Symbol, sp.Expr]:
        rates: dict[sp.Symbol, sp.Expr] = dict(zip(self.x, v, strict=True))
        return rates | ({self.time: sp.Integer(time_rate)} if self.time is not None else {})

    def residual(self) -> Program:
        tape, c = self._start()
        return self._program("residual", "c(x)", tape, "x", (ROWS, c))

    def local_jacobian(self) -> Program:
        tape, c = self._start()
        return self._program("local_jacobian", "∂c/∂x", tape, "x", (MATRIX, self._rows(tape, c)))

    def linearise(self) -> Program:
        tape, c = self._start()
        return self._program("linearise", "c(x) and ∂c/∂x", tape, "x", (ROWS, c), (MATRIX, self._rows(tape, c)))

    def jvp(self) -> Program:
        tape, c = self._start()
        return self._program("jvp", "J v", tape, "xv", (ROWS, tape.tangents(c, self._along(self.v))))

    def vjp(self) -> Program:
        tape, c = self._start()
        return self._program("vjp", "Jᵀ w", tape, "xw", (COLUMNS, tape.adjoints(c, self.w, self.x)))

    def hvp(self) -> Program:
        tape, c = self._start()
        gradient = tape.adjoints(c, self.w, self.x)
        return self._program(
            "hvp", "(Σ wᵢ ∇²cᵢ) u", tape, "xwu", (COLUMNS, tape.tangents(gradient, self._along(self.u)))
        )

    def time_derivative(self) -> Program:
        tape, c = self._start()
        rate = tape.tangents(c, self._along([sp.S.Zero] * len(self.x), 1))
        return self._program("time_derivative", "∂c/∂t", tape, "x", (ROWS, rate))

    def velocity(self) -> Program:
        tape, c = self._start()
        return self._program("velocity", "J v + ∂c/∂t", tape, "xv", (ROWS, tape.tangents(c, self._along(self.v, 1))))

    def curvature(self) -> Program:
        tape, c = self._start()
        along = self._along(self.v, 1)
        second = tape.tangents(tape.tangents(c, along), along)
        doc = "vᵀ ∇²c v + 2 ∂J/∂t v + ∂²c/∂t²"
        return self._program("curvature", doc, tape, "xv", (ROWS, second))

    def acceleration(self) -> Program:
        tape, c = self._start()
        along = self._along(self.v, 1)
        rate = tape.tangents(c, along)
        curvature, jacobian_a = tape.tangents(rate, along), tape.tangents(c, self._along(self.a))
        total = [tape.value(a + b) for a, b in zip(jacobian_a, curvature, strict=True)]
        return self._program("acceleration", "J a + curvature", tape, "xva", (ROWS, total))

    def penalty(self) -> Program:
        tape, c = self._start()
        return self._program("penalty", "Jᵀ c", tape, "x", (COLUMNS, tape.adjoints(c, c, self.x)))

    def penalty_jvp(self) -> Program:
        tape, c = self._start()
        gradient = tape.adjoints(c, c, self.x)
        rate = tape.tangents(gradient, self._along(self.v))
        return self._program("penalty_jvp", "(Jᵀ J + Σ cᵢ ∇²cᵢ) v", tape, "xv", (COLUMNS, rate))

    def _sizes(self, tape: Tape) -> list[sp.Expr]:
        return [cancelling_size(tape, e, set(self.x)) for e in self.c]

    def scale(self) -> Program:
        tape = Tape(self._factor)
        return self._program("scale", "size of what cancels in c(x)", tape, "x", (ROWS, self._sizes(tape)))

    def linearise_scaled(self) -> Program:
        tape, c = self._start()
        outputs = (ROWS, c), (MATRIX, self._rows(tape, c)), (ROWS, self._sizes(tape))
        return self._program("linearise_scaled", "c(x), ∂c/∂x, and the size of what cancels in c", tape, "x", *outputs)
