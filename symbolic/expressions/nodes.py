"""What every function of our own is in SymPy."""

from typing import TYPE_CHECKING

import sympy as sp

if TYPE_CHECKING:
    from typing import Self

    class Node(sp.Function):
        """A function of expressions, as SymPy makes it."""

        def __new__(cls, *args: sp.Basic) -> Self: ...

        @property
        def args(self) -> tuple[sp.Expr, ...]: ...

else:
    Node = sp.Function
