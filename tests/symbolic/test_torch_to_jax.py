"""Torch modules in JAX: values, derivatives and weights' gradients are torch's, and what can't be converted says so."""

import copy
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ndae.forces import GraphForce, MLPForce, MLPPotential, PairPotential, PotentialForce
from ndae.symbolic.backends.torch_by_host import HostModule
from ndae.symbolic.backends.torch_to_jax import ConvertedModule, converted

pytestmark = pytest.mark.usefixtures("double_precision")
CLOSE = 1e-12  # of the largest number of its kind
POINTS = torch.tensor([[0.31, -0.47], [0.9, 0.23]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Written(nn.Module):
    """A module of a function of itself and x."""

    def __init__(self, forward, **parts):
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self._forward(self, x)


def mlp(activation, *between, out=2):
    return nn.Sequential(nn.Linear(2, 5), activation, *between, nn.Linear(5, out))


def tokens(attention):
    return Written(lambda m, x: m.mixed(m.read(x).view(-1, 3, 4)).flatten(1), read=nn.Linear(2, 12), mixed=attention)


def of_states(force, nodes=2, dim=2):
    """A force at states given flat, of the two arguments spread over them."""
    spread = torch.randn(2, 2 * nodes * dim)
    return Written(lambda m, x: m.force(0.0, (x @ spread).unflatten(-1, (nodes, 2 * dim))).flatten(1), force=force)


def awake(module):
    """A module whose weights are not zero."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return module


def in_place(m, x):
    out = torch.zeros(len(x), 4)
    out[:, 1] = x[:, 0] ** 2
    out[:, 2:] += x
    out.mul_(2)
    out[:, 0].add_(x[:, 1])
    return out.sin()


def slope_inside(m, x):
    q = x if x.requires_grad else x.detach().requires_grad_()
    return torch.autograd.grad(m.inner(q).sum(), q, create_graph=True)[0]


def shapes(m, x):
    y = torch.cat([x, torch.stack([x[:, 0], x[:, 1] * x[:, 0]], -1).flip(-1), x.roll(1, -1)], -1)
    first, second, third = y.chunk(3, -1)
    spread = x[..., None, :].expand(-1, 2, -1).permute(0, 2, 1).transpose(1, 2).sum(1)
    return first * x.unbind(-1)[0][:, None] * spread + second.split(1, -1)[1] * F.pad(third, (1, 0))[:, 1:]


def indices(m, x):
    rows, i = torch.arange(len(x))[:, None], torch.tensor([0, 2])
    out = torch.zeros(len(x), 3).index_add(1, i, x.sin())
    out = out.scatter_add(1, torch.tensor([[1, 1]]).expand(len(x), 2), x)
    out = out.index_put((rows, i[None]), x.exp(), accumulate=True)
    return out * x[:, torch.tensor([0, 1, 1])] * x.gather(1, torch.tensor([[1, 0, 1]]).expand(len(x), 3))


def reductions(m, x):
    y = torch.stack(
        [x.sum(-1), x.mean(-1), x.amax(-1), x.amin(-1), x.prod(-1), x.norm(dim=-1), x.var(-1), x.std(-1)]
        + [torch.linalg.vector_norm(x, order, -1) for order in (1, 3, torch.inf)]
        + [x.max(-1).values, x.logsumexp(-1), x.cumsum(-1)[:, 1], x.cumprod(-1)[:, 1]],
        -1,
    )
    return y * F.normalize(x, dim=-1)[:, :1] + x.sort(-1).values[:, :1] + x.topk(1).values


def powers(m, x):
    square = x * x + 1
    parts = [x**3, square**1.7, 2.0**x, square**x, x.clamp(-0.3, 0.4), x.abs(), x.sign() * x, x.remainder(0.7)]
    parts += [
        torch.where(x > 0, x, x**2),
        torch.minimum(x, x.flip(-1)),
        torch.maximum(x, x**2),
        torch.lerp(x, x * x, 0.3),
    ]
    parts += [x.masked_fill(x > 0.8, 0.5) * torch.logical_and(x > -1, x < 1), torch.addcmul(x, x, x, value=0.5)]
    return torch.cat(parts, -1)


def functions(m, x):
    names = ["sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "atanh", "exp", "expm1"]
    names += ["erf", "erfc", "sinc"]
    square = x * x + 1
    parts = [getattr(torch, name)(0.4 * x) for name in names] + [torch.atan2(x, x.flip(-1) + 3), square.log()]
    parts += [
        square.log1p(),
        square.rsqrt(),
        torch.logaddexp(x, x * x),
        torch.xlogy(square, square),
        torch.hypot(x, square),
    ]
    return torch.cat(parts, -1)


def matrices(m, x):
    a = x[:, :, None] * x[:, None] + 2 * torch.eye(2)
    factor = torch.linalg.cholesky(a)
    parts = [torch.linalg.solve(a, x), torch.linalg.inv(a)[:, 0], factor[:, 1], torch.linalg.det(a)[:, None]]
    parts += [torch.linalg.slogdet(a).logabsdet[:, None], torch.cholesky_solve(x[..., None], factor)[..., 0]]
    parts += [
        torch.linalg.cross(F.pad(x, (0, 1)), F.pad(x.sin(), (1, 0), value=0.3)),
        a.tril().diagonal(dim1=1, dim2=2),
    ]
    return torch.cat(parts, -1)


def statistics(module):
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return module.eval()


ACTIVATIONS = [
    nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Softplus(2.0, 1.0), nn.Tanh(), nn.ELU(0.7), nn.SELU(),
    nn.CELU(0.5), nn.LeakyReLU(), nn.Hardtanh(), nn.Mish(), nn.Sigmoid(), nn.LogSigmoid(), nn.Hardswish(),
    nn.Softsign(), nn.Tanhshrink(), nn.Softshrink(0.1), nn.PReLU(), nn.Softmax(-1), nn.LogSoftmax(-1),
]  # fmt: skip
MODULES = {f"{i} {activation}": lambda a=activation: mlp(a) for i, activation in enumerate(ACTIVATIONS)} | {
    "one output": lambda: Written(lambda m, x: m.net(x)[:, 0], net=mlp(nn.Tanh())),
    "gated": lambda: nn.Sequential(nn.Linear(2, 6), nn.GLU(-1)),
    "layer norm": lambda: mlp(nn.Tanh(), nn.LayerNorm(5)),
    "group norm": lambda: nn.Sequential(nn.Linear(2, 6), nn.GroupNorm(2, 6), nn.Tanh()),
    "batch norm": lambda: statistics(mlp(nn.Tanh(), nn.BatchNorm1d(5))),
    "dropout asleep": lambda: mlp(nn.Dropout(0.5)).eval(),
    "bilinear": lambda: Written(lambda m, x: m.b(x, x.sin()), b=nn.Bilinear(2, 2, 3)),
    "einsum": lambda: Written(
        lambda m, x: torch.einsum("bi,ij,bj->b", x, m.w, x.sin()), w=nn.Parameter(torch.randn(2, 2))
    ),
    "attention": lambda: tokens(Written(lambda m, y: m.a(y, y, y)[0], a=nn.MultiheadAttention(4, 2, batch_first=True))),
    "recurrent": lambda: Written(lambda m, x: m.g(x[..., None])[0].flatten(1), g=nn.GRU(1, 3, batch_first=True)),
    "convolution": lambda: Written(
        lambda m, x: m.back(m.c(x[:, None])).flatten(1),
        c=nn.Conv1d(1, 2, 2, padding=1),
        back=nn.ConvTranspose1d(2, 2, 2),
    ),
    "embedding": lambda: Written(
        lambda m, x: (m.e(torch.arange(3))[None] * x[:, :1, None]).sum(-1), e=nn.Embedding(3, 4)
    ),
    "weights of weights": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), nn.Tanh()),
    "in place": lambda: Written(in_place),
    "shapes": lambda: Written(shapes),
    "indices": lambda: Written(indices),
    "reductions": lambda: Written(reductions),
    "powers": lambda: Written(powers),
    "functions": lambda: Written(functions),
    "matrices": lambda: Written(matrices),
    "slope by autograd": lambda: Written(slope_inside, inner=mlp(nn.GELU(), out=1)),
    "slope by torch.func": lambda: Written(
        lambda m, x: torch.func.vmap(torch.func.grad(lambda q: m.inner(q).square().sum()))(x), inner=mlp(nn.Softplus())
    ),
    "MLPForce": lambda: of_states(awake(MLPForce(2, 2, 6))),
    "GraphForce": lambda: of_states(awake(GraphForce([(None, 0), (0, 1)], 2, 6))),
    "potential by autograd": lambda: of_states(PotentialForce(lambda q: (q**2).sum((-2, -1)).sin())),
    "potential in closed form": lambda: of_states(PotentialForce(awake(MLPPotential(2, 2, 6, linear=True)))),
    "pair potential": lambda: of_states(
        PotentialForce(awake(PairPotential("ab", "xy", energy=1.0, shortest=0.1, cutoff=6.0))), dim=2
    ),
}  # fmt: skip
# Torch's own third derivative of a layer norm is wrong: it differs from that of its formula written out. The others
# take long to compile for a third derivative.
ORDERS = dict.fromkeys(["layer norm", "matrices", "functions", "reductions", "pair potential"], 2) | {"recurrent": 1}
# Those through whose weights a gradient is taken too: plain, tied to nothing, of buffers, inside of an inner gradient.
BY_WEIGHTS = {"layer norm", "batch norm", "slope by autograd", "weights of weights"}


def by_torch(line, n):
    """A function of one number and its derivatives, as far as torch has them."""
    at = torch.zeros((), requires_grad=True)
    found = [line(at)]
    for _ in range(n):
        if not found[-1].requires_grad:
            found.append(torch.zeros(()))
            continue
        try:
            found.append(torch.autograd.grad(found[-1], at, create_graph=True, materialize_grads=True)[0])
        except (RuntimeError, NotImplementedError) as error:
            assert "not implemented" in str(error)
            break
    return [value.item() for value in found]


def by_jax(line, n):
    if n == 0:
        return lambda t: [line(t)]

    def with_slope(t):
        lower = by_jax(line, n - 1)
        values, slopes = jax.jvp(lower, (t,), (1.0,))
        return [*values, slopes[-1]]

    return with_slope


def compiled(function, *example):
    """Compiled in a hurry: it is run once."""
    hurry = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function).lower(*example).compile(compiler_options=hurry)


@pytest.fixture
def made_in_double():
    """New tensors in float64, as in the converted module."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", MODULES)
def test_values_and_three_derivatives_are_torchs(name, made_in_double):
    module = MODULES[name]().double()
    f = converted(module, 2)
    assert isinstance(f, ConvertedModule)
    want = module(POINTS).detach().reshape(2, -1)
    assert f.n_out == want.shape[1]
    mixed, along = torch.randn(want.numel()), torch.randn_like(POINTS)
    n = ORDERS.get(name, 3)
    along_line = by_jax(lambda t: f(POINTS.numpy() + t * along.numpy()).ravel() @ mixed.numpy(), n)
    values, ours = compiled(lambda t: (f(POINTS.numpy()), along_line(t)), 0.0)(0.0)
    np.testing.assert_allclose(values, want, rtol=0, atol=CLOSE * float(want.abs().max()))
    theirs = by_torch(lambda t: module(POINTS + t * along).flatten() @ mixed, n)
    assert len(theirs) >= 2
    scale = max(map(abs, theirs))
    np.testing.assert_allclose(ours[: len(theirs)], theirs, rtol=CLOSE, atol=CLOSE * scale)


@pytest.mark.parametrize("name", sorted(BY_WEIGHTS))
def test_gradients_by_weights_are_torchs(name, made_in_double):
    module = MODULES[name]().double()
    f = converted(module, 2)
    module(POINTS).square().sum().backward()
    found = compiled(jax.grad(lambda f: jnp.sum(f(POINTS.numpy()) ** 2)), f)(f).weights
    parameters = dict(module.named_parameters())
    assert all(parameters[weight].grad is None for weight in parameters.keys() - found.keys())  # not used
    parameters = {weight: p for weight, p in parameters.items() if weight in found}
    wanted = {weight: torch.zeros_like(p) if p.grad is None else p.grad for weight, p in parameters.items()}
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    for weight, gradient in wanted.items():
        np.testing.assert_allclose(found[weight], gradient, rtol=CLOSE, atol=CLOSE * scale)


def test_a_layer_norms_third_derivative_is_that_of_its_formula():
    f = converted(nn.LayerNorm(3).double(), 3)

    def written(x):
        away = x - x.mean()
        return away / jnp.sqrt((away**2).mean() + 1e-5)

    x, along = np.array([0.3, -0.5, 0.9]), np.array([0.2, 1.0, -0.4])
    found, want = (compiled(by_jax(lambda t, g=g: g(x + t * along)[0], 3), 0.0)(0.0) for g in (f, written))
    np.testing.assert_allclose(found, want, rtol=1e-11)


def test_new_weights_compile_nothing_and_are_used():
    net = mlp(nn.Tanh()).double()
    f, n_traces = converted(net, 2), 0

    @jax.jit
    def at(f, x):
        nonlocal n_traces
        n_traces += 1
        return f(x)

    x = POINTS.numpy()
    at(f, x)
    awake(net)
    new = f.updated(net)
    np.testing.assert_allclose(at(new, x), net(POINTS).detach(), rtol=1e-14)
    again = converted(copy.deepcopy(net), 2)  # traced anew, equal by content
    assert again.program == new.program and hash(again.program) == hash(new.program)
    assert jax.tree.structure(again) == jax.tree.structure(f)
    at(again, x)
    assert n_traces == 1
    assert converted(mlp(nn.ReLU()).double(), 2).program != f.program
    with pytest.raises(ValueError, match=r"Sequential is no Sequential as it was converted .*0\.weight"):
        f.updated(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)))


