"""The torch form: transforms, second-order gradients, compilation, dtypes, learning, copies."""

import copy
import io
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import torch

from ndae.symbolic import Constraint, Function, library, point
from tests.counting import n_calls
from tests.symbolic.cases import CASES

close = torch.testing.assert_close


@pytest.fixture(params=["plain", "timed", "chain", "two residuals", "stencil"])
def case(request):
    return CASES[request.param]


def test_second_order_gradients(case):
    f, t = case.torch, case.t
    y, v, _, w = [torch.as_tensor(a, dtype=torch.float64).requires_grad_() for a in case.arrays((2,))]
    for call, inputs in [
        (lambda y: f.residual(y, t), (y,)),
        (lambda y, v: f.jvp(y, v, t), (y, v)),
        (lambda y, w: f.vjp(y, w, t), (y, w)),
        (lambda y: f.linearise(y, t)[1], (y,)),
        (lambda y: f.gram_blocks(y, None, t)[0], (y,)),
        (lambda y: f.penalty(y, t), (y,)),
    ]:
        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs)


def test_functional_transforms(case):
    f, t = case.torch, case.t
    y, v, _, w = [torch.as_tensor(a) for a in case.arrays()]
    dense = f.jacobian(y, t)
    close(torch.func.vmap(lambda y: f.residual(y, t))(y), f.residual(y, t))
    close(torch.func.vmap(lambda y: f.jacobian(y, t))(y), dense)
    close(torch.func.vmap(torch.func.jacfwd(lambda y: f.residual(y, t)))(y), dense)
    close(torch.func.jvp(lambda y: f.residual(y, t), (y,), (v,))[1], f.jvp(y, v, t))
    close(torch.func.vjp(lambda y: f.residual(y, t), y)[1](w)[0], f.vjp(y, w, t))
    blocks = torch.func.vmap(lambda y: f.gram_blocks(y, None, t))(y)
    for mapped, batched in zip(blocks, f.gram_blocks(y, None, t), strict=True):
        close(mapped, batched)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_of_the_state_decides(case, dtype):
    y, v, u, w = [torch.as_tensor(a, dtype=dtype) for a in case.arrays()]
    f = case.function.torch()  # built in the default dtype
    for result in (f.residual(y, case.t), f.vjp(y, w, case.t), f.hvp(y, w, u, case.t), f.curvature(y, v, case.t)):
        assert result.dtype == dtype
    assert f.local_jacobian(y, case.t).dtype == dtype
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-12, torch.bfloat16: 0.5}[dtype]
    reference = case.torch.residual(torch.as_tensor(case.arrays()[0]), case.t)
    close(f.residual(y, case.t).double(), reference, rtol=tolerance, atol=tolerance)


def test_a_detour_over_float32_loses_no_digits():
    f = library.chain(3, 2, [0.1, 0.2, 0.3]).torch()
    y = torch.zeros(6, dtype=torch.float64)
    assert torch.equal(f.half().float().double().residual(y), torch.tensor([-0.1, -0.2, -0.3], dtype=torch.float64))
    assert torch.equal(library.chain(3, 2, [0.1, 0.2, 0.3]).torch().residual(y), f.residual(y))


def test_moving_takes_tables_and_parameters_along():
    a, b = point("a", 2), point("b", 2)
    L, g = sp.symbols("L g")
    expression = (b - a).dot(b - a) - L**2 + g
    f = Constraint.template(
        [expression], [a, b], [("left", 0), (0, 1)], anchors={"left": (1, 2)}, parameters={L: [1.0, 2.0], g: 0.5}
    )
    f = f.torch(learn=["g"]).to("meta")
    assert {t.device.type for t in [*f.buffers(), *f.parameters()]} == {"meta"}
    assert f.residual(torch.empty(3, 4, device="meta")).shape == (3, 2)
    assert f.linearise(torch.empty(3, 4, device="meta"))[1].device.type == "meta"


