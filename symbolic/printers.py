"""SymPy's Python printer, taught the names of torch, JAX and NumPy."""

import sympy as sp
from sympy.printing.precedence import PRECEDENCE, precedence
from sympy.printing.pycode import PythonCodePrinter

_TORCH = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh"}
_TORCH |= {"atanh": "arctanh", "atan2": "arctan2"}

#: Module prefix of each backend; the inverse functions are called arcsin, ... in all three.
MODULES = {"torch": "torch", "jax": "jnp", "numpy": "np"}


class Rsqrt(sp.Function):
    """1/√s, printed as a call of the helper `rsqrt`, which is 1 where s = 0."""

    nargs = 1


class ArrayPrinter(PythonCodePrinter):
    """Elementwise expressions of one backend, constants as Python floats, small powers as products."""

    def __init__(self, backend: str):
        super().__init__({"fully_qualified_modules": False, "allow_unknown_functions": False})
        self.module = MODULES[backend]

    def _constant(self, expr):
        return repr(float(expr))

    def _print(self, expr, **kwargs):
        if isinstance(expr, sp.Expr) and expr.is_number:
            return self._constant(expr)
        return super()._print(expr, **kwargs)

    def _print_Function(self, expr):
        name = expr.func.__name__
        arguments = ", ".join(self._print(a) for a in expr.args)
        return f"{self.module}.{_TORCH.get(name, name)}({arguments})"

    def _print_Rsqrt(self, expr):
        return f"rsqrt({self._print(expr.args[0])})"

    def _print_Add(self, expr, order=None):
        terms = sorted(expr.as_ordered_terms(), key=lambda term: term.could_extract_minus_sign())  # b - a, never -a + b
        text = self._print(terms[0])
        for term in terms[1:]:
            part = self._print(term)
            text += f" - {part[1:]}" if part.startswith("-") else f" + {part}"
        return text

    def _print_Pow(self, expr, rational=False):
        base, exponent = expr.base, expr.exp
        text = self.parenthesize(base, PRECEDENCE["Pow"] + 1)
        if exponent.is_Integer:
            n = abs(int(exponent))
            if n == 2 and not base.is_Symbol:
                power = f"{self.module}.square({self._print(base)})"
            elif n <= 4 and base.is_Symbol:
                power = "*".join([text] * n)
            else:
                power = f"{text}**{n}"
            if exponent > 0:
                return power
            return f"1.0/({power})" if n > 1 and base.is_Symbol and n <= 4 else f"1.0/{power}"
        return f"{text}**{self.parenthesize(exponent, PRECEDENCE['Pow'])}"

    def _print_Mul(self, expr):
        sign, coefficient, numerator, denominator = "", sp.Integer(1), [], []
        for factor in expr.as_ordered_factors():
            if factor.is_number:
                coefficient *= factor
            elif factor.is_Pow and factor.exp.is_Integer and factor.exp < 0:
                denominator.append(sp.Pow(factor.base, -factor.exp, evaluate=False) if factor.exp != -1 else factor.base)
            else:
                numerator.append(factor)
        if coefficient.is_negative:
            sign, coefficient = "-", -coefficient
        level = PRECEDENCE["Mul"]
        top = [self._constant(coefficient)] if coefficient != 1 or not numerator else []
        top += [self._factor(f, level) for f in numerator]
        text = sign + "*".join(top)
        for f in denominator:
            inner = self._print(f)
            text += f"/{inner}" if f.is_Symbol or f.is_Function else f"/({inner})"
        return text

    def _factor(self, factor, level):
        text = self._print(factor)
        return f"({text})" if precedence(factor) < level or "/" in text and factor.is_Pow else text