def test_numbers_in_the_graph_are_told_apart():
    """1, 1.0 and True are equal in Python, and another program each."""
    one, whole = (converted(lambda x, c=c: x**3 + c * (x > 0), 2) for c in (1.0, True))
    assert one.program != whole.program


def test_batches_points_and_transformations(made_in_double):
    net = mlp(nn.SiLU()).double()
    f = converted(net, 2)
    x = torch.randn(3, 4, 2)
    np.testing.assert_allclose(f(x.numpy()), net(x).detach(), rtol=1e-13, atol=1e-14)
    assert f(x[0, 0].numpy()).shape == (2,)
    assert f(np.zeros((0, 2))).shape == (0, 2)
    # A batch of weights.
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), f)
    both = jax.vmap(lambda f: f(x[0, 0].numpy()))(many)
    assert both.shape == (2, 2) and not np.allclose(both[0], both[1])
    # A point's value has no derivative by another point.
    crossed = jax.jacfwd(f)(x[0].numpy())
    assert not np.asarray(crossed)[0, :, 1:].any()
    with pytest.raises(ValueError, match=r"x has shape \(3,\), expected \(\.\.\., 2\)"):
        f(np.zeros(3))


def test_float32_weights_are_taken_as_they_are():
    net = mlp(nn.Tanh())
    state = copy.deepcopy(net.state_dict())
    f = converted(net, 2)
    np.testing.assert_allclose(f(POINTS.numpy()), copy.deepcopy(net).double()(POINTS).detach(), rtol=1e-14)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert all(p.dtype == torch.float32 and p.grad is None for p in net.parameters())
    assert torch.get_default_dtype() == torch.float32
    single = converted(net, 2, dtype=torch.float32)
    with jax.enable_x64(False):
        assert single(np.float32(POINTS.numpy())).dtype == np.float32
        with pytest.raises(ValueError, match="needs JAX in 64 bits"):
            f(np.float32(POINTS.numpy()))


