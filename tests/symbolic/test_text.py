"""What is printed and saved: readable, of constant size, and running without SymPy; and what importing costs."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from ndae.symbolic import Constraint, library, parse_expression
from tests.symbolic.cases import CASES

ROOT = Path(__file__).parents[2]


def python(code, *arguments, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_describe_a_plain_list():
    circle = Constraint([parse_expression("sqrt(x**2 + y**2) - 1", ["x", "y"])], sp.symbols("x y"), name="circle")
    assert circle.describe() == textwrap.dedent(
        """\
        circle: 1 residual of 2 states
          states      x, y
          J J^T       block-diagonal, 1 x 1 blocks of 1 x 1

        residual c
          c = sqrt(x**2 + y**2) - 1

        Jacobian J
          dc/dx = x/sqrt(x**2 + y**2)
          dc/dy = y/sqrt(x**2 + y**2)

        velocity level dc/dt = J v
          dc/dt = (v_x*x + v_y*y)/sqrt(x**2 + y**2)

        acceleration level d²c/dt² = J a + curvature, with the curvature
          c: (v_x**2 + v_y**2)/sqrt(x**2 + y**2) - (v_x*x + v_y*y)**2/(x**2 + y**2)**(3/2)
        """
    )
    assert "velocity" not in circle.describe(0) and "acceleration" not in circle.describe(1)


def test_describe_a_template_with_time_and_parameters():
    text = CASES["stencil"].function.describe()
    for part in ("5 instances on 7 points", "k = 5 values", "time        t", "dc/dp_0 = k", "∂c/∂t", "sparse"):
        assert part in text
    assert (
        "length = 1" in library.chain(5).describe()
        and "block-tridiagonal, 5 x 5 blocks of 1 x 1" in library.chain(5).describe()
    )


@pytest.mark.parametrize("backend", ["torch", "jax", "numpy"])
@pytest.mark.parametrize("name", CASES)
def test_source_is_python_and_short(name, backend):
    function = CASES[name].function
    text = function.source(backend)
    tree = ast.parse(text)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert names[0] == "rsqrt" and {"residual", "jvp", "vjp", "hvp", "penalty_jvp"} <= set(names)
    assert "sympy" not in text and "sqrt(2)" not in text
    assert all(ast.get_docstring(node) for node in tree.body if isinstance(node, ast.FunctionDef))


def test_source_reads_like_the_formula():
    text = library.chain(3).source("torch")
    assert (
        textwrap.dedent(
            '''\
        def penalty(xs, length):
            """Jᵀ c"""
            a_0, a_1, b_0, b_1 = split(xs, 4)
            s0 = b_0 - a_0
            s1 = b_1 - a_1
            s2 = s0*s0 + s1*s1
            s3 = rsqrt(s2)
            s4 = s3*(s2*s3 - length)
            s5 = s1*s4
            s6 = s0*s4
            return columns([-s6, -s5, s6, s5], xs, 4)
        '''
        )
        in text
    )
    with_levels = library.chain(3).source("numpy", levels=2)
    assert "def velocity_level_residual(" in with_levels and "def acceleration_level_jvp(" in with_levels


STANDALONE = """
    import sys
    import numpy as np
    sys.path.insert(0, sys.argv[2])
    backend, t = sys.argv[1], float(sys.argv[3]) if sys.argv[3] != "None" else None
    if backend == "jax":
        import jax
        jax.config.update("jax_enable_x64", True)
    import saved
    f = saved.function
    given = np.load(sys.argv[2] + "/given.npz")
    y, v, u, w = (given[k] for k in "yvuw")
    if backend == "torch":
        import torch
        f = f.double()
        y, v, u, w = map(torch.as_tensor, (y, v, u, w))
    out = dict(residual=f.residual(y, t), vjp=f.vjp(y, w, t), hvp=f.hvp(y, w, u, t), curvature=f.curvature(y, v, t),
               jacobian=f.jacobian(y, t), penalty_jvp=f.penalty_jvp(y, v, t), gram=f.gram_blocks(y, None, t)[0])
    np.savez(sys.argv[2] + "/out.npz", **{k: np.asarray(a) for k, a in out.items()})
    # torch itself may load SymPy; the project and its helpers stay out
    assert not {"symbolic", "jaxtyping"} & set(sys.modules), "imported the package"
    assert backend == "torch" or "sympy" not in sys.modules
    text = open(sys.argv[2] + "/saved.py").read()
    assert "import sympy" not in text and "import ndae" not in text and "from ndae" not in text
"""


@pytest.mark.parametrize(
    "backend, name", [("torch", "stencil"), ("jax", "two residuals"), ("numpy", "timed"), ("numpy", "water")]
)
def test_saved_file_stands_alone(tmp_path, backend, name):
    case = CASES[name]
    assert case.function.save(tmp_path / "saved.py", backend) == tmp_path / "saved.py"
    y, v, u, w = case.arrays()
    np.savez(tmp_path / "given.npz", y=y, v=v, u=u, w=w)
    python(STANDALONE, backend, tmp_path, case.t, cwd=tmp_path)
    out, f, t = np.load(tmp_path / "out.npz"), case.function.numpy(), case.t
    expected = dict(
        residual=f.residual(y, t), vjp=f.vjp(y, w, t), hvp=f.hvp(y, w, u, t), curvature=f.curvature(y, v, t)
    )
    expected |= dict(jacobian=f.jacobian(y, t), penalty_jvp=f.penalty_jvp(y, v, t), gram=f.gram_blocks(y, None, t)[0])
    for key, value in expected.items():
        np.testing.assert_allclose(out[key], value, rtol=1e-12, atol=1e-12, err_msg=key)


def test_names_of_states_and_functions_cannot_break_the_file(tmp_path):
    odd = sp.symbols("x y", cls=sp.Symbol)
    quote = sp.Symbol('it\'s "a" \\ name')
    f = Constraint([odd[0] * quote - 1], [odd[0], quote], name='"""\nimport os  # \\')
    for backend in ("torch", "jax", "numpy"):
        ast.parse(f.save(tmp_path / "odd.py", backend).read_text(encoding="utf-8"))
    namespace = {}
    exec(compile(f.save(tmp_path / "odd.py", "numpy").read_text(encoding="utf-8"), "odd.py", "exec"), namespace)
    np.testing.assert_allclose(namespace["function"].residual(np.array([2.0, 3.0])), [5.0])
    assert "os" not in namespace


def test_importing_and_printing_load_neither_torch_nor_jax():
    python(
        """
        import sys
        import sympy
        from ndae.symbolic import Constraint, parse_expression
        f = Constraint([parse_expression("sqrt(x**2 + y**2) - 1", ["x", "y"])], sympy.symbols("x y"))
        text = f.describe(2) + f.source("torch", 2) + f.source("jax") + f.source("numpy")
        assert not {"torch", "jax", "jaxlib", "lightning", "diffrax"} & set(sys.modules)
        """
    )
