"""SymPy's Python printer, taught the names of torch, JAX and NumPy and the tape's symbols."""

from collections.abc import Mapping
from typing import Any, cast

import sympy as sp
from sympy.printing.pycode import PythonCodePrinter
from sympy.printing.str import StrPrinter

#: Prefix of each backend; functions are called by the names that all three share.
MODULES = {"torch": "torch", "jax": "jnp", "numpy": "np"}
_SHARED_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2"}
_SHARED_NAMES |= {"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "Size": "abs"}


class ArrayPrinter(PythonCodePrinter):
    """Elementwise definitions of a tape: constants as Python floats, small powers as products, differences as b - a."""

    def __init__(self, backend: str, definitions: Mapping[sp.Symbol, sp.Expr]):
        super().__init__({"fully_qualified_modules": False})
        self.module = MODULES[backend]
        self.definitions = definitions
        self.names: dict[sp.Symbol, str] = {}
        self.inline: dict[sp.Symbol, str] = {}

    def doprint_entry(self, expr: sp.Expr) -> str:
        """A right-hand side: a symbol written in place needs no parentheses."""
        return self.inline.get(cast(sp.Symbol, expr)) or self._print(expr)

    def _print(self, expr, **kwargs):
        if isinstance(expr, sp.Expr) and expr.is_number:
            return repr(float(expr))
        if isinstance(expr, sp.Function):  # before the names of Python's math module are found
            return self._print_Function(expr)
        return super()._print(expr, **kwargs)

    def _print_Symbol(self, expr):
        text = self.inline.get(expr)
        if text is None:
            return self.names.get(expr, expr.name)
        definition = self.definitions[expr]
        is_sum = isinstance(definition, sp.Add) or text.startswith(("-", "1.0/"))
        return f"({text})" if is_sum else text

    def _tight(self, expr):
        text = self._print(expr)
        inlined = expr in self.inline and not text.startswith("(") and not self.definitions[expr].is_Function
        return f"({text})" if inlined else text

    def _print_Function(self, expr):
        name = expr.func.__name__
        arguments = ", ".join(self._argument(a) for a in expr.args)
        return f"{self.module}.{_SHARED_NAMES.get(name, name)}({arguments})"

    def _argument(self, expr):
        if expr.is_number and self.module == "torch":  # atan2(y, 2): torch's functions take tensors alone
            return f"torch.tensor({self._print(expr)}, dtype=torch.float64)"
        return self.doprint_entry(expr)

    def _print_Add(self, expr, order=None):
        text = ""
        for term in _positive_first(expr):
            inlined_sum = term in self.inline and self.definitions[term].is_Add
            part = self.inline[term] if inlined_sum else self._print(term)
            if part.startswith("-") and text:
                text += f" - {part[1:]}"
            else:
                text += f" + {part}" if text else part
        return text

    def _print_Mul(self, expr):
        coefficient, rest = expr.as_coeff_Mul()
        top, bottom = [], []
        for factor in rest.as_ordered_factors():
            power = self.definitions[factor] if factor in self.inline else factor
            if isinstance(power, sp.Pow) and power.exp.is_Integer and power.exp < 0:
                inverse = sp.Pow(power.base, -power.exp, evaluate=False) if power.exp != -1 else power.base
                bottom.append(f"({self._print(inverse)})" if isinstance(inverse, sp.Pow) else self._tight(inverse))
            else:
                top.append(self._print(factor))
        sign = "-" if coefficient.is_negative else ""
        if abs(coefficient) != 1 or not top:
            top.insert(0, repr(abs(float(coefficient))))
        return sign + "*".join(top) + "".join(f"/{b}" for b in bottom)

    def _print_Pow(self, expr, rational=False):
        base, exponent = expr.base, expr.exp
        text = self._tight(base)
        if exponent == -sp.Rational(1, 2):
            return f"rsqrt({self.doprint_entry(base)})"
        if exponent == 2:
            return f"{self.module}.square({self.doprint_entry(base)})" if base in self.inline else f"{text}*{text}"
        if not exponent.is_Integer:
            return f"{text}**{self._print(exponent)}"
        n = abs(int(exponent))
        power = "*".join([text] * n) if n <= 4 else f"{text}**{n}"
        if exponent > 0:
            return power
        return f"1.0/{power}" if n == 1 or n > 4 else f"1.0/({power})"


class ReadingPrinter(StrPrinter):
    """SymPy's text with differences written b - a."""

    def _print_Add(self, expr, order=None):
        text = ""
        for term in _positive_first(expr):
            part = self._print(term)
            if part.startswith("-") and text:
                text += f" - {part[1:]}"
            else:
                text += f" + {part}" if text else part
        return text


def _positive_first(total: sp.Add) -> list[Any]:
    terms: Any = total.as_ordered_terms()
    return sorted(terms, key=lambda term: (term.could_extract_minus_sign(), term.is_number))