def test_tied_weights_stay_one():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    net[2].weight = net[0].weight
    f = converted(net, 2)
    assert sorted(f.weights) == ["0.bias", "0.weight", "2.bias"]
    net(POINTS).sum().backward()
    found = jax.grad(lambda f: jnp.sum(f(POINTS.numpy())))(f).weights["0.weight"]
    np.testing.assert_allclose(found, net[0].weight.grad, rtol=1e-13)


def test_a_function_and_the_module_that_it_uses():
    net = mlp(nn.Tanh()).double()

    def doubled(x):
        return 2 * net(x)

    f = converted(doubled, 2)
    awake(net)
    np.testing.assert_allclose(f.updated(doubled)(POINTS.numpy()), 2 * net(POINTS).detach(), rtol=1e-14)


def test_what_torch_cuts_off_has_no_derivative():
    def partly(m, x):
        with torch.no_grad():
            held = x.exp()
        return x * held + x.detach()

    found = jax.jacfwd(converted(Written(partly), 2))(POINTS[0].numpy())
    np.testing.assert_allclose(found, np.diag(np.exp(POINTS[0].numpy())), rtol=1e-14)
    with pytest.raises(ValueError, match=r"Written has no derivative by x in torch.*create_graph=True"):
        converted(Written(lambda m, x: torch.autograd.grad((x**2).sum(), x)[0]), 2)


