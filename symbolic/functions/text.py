"""What was derived and generated, as text: to read, and as stand-alone files."""

import inspect
import re
import textwrap
from importlib import resources
from typing import Any

import numpy as np
import sympy as sp
from sympy.printing.str import StrPrinter

from ndae.symbolic.backends.loading import generated_functions, specification
from ndae.symbolic.expressions.names import check_torch_names, in_docstring, literal
from ndae.symbolic.expressions.written import lines_of
from ndae.symbolic.ground.words import check_known, listed

BACKENDS = ("torch", "jax", "numpy")
_OF_LEVELS = ("residual", "local_jacobian", "jvp", "vjp")  # shown of the hidden levels
_MARK = "# --- runtime"
_RUNTIME = {"torch": "_runtime_torch.py", "jax": "_runtime_array.py", "numpy": "_runtime_array.py"}


def describe(function, levels: int) -> str:
    """Sizes, structure, residual, Jacobian and hidden levels of a function, as lines of text."""
    _check_levels(levels)
    f, d = function, function.derivation
    lines = [f"{f.name}: {_count(f.n_residuals, 'residual')} of {_count(f.n_states, 'state')}"]
    if f.is_template:
        lines += [
            f"  template    {_count(f.n_local, 'expression')} over {_count(len(f.points), 'local point')} of "
            f"dimension {f.dim}"
        ]
        lines += [f"  laid over   {_count(f.n_instances, 'instance')} on {_count(f.n_points, 'point')}"]
    else:
        lines += [f"  states      {', '.join(f.states)}"]
    if f.parameters:
        lines += ["  parameters  " + ", ".join(f"{name} = {_value(value)}" for name, value in f.parameters.items())]
    if f.time is not None:
        lines += [f"  time        {f.time}"]
    blocks = f"{f.n_instances} x {f.n_instances} blocks of {f.n_local} x {f.n_local}"
    lines += [f"  J J^T       {f.structure.kind.replace('_', '-')}, {blocks}"]

    names = [f"c{i}" if f.n_local > 1 else "c" for i in range(f.n_local)]
    lines += ["", "residual c" + (" of one instance" if f.is_template else "")]
    lines += lines_of([f"{name} = " for name in names], f.expressions, _math)
    lines += ["", "Jacobian J"]
    heads, programs = [f"d{name}/d{x} = " for name in names for x in f.coordinates], f.programs
    slopes = d.lines(programs.local_jacobian(), heads, lambda: [e for row in d.jacobian for e in row], _math)
    lines += [line for line in slopes if not line.endswith(" = 0")]
    if levels >= 1:
        lines += ["", "velocity level dc/dt = J v" + (" + ∂c/∂t" if f.time is not None else "")]
        lines += d.lines(programs.velocity(), [f"d{name}/dt = " for name in names], lambda: d.velocity, _math)
    if levels >= 2:
        lines += ["", "acceleration level d²c/dt² = J a + curvature, with the curvature"]
        lines += d.lines(programs.curvature(), [f"{name}: " for name in names], lambda: d.curvature, _math)
    return "\n".join(lines) + "\n"


def source(function, backend: str, levels: int) -> str:
    """The generated functions of one instance, with those of the hidden levels, to read."""
    _check_backend(backend)
    _check_levels(levels)
    note = (
        "# split, split_rows, rows, columns and matrix take arrays apart and join them; a saved file spells them out.\n"
    )
    start = f"{_imports(backend)}\n\n{note}\n\n{_prelude(backend, 'rsqrt')}"
    parts = [start, _functions(function, backend, "")]
    for make, prefix in ((function.velocity_level, "velocity"), (function.acceleration_level, "acceleration"))[:levels]:
        try:
            parts.append(_functions(make(), backend, f"{prefix}_level_", _OF_LEVELS))
        except ValueError as error:  # too long to be written out
            parts.append(textwrap.fill(str(error), 110, initial_indent="# ", subsequent_indent="# ") + "\n")
    return "\n\n".join(parts)


