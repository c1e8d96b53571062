"""Random smooth functions in both forms: what is generated agrees with autograd, and the backends with one another."""

import numpy as np
import sympy as sp
import torch
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from ndae.symbolic import ANCHOR, Function, point

close = torch.testing.assert_close
# No shrinking: a failing function is small as it is, and each try of another one costs a derivation.
quick = settings(
    max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, phases=[Phase.generate]
)
T, P = sp.symbols("t p")


@st.composite
def smooth(draw, symbols):
    """An expression of moderate size that is smooth and of order one wherever its symbols are."""
    leaf = st.one_of(
        st.sampled_from(symbols), st.sampled_from(symbols), st.integers(-3, 3).map(sp.Integer), st.just(sp.sqrt(2))
    )
    branch = lambda inner: st.one_of(  # noqa: E731
        st.tuples(inner, inner).map(lambda a: a[0] + a[1]),
        st.tuples(inner, inner).map(lambda a: a[0] * a[1]),
        st.tuples(inner, inner).map(lambda a: a[0] / (2 + sp.sin(a[1]))),
        st.tuples(inner, inner).map(lambda a: sp.atan2(a[0], 2 + a[1] ** 2)),
        inner.map(lambda a: sp.sqrt(1 + a**2)),
        inner.map(lambda a: (1 + a**2) ** sp.Rational(-3, 2)),
        inner.map(lambda a: sp.sin(a) ** 3),
        inner.map(lambda a: sp.exp(sp.tanh(a))),
        inner.map(lambda a: sp.log(2 + sp.cos(a))),
    )
    return draw(st.recursive(leaf, branch, max_leaves=8))


@st.composite
def functions(draw, timed=True):
    """A plain list or a template over random tuples with anchors, a parameter, and perhaps time."""
    timed = timed and draw(st.booleans())
    extras = [P] + ([T] if timed else [])
    m = draw(st.integers(1, 2))
    if draw(st.booleans()):
        states = list(sp.symbols(f"x0:{draw(st.integers(1, 4))}"))
        expressions = [draw(smooth(states + extras)) + 0.3 * states[i % len(states)] for i in range(m)]
        expressions[0] += sum(states) * sum(extras)  # every symbol is used
        value = draw(st.floats(0.5, 2.0))
        return Function(expressions, states, {P: value}, T if timed else None)
    k, dim = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    points = [point(name, dim) for name in "abc"[:k]]
    coordinates = [s for p in points for s in p]
    expressions = [draw(smooth(coordinates + extras)) + coordinates[i % dim] for i in range(m)]
    expressions[0] += sum(coordinates) * sum(extras)
    slot = st.integers(0, 5)
    over = draw(st.lists(st.lists(slot, min_size=k, max_size=k, unique=True).map(tuple), min_size=1, max_size=4))
    if k > 1 and draw(st.booleans()):
        over[0] = (draw(st.sampled_from([ANCHOR, "wall"])), *over[0][1:])
    value = draw(st.lists(st.floats(0.5, 2.0), min_size=len(over), max_size=len(over)))
    wall = draw(st.lists(st.floats(-1, 1), min_size=dim, max_size=dim))
    return Function.template(expressions, points, over, 6, {P: value}, {"wall": wall}, T if timed else None)


def states(function, seed):
    random = np.random.default_rng(seed)
    y, v, u = random.normal(size=(3, 2, function.n_states))
    w = random.normal(size=(2, function.n_residuals))
    return y, v, u, w, (0.3 if function.time is not None else None)


@quick
@given(functions(), st.integers(0, 99))
def test_first_derivatives(function, seed):
    f = function.torch().double()
    y, v, _, w, t = states(function, seed)
    y, v, w = map(torch.as_tensor, (y, v, w))
    exact = torch.func.vmap(torch.func.jacrev(lambda y: f.residual(y, t)))(y)
    close(f.jacobian(y, t), exact)
    close(f.jvp(y, v, t), (exact @ v.unsqueeze(-1)).squeeze(-1))
    close(f.vjp(y, w, t), (exact.mT @ w.unsqueeze(-1)).squeeze(-1))
    step = 1e-6
    difference = (f.residual(y + step * v, t) - f.residual(y - step * v, t)) / (2 * step)
    close(f.jvp(y, v, t), difference, rtol=1e-5, atol=1e-5)
    c, local = f.linearise(y, t)
    close(c, f.residual(y, t))
    close(f.apply_jacobian(local, v), f.jvp(y, v, t))
    close(f.apply_transpose(local, w), f.vjp(y, w, t))