def masked(m, x):
    y = x * 1.0
    y[y > 0.25] = 0.5
    return y * x


def test_numbers_are_put_where_something_holds(made_in_double):
    np.testing.assert_allclose(converted(Written(masked), 2)(POINTS.numpy()), Written(masked)(POINTS), rtol=1e-14)


def test_what_torch_traces_by_values_alone(made_in_double):
    """Forward mode through `cat` is beyond torch's tracing without values; those of a point are told from constants."""

    def doubled(x):
        return torch.func.jvp(lambda q: torch.cat([q, x.new_ones(1, 1)], -1).sin(), (x,), (x,))[1]

    want = torch.cat([POINTS * POINTS.cos(), torch.zeros(2, 1)], -1)
    np.testing.assert_allclose(converted(doubled, 2)(POINTS.numpy()), want, rtol=1e-14)
    with pytest.raises(ValueError, match="makes numbers of values"):
        converted(lambda x: doubled(x) * float(np.asarray(x.detach())[0, 0]), 2)


def corners(m, x):
    """Functions without a derivative at 0, where torch takes a value all the same."""
    parts = [x.abs(), x.relu(), F.hardtanh(x, 0, 1), x.clamp(0, 1), F.leaky_relu(x), F.elu(x), x.sign() * x, x**1.0]
    parts += [torch.maximum(x, x.flip(-1)), torch.minimum(x, 0 * x), F.softplus(1e3 * x + 1e3), F.logsigmoid(1e3 * x)]
    norms = [x.norm(p=p, dim=-1, keepdim=True) for p in (1, 2, 3, torch.inf)] + [x.std(-1, keepdim=True)]
    return torch.cat(
        [*parts, *norms, x.amax(-1, keepdim=True), torch.xlogy(x + 1, 2 - x), x.prod(-1, keepdim=True)], -1
    )