def test_parameters_by_call_by_default_and_learned():
    chain = library.chain(3, 2, 2.0)
    f, y = chain.torch().double(), torch.randn(4, 6, dtype=torch.float64)
    base = f.residual(y) + 2.0
    assert not list(f.parameters()) and not f.state_dict()
    close(f.residual(y, parameters={"length": 0.5}), base - 0.5)
    each = torch.rand(4, 3, dtype=torch.float64)
    close(f.residual(y, parameters={"length": each}), base - each)
    close(f.residual(y, parameters={"length": each[0]}), base - each[0])
    learning = chain.torch(learn=["length"]).double()
    assert [n for n, _ in learning.named_parameters()] == ["learned.length"]
    learning.residual(y).square().sum().backward()
    close(learning.learned["length"].grad, (-2 * f.residual(y)).sum())
    moved = torch.func.functional_call(learning, {"learned.length": torch.tensor(0.5, dtype=torch.float64)}, (y,))
    close(moved, base - 0.5)


def test_plain_parameters_and_time_broadcast_against_the_batch():
    case = CASES["timed"]
    f = case.torch
    y = torch.as_tensor(case.arrays((3,))[0])
    rate, t = torch.rand(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    together = f.residual(y, t, {"rate": rate})
    close(together, torch.stack([f.residual(y[i], t[i], {"rate": rate[i]}) for i in range(3)]))
    close(
        f.vjp(y, together, t, {"rate": rate}),
        (f.jacobian(y, t, {"rate": rate}).mT @ together.unsqueeze(-1)).squeeze(-1),
    )
    one = f.residual(y[0], t, {"rate": rate})  # one state, many times
    close(one, torch.stack([f.residual(y[0], t[i], {"rate": rate[i]}) for i in range(3)]))


def test_learning_recovers_a_length():
    torch.manual_seed(0)
    angles = torch.rand(50, 3, dtype=torch.float64) * 6.3
    y = (1.7 * torch.stack([angles.cos(), angles.sin()], -1)).cumsum(-2).flatten(-2)
    f = library.chain(3).torch(learn=["length"]).double()
    optimizer = torch.optim.SGD(f.parameters(), lr=0.2)
    for _ in range(50):
        optimizer.zero_grad()
        f(y).square().mean().backward()
        optimizer.step()
    close(f.learned["length"].item(), 1.7)


def test_gradients_are_finite_where_two_points_meet():
    f = library.chain(2).torch().double()
    y = torch.tensor([0.0, 0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    v, w = torch.ones(4, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    close(f.residual(y), -torch.ones(2, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(f.residual(y).sum(), y, create_graph=True)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert torch.isfinite(torch.autograd.grad(gradient.sum(), y)[0]).all()
    for result in (f.jacobian(y), f.vjp(y, w), f.penalty(y), f.jvp(y, v)):
        assert torch.equal(result, torch.zeros_like(result))
    for result in (f.hvp(y, w, v), f.curvature(y, v), f.penalty_jvp(y, v), *f.gram_blocks(y)):
        assert torch.isfinite(result).all()
    for level, size in ((library.chain(2).velocity_level(), 8), (library.chain(2).acceleration_level(), 12)):
        g = level.torch().double()
        state = torch.cat([y.detach(), torch.ones(size - 4, dtype=torch.float64)]).requires_grad_()
        assert torch.isfinite(torch.autograd.grad(g.residual(state).sum(), state)[0]).all()


def test_a_samples_result_never_depends_on_its_neighbours():
    f = CASES["two residuals"].torch
    y = torch.as_tensor(CASES["two residuals"].arrays((6,))[0])
    spoiled = y.clone()
    spoiled[1:] = torch.nan
    for name in ("residual", "penalty", "local_jacobian", "jacobian"):
        assert torch.equal(getattr(f, name)(spoiled)[0], getattr(f, name)(y)[0])
    y.requires_grad_()
    gradient = torch.autograd.grad(f.residual(y)[0].sum(), y)[0]
    assert gradient[0].abs().sum() > 0 and gradient[1:].abs().sum() == 0


def test_copies_pickles_and_saved_weights():
    f = library.chain(3).torch(learn=["length"]).double()
    y = torch.randn(2, 6, dtype=torch.float64)
    with torch.no_grad():
        f.learned["length"].fill_(1.25)
    for twin in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert torch.equal(twin.residual(y), f.residual(y)) and torch.equal(twin.penalty(y), f.penalty(y))
        twin.float()
        assert twin.residual(y.float()).dtype == torch.float32 and f.residual(y).dtype == torch.float64
    buffer = io.BytesIO()
    torch.save(f.state_dict(), buffer)
    buffer.seek(0)
    other = library.chain(3).torch(learn=["length"]).double()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other.residual(y), f.residual(y))


def test_source_does_not_grow_and_five_thousand_instances_compile_with_little_more_work_than_one():
    def compiled(n):
        made = []

        def make():
            chain = library.chain(n)
            made.extend([chain.torch(), chain.source("torch")])

        return n_calls(make), *made

    compiled(200)  # SciPy, which the rank check of many takes, is imported
    one, _, short = compiled(1)
    many, f, long = compiled(5000)
    assert long == short
    # 400,000 calls make the code of one; of each other only tables and the rank check, with 24.
    assert many < one + 50 * 5000
    y = torch.randn(2, 10_000)
    assert f.residual(y).shape == (2, 5000) and f.vjp(y, f.residual(y)).shape == y.shape


COMPILED = """
    import sys, torch
    from ndae.symbolic import library
    from tests.symbolic.cases import CASES
    backend, names = sys.argv[1], sys.argv[2:]
    for name in names:
        case = CASES[name]
        learn = list(case.function.parameters)[:1]
        f = case.function.torch(learn=learn).double()
        y, v, u, w = [torch.as_tensor(a).requires_grad_() for a in case.arrays((4,))]

        def everything(y, v, u, w):
            c, local = f.linearise(y, case.t)
            diagonal, off = f.gram_from(local)
            return (c, local, diagonal, off, f.residual(y, case.t), f.jvp(y, v, case.t), f.vjp(y, w, case.t),
                    f.hvp(y, w, u, case.t), f.curvature(y, v, case.t), f.penalty(y, case.t), f.penalty_jvp(y, v,
                    case.t), f.apply_transpose(local, w), f.jacobian(y, case.t))

        torch._dynamo.reset()
        compiled = torch.compile(everything, fullgraph=True, backend=backend)
        results, expected = compiled(y, v, u, w), everything(y, v, u, w)
        inputs = [y, v, u, w, *f.parameters()]
        for a, b in zip(results, expected, strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(
            torch.autograd.grad(sum(r.sum() for r in results), inputs),
            torch.autograd.grad(sum(r.sum() for r in expected), inputs),
            strict=True,
        ):
            torch.testing.assert_close(a, b)
    print("compiled", len(names))
"""


def in_a_process_of_its_own(*arguments):
    """The tests' shape checks can't be traced by torch.compile, so this runs where they are off."""
    command = [sys.executable, "-c", textwrap.dedent(COMPILED), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "compiled" in done.stdout


def test_compiles_without_graph_breaks():
    in_a_process_of_its_own("aot_eager", "timed", "chain")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_graph_breaks_in_every_form(backend):
    in_a_process_of_its_own(backend, "plain", "timed", "chain", "stencil", "two residuals", "water")


def test_linear_constraints_keep_their_batch_shape():
    """Entries that depend on no state, or on parameters alone, are broadcast against the batch."""
    x, y, p, q = sp.symbols("x y p q")
    f = Function([p * x + q * y, 2 * x], [x, y], {p: 1.0, q: None}).torch().double()
    state = torch.randn(5, 2, dtype=torch.float64)
    assert f.jacobian(state, parameters={"q": 3.0}).shape == (5, 2, 2)
    close(f.jacobian(state, parameters={"q": 3.0})[0], torch.tensor([[1.0, 3.0], [2.0, 0.0]], dtype=torch.float64))
    assert torch.equal(f.hvp(state, state, state, parameters={"q": 3.0}), torch.zeros_like(state))
    divergence = library.divergence_free(3, 3, 0.5).torch().double()
    field = torch.randn(2, 7, 18, dtype=torch.float64)
    assert divergence.local_jacobian(field).shape == (2, 7, 8, 1, 6)
    u = np.ones((2, 3, 3, 2)) * [1.0, -2.0]
    assert divergence.residual(torch.as_tensor(u.reshape(2, 18))).abs().max() == 0
