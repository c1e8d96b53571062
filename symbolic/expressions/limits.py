"""How large an expression may grow: what a few characters can write may be more than anyone can wait for."""

from collections.abc import Iterator

import sympy as sp

MAX_OPERATIONS = 100_000  # of an expression written out, however much of it is shared
MAX_DEPTH = 300  # operations in one another
MAX_HYPERBOLIC = 5  # sinh, cosh and tanh in one another: SymPy's time for them doubles with each
MAX_BITS = 4096  # of a numerator or denominator
MAX_POWER = 4096  # of an exponent that is a whole number


HYPERBOLIC = (sp.sinh, sp.cosh, sp.tanh)


def distinct(expression: sp.Basic) -> Iterator[sp.Basic]:
    """Every node of an expression once, arguments before what they are in; without recursion."""
    seen: set[sp.Basic] = set()
    stack = [(expression, False)]
    while stack:
        e, done = stack.pop()
        if done:
            yield e
        elif e not in seen:
            seen.add(e)
            stack.append((e, True))
            stack.extend((a, False) for a in reversed(e.args))


def check_size(expression: sp.Basic, where: str) -> None:
    """Raise ValueError if an expression is larger, deeper, or has longer numbers than can be worked with."""
    sizes: dict[sp.Basic, tuple[int, int]] = {}
    try:
        for e in distinct(expression):
            inner = [sizes[a] for a in e.args]
            operations, depth = 1 + sum(n for n, _ in inner), 1 + max((d for _, d in inner), default=0)
            sizes[e] = operations, depth
            if depth > MAX_DEPTH:
                raise ValueError(
                    f"{where} is nested deeper than {MAX_DEPTH} operations: give a part of it a state of its own"
                )
            if isinstance(e, sp.Rational):
                check_digits(e, where)
            if isinstance(e, sp.Pow) and e.exp.is_Integer and abs(e.exp) > MAX_POWER:
                raise ValueError(f"{where} has an exponent beyond {MAX_POWER}: write exp(... * log(...))")
    except RecursionError:
        raise ValueError(f"{where} is nested too deep: give a part of it a state of its own") from None
    check_hyperbolic(expression, where)
    operations = sizes[expression][0]
    if operations > MAX_OPERATIONS:
        raise ValueError(
            f"{where} has {operations:.3g} operations once its definitions are put in and its powers and products "
            f"written out, at most {MAX_OPERATIONS:,} are read: make a part of it a state with an equation of its own"
        )


def check_hyperbolic(expression: sp.Basic, where: str) -> None:
    """Raise ValueError where sinh, cosh and tanh stand in one another deeper than SymPy can work with."""
    depth: dict[sp.Basic, int] = {}
    for e in distinct(expression):
        depth[e] = max((depth[a] for a in e.args), default=0) + isinstance(e, HYPERBOLIC)
        if depth[e] > MAX_HYPERBOLIC:
            raise ValueError(
                f"{where} has sinh, cosh or tanh nested deeper than {MAX_HYPERBOLIC}: give a part of it a state of its "
                "own, or write it with exp"
            )


def check_digits(number: sp.Rational, where: str) -> None:
    """Raise ValueError on a fraction of integers so long that working with them takes long."""
    bits = max(int(number.p).bit_length(), int(number.q).bit_length())
    if bits > MAX_BITS:
        raise ValueError(
            f"{where} has a number of {int(bits * 0.30103) + 1} digits: at most {int(MAX_BITS * 0.30103)} are read: "
            "write it with a decimal point"
        )