def test_derivatives_at_corners_are_torchs(made_in_double):
    module = Written(corners)
    f = converted(module, 2)
    at = np.zeros(2)
    slopes = compiled(jax.jacfwd(f), at)(at)
    want = torch.autograd.functional.jacobian(lambda x: module(x[None])[0], torch.zeros(2))
    np.testing.assert_array_equal(slopes, want)


class Stepped(torch.autograd.Function):
    """A step whose derivative is taken as 1."""

    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_a_derivative_of_its_own_is_kept():
    with pytest.warns(UserWarning, match="Stepped, with derivatives of its own"):
        f = converted(Written(lambda m, x: 3 * Stepped.apply(x)), 2)
    np.testing.assert_array_equal(jax.jacfwd(f)(POINTS[0].numpy()), 3 * np.eye(2))


def changed_through_data(m, x):
    m.w.data.clamp_(min=0)
    return m.w * x


def changed_itself(m, x):
    return x.mul_(2).sin_()


def test_a_module_may_change_its_argument(made_in_double):
    np.testing.assert_allclose(
        converted(Written(changed_itself), 2)(POINTS.numpy()), np.sin(2 * POINTS.numpy()), rtol=1e-14
    )


def looked_up(m, x):
    i = torch.searchsorted(m.knots, x.detach().contiguous(), right=True).clamp(1, 3) - 1
    return m.slopes[i] * (x - m.knots[i])


def test_a_table_that_is_looked_up(made_in_double):
    table = Written(looked_up)
    table.register_buffer("knots", torch.tensor([-1.0, 0.0, 0.5, 2.0]))
    table.register_buffer("slopes", torch.tensor([3.0, -1.0, 2.0]))
    f = converted(table, 2)
    np.testing.assert_allclose(f(POINTS.numpy()), table(POINTS), rtol=1e-14)
    np.testing.assert_array_equal(np.diag(jax.jacfwd(f)(POINTS[0].numpy())), [-1, 3])


def branching(m, x):
    return x if x.sum() > 0 else -x