def standalone(function, backend: str) -> str:
    """A Python file that offers `function` for one backend, without SymPy."""
    _check_backend(backend)
    if backend == "torch":
        check_torch_names(function)
    runtime = _read(_RUNTIME[backend]).split(_MARK, 1)[1].split("\n", 1)[1].strip()
    runtime = "\n\n".join([*map(inspect.getsource, (listed, check_known)), runtime])
    spec = specification(function)
    body = textwrap.indent("\n".join(f"{literal(key)}: {_literal(value)}," for key, value in spec.items()), "    ")
    local = generated_functions(function, backend)
    names = re.findall(r"^def (\w+)", local, flags=re.M)
    table = "FUNCTIONS = {" + ", ".join(f'"{n}": {n}' for n in names) + "}"
    if backend == "torch":
        make, joins = "function = TorchFunction(SPEC, FUNCTIONS)", ""
    else:
        make = "function = ArrayFunction(SPEC, FUNCTIONS, xp, scatter_add, as_array)"
        joins = "_joins = Joins(xp)\nsplit, split_rows = _joins.split, _joins.split_rows\n"
        joins += "rows, columns, matrix = _joins.rows, _joins.columns, _joins.matrix\n"
    sizes = f"{function.n_residuals} residual{'s' * (function.n_residuals != 1)} of {function.n_states} states"
    header = (
        f'"""{in_docstring(function.name)}: {sizes}, generated by ndae.\n\n'
        + "Use `function`: function.residual(y), function.jvp(y, v), ... Residual of one instance:\n\n"
        + "".join(f"    {in_docstring(_math(e))}\n" for e in function.expressions)
        + '"""\n\nfrom __future__ import annotations\n\n'
        + "from collections.abc import Collection, Iterable, Mapping, Sequence\n"
    )
    imports = "from importlib import import_module\n\nimport numpy as np\n" if backend != "torch" else "\n"
    prelude = _prelude(backend)
    if backend == "torch":
        prelude = prelude.replace("import torch\n", "import torch\nfrom torch import Tensor\n", 1)
    prelude = prelude.replace("import numpy as np\n", "")
    parts = [header + imports + prelude, runtime, joins, local, "SPEC = {\n" + body + "\n}", table, make]
    return "\n\n".join(part.rstrip("\n") + "\n" for part in parts if part)


class _ReadingPrinter(StrPrinter):
    """SymPy's text with differences written b - a."""

    def _print_Add(self, expr, order=None):
        terms: Any = expr.as_ordered_terms()
        text = ""
        for term in sorted(terms, key=lambda term: (term.could_extract_minus_sign(), term.is_number)):
            part = self._print(term)
            if part.startswith("-") and text:
                text += f" - {part[1:]}"
            else:
                text += f" + {part}" if text else part
        return text


def _math(expression: sp.Basic) -> str:
    return _ReadingPrinter().doprint(expression)


def _functions(function, backend: str, prefix: str, only: tuple[str, ...] | None = None) -> str:
    return re.sub(r"^def ", f"def {prefix}", generated_functions(function, backend, only), flags=re.M)


def _imports(backend: str) -> str:
    return {"torch": "import torch", "jax": "import jax\nimport jax.numpy as jnp", "numpy": "import numpy as np"}[
        backend
    ]


def _prelude(backend: str, only: str | None = None) -> str:
    text = _read(f"_prelude_{backend}.py")
    if only is None:
        return text
    found = re.search(rf"^def {only}\(.*?(?=^\S|\Z)", text, flags=re.M | re.S)
    assert found is not None, only
    return found.group(0).rstrip() + "\n"


def _read(name: str) -> str:
    return resources.files("ndae.symbolic.backends").joinpath(name).read_text(encoding="utf-8")


def _literal(value) -> str:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        inner = "".join(f"{literal(k)}: {_literal(v)},\n" for k, v in value.items())
        return "{\n" + textwrap.indent(inner, "    ") + "}" if value else "{}"
    text = repr(value)
    if not isinstance(value, (list, tuple)) or len(text) <= 100:
        return text
    lines = [""]
    for item in map(_literal, value):  # break between items alone, never inside of a text or number
        if lines[-1] and len(lines[-1]) + len(item) > 110:
            lines.append("")
        lines[-1] += f"{item}, "
    return text[0] + "\n" + textwrap.indent("\n".join(line.rstrip() for line in lines), "    ") + "\n" + text[-1]


def _check_levels(levels) -> None:
    if levels not in (0, 1, 2):
        raise ValueError(
            f"levels={levels!r}: expected 0 (residual), 1 (and velocity level) or 2 (and acceleration level)"
        )


def _check_backend(backend) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: expected one of {', '.join(BACKENDS)}")


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _value(value) -> str:
    if value is None:
        return "given per call"
    return f"{np.size(value)} values" if np.ndim(value) else f"{value:g}"