@quick
@given(functions(), st.integers(0, 99))
def test_second_derivatives(function, seed):
    f = function.torch().double()
    y, v, u, w, t = states(function, seed)
    y, v, u, w = map(torch.as_tensor, (y, v, u, w))
    hessian = torch.func.vmap(torch.func.hessian(lambda y, w: (f.residual(y, t) * w).sum()))(y, w)
    close(f.hvp(y, w, u, t), (hessian @ u.unsqueeze(-1)).squeeze(-1))
    close(f.penalty(y, t), f.vjp(y, f.residual(y, t), t))
    close(f.penalty_jvp(y, v, t), f.vjp(y, f.jvp(y, v, t), t) + f.hvp(y, f.residual(y, t), v, t))


@quick
@given(functions(), st.integers(0, 99))
def test_time_derivatives_along_an_analytic_curve(function, seed):
    """q(s) = y + v sin s: q' = v cos s, q'' = −v sin s, so that ċ and c̈ at s are known by the chain rule."""
    f = function.torch().double()
    y, v, _, _, t = states(function, seed)
    y, v = map(torch.as_tensor, (y, v))
    s = torch.tensor(0.4, dtype=y.dtype)

    def along(s):
        return f.residual(y + v * s.sin(), t + s if t is not None else None)

    def rate(s):
        return torch.func.jvp(along, (s,), (torch.ones_like(s),))[1]

    q, speed, acceleration = y + v * s.sin(), v * s.cos(), -v * s.sin()
    at = t + s if t is not None else None
    close(f.velocity(q, speed, at), rate(s))
    close(f.jvp(q, acceleration, at) + f.curvature(q, speed, at), torch.func.jvp(rate, (s,), (torch.ones_like(s),))[1])


@quick
@given(functions(), st.integers(0, 99))
def test_gram_blocks_rebuild_the_dense_product(function, seed):
    f = function.torch().double()
    y, *_, t = states(function, seed)
    y = torch.as_tensor(y)
    metric = torch.as_tensor(np.random.default_rng(seed).uniform(0.5, 2.0, function.n_points))
    jacobian = f.jacobian(y, t)
    dense = jacobian @ torch.diag(metric.repeat_interleave(f.dim)) @ jacobian.mT
    diagonal, off = f.gram_blocks(y, metric, t)
    n, m = f.n_instances, f.n_local
    rebuilt = torch.zeros(2, n, n, m, m, dtype=y.dtype)
    rebuilt[:, range(n), range(n)] = diagonal
    for p, (i, j) in enumerate(function.structure.pairs):
        rebuilt[:, i, j], rebuilt[:, j, i] = off[:, p], off[:, p].mT
    close(rebuilt.transpose(-2, -3).reshape(2, n * m, n * m), dense)


@settings(quick, max_examples=12)
@given(functions(), st.integers(0, 99))
def test_torch_jax_and_numpy_are_one(function, seed):
    import jax

    f, h = function.torch().double(), function.numpy()
    y, v, u, w, t = states(function, seed)

    def everything(form, y, v, u, w):
        return (
            *form.linearise(y, t),
            form.vjp(y, w, t),
            form.hvp(y, w, u, t),
            form.curvature(y, v, t),
            form.velocity(y, v, t),
            form.penalty_jvp(y, v, t),
            form.jacobian(y, t),
            *form.gram_blocks(y, None, t),
        )

    with jax.enable_x64(True):
        g = function.jax()
        by_jax = jax.jit(lambda *arrays: everything(g, *arrays))(y, v, u, w)
    by_torch = everything(f, *map(torch.as_tensor, (y, v, u, w)))
    for a, b, c in zip(by_torch, by_jax, everything(h, y, v, u, w), strict=True):
        assert a.shape == b.shape == c.shape
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(c, a, rtol=1e-9, atol=1e-9)


@quick
@given(functions(), st.integers(0, 99))
def test_a_template_is_its_instances_written_out(function, seed):
    """The written-out list, evaluated by SymPy itself, is the residual."""
    f = function.torch().double()
    y, *_, t = states(function, seed)
    symbols = sp.symbols(f"q0:{function.n_states}", real=True)
    written = function.expanded(symbols)
    values = dict(zip(symbols, y[0], strict=True)) | ({T: t} if t is not None else {})
    expected = [float(e.subs(values).evalf()) for e in written]
    np.testing.assert_allclose(f.residual(torch.as_tensor(y[0]), t), expected, rtol=1e-9, atol=1e-9)