REFUSED = {
    "branches on values": Written(branching),
    "makes numbers or shapes": Written(lambda m, x: x * float(x.sum())),
    "numbers or shapes made of values.*of fixed shapes": Written(lambda m, x: x[x > 0].sum()[None, None] * x),
    "changes its own state": nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (2, 2)), nn.BatchNorm1d(2), nn.Flatten()),
    "draws random numbers .*dropout": mlp(nn.Dropout(0.5)),
    r"gives a tensor \(1, 2, 1\) .*expected \(1, n_out\)": Written(lambda m, x: x[..., None]),
    r"gives a tensor \(\) .*squeeze\(-1\) for squeeze\(\)": Written(lambda m, x: (x**2).sum(-1).squeeze()),
    "a tensor is changed through detach": Written(changed_through_data, w=nn.Parameter(torch.ones(2))),
    "changes its own state.*copy_": Written(lambda m, x: m.seen.add_(1) * x, seen=nn.Buffer(torch.ones(2))),
    "depends on the other points of a batch": Written(lambda m, x: x - x[0]),
    "gives tuple": Written(lambda m, x: (x, x)),
    r"Linear can't be traced at x of shape \(1, 2\).*reduction dim": nn.Linear(3, 2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_one_trace_does_not_hold_is_refused(message):
    with pytest.raises(ValueError, match=message):
        converted(REFUSED[message], 2)


def test_a_branch_is_refused_with_its_line_and_runs_by_host():
    with pytest.raises(ValueError, match=r"line \d+ of .*test_torch_to_jax.py.*torch.where.*by_host=True"):
        converted(Written(branching), 2)
    f = converted(Written(branching), 2, by_host=True)
    x = np.array([[1.0, 2.0], [-3.0, 1.0]])
    with pytest.raises(ValueError, match="depends on the other points"):  # its branch is one for a whole batch
        converted(Written(lambda m, x: x - x.mean(0)), 2, by_host=True)
    np.testing.assert_allclose(f(x[0]), x[0])


def test_an_operator_that_is_unknown_runs_in_torch_with_all_derivatives(made_in_double):
    net = Written(lambda m, x: torch.special.i1(m.read(x)).sin(), read=nn.Linear(2, 2)).double()
    with pytest.warns(UserWarning, match=r"Written uses operators .*special_i1.* slower"):
        f = converted(net, 2)
    assert isinstance(f, HostModule) and f.n_out == 2
    x = POINTS.numpy()
    np.testing.assert_allclose(jax.jit(f)(x), net(POINTS).detach(), rtol=1e-14)
    along = torch.tensor([[0.3, -0.2], [0.5, 0.1]], dtype=torch.float64)

    def theirs(t):
        return net(POINTS + t * along).square().sum()

    ours = jax.jit(by_jax(lambda t: jnp.sum(f(x + t * along.numpy()) ** 2), 2))(0.0)
    np.testing.assert_allclose(ours, by_torch(theirs, 2), rtol=CLOSE)
    # By reverse mode, and forward over reverse.
    slope = jax.grad(lambda x: jnp.sum(f(x) ** 2))
    at = POINTS.clone().requires_grad_()
    (want,) = torch.autograd.grad(net(at).square().sum(), at)
    np.testing.assert_allclose(slope(x), want, rtol=CLOSE)
    assert jax.jacfwd(slope)(x).shape == (2, 2, 2, 2)
    with pytest.raises(TypeError):
        jax.grad(lambda f: jnp.sum(f(x)))(f)
    awake(net)
    assert np.abs(f(x) - net(POINTS).detach().numpy()).max() > 1e-3  # a copy of what it was
    np.testing.assert_allclose(f.updated(net)(x), net(POINTS).detach(), rtol=1e-14)


def test_equivariant_networks_need_the_host(made_in_double):
    """How many neighbours a molecule has is a number made of values."""
    from ndae.forces.equivariant import EquivariantForce

    module = of_states(EquivariantForce("OHH", 2, n_blocks=1, cutoff=6.0), nodes=6, dim=3)
    with pytest.raises(ValueError, match="Written branches on values, or makes"):
        converted(module, 2)
    assert converted(module, 2, by_host=True).n_out == 18


def test_conversion_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted(mlp(nn.Tanh()), 2)
