"""Models in files: read back they are the same, and what can't be told by a file is refused."""

import json

import numpy as np
import pytest
import sympy as sp
import torch
from torch import nn

import ndae
from ndae import dot, fields, forces, methods
from ndae.forces.networks import SumForce
from ndae.models import FixedMap
from ndae.models.saving import SavedModelError
from ndae.symbolic import library
from tests.ndae import chains
from tests.ndae.test_own_invariants import circles

t, x, y, lam = sp.symbols("t x y lam")
k = sp.Symbol("k", positive=True)


def differing(a, b):
    """Everything that two models hold, by name, where it is not the same bit for bit."""
    a, b = a.state_dict(), b.state_dict()
    return [name for name in a.keys() | b.keys() if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])]


def moved(module):
    """A module as if trained."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def wire(functions=None, **options):
    """A bead on a wire of unknown shape, with known and unknown friction, switches and tables in its equations."""
    f, r, feed = (
        ndae.unknown("f"),
        ndae.unknown("friction"),
        ndae.table([0.0, 1.0, 2.0], [0.0, 0.3, 0.1], kind="linear"),
    )
    slope = f(x).diff(x)
    vx, vy = sp.symbols("vx vy")
    system = ndae.System(
        [
            dot(x) - vx, dot(y) - vy, dot(vx) + r(vx) + k * sp.Max(vx, -1) - feed(t) - lam * slope,
            dot(vy) + sp.Float(9.81) + lam, y - f(x),
        ],
        [x, y, vx, vy, lam], {k: 0.1}, time=t, outputs={"height": y}, name="wire",
    )  # fmt: skip
    given = {f: ndae.MLP(1, 1, 4, depth=1), r: lambda v: 0.3 * v} if functions is None else functions
    return ndae.NeuralSystem(
        system, given, learn=["k"], method=methods.SmoothProjection() + methods.Penalty(1.0), **options
    )


def test_a_system_with_networks_is_read_back(tmp_path):
    torch.manual_seed(0)
    model = moved(wire(step=0.1))
    ndae.save(model, tmp_path / "wire.safetensors")
    before = torch.get_rng_state()
    again = ndae.load(tmp_path / "wire.safetensors", {"friction": lambda v: 0.3 * v})
    assert torch.equal(before, torch.get_rng_state())
    assert not differing(model, again) and again.parameters_now() == model.parameters_now()
    assert again.system.equations == model.system.equations and again.outputs == ("height",)
    assert (again.step, again.integrator, repr(again.method)) == (0.1, model.integrator, repr(model.method))
    start, ts = {"x": 0.5, "vx": 0.0}, np.linspace(0, 0.3, 4)
    full = ndae.consistent_initial_condition(model.system, start, parameters=model.parameters_now())
    assert np.array_equal(model.predict(full, ts).x, again.predict(full, ts).x)


def test_what_is_not_ours_is_given_again_by_name(tmp_path):
    def net():
        return nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))

    model = wire({"f": net(), "friction": ndae.MLP(1, 1, 4)})
    file = ndae.save(model, tmp_path / "model")
    assert not differing(model, ndae.load(file, {"f": net()}))
    with pytest.raises(SavedModelError, match=r"holds no 'f' \(a Sequential\)"):
        ndae.load(file)
    with pytest.raises(SavedModelError, match="asks for no 'g'; it asks for \\['f'\\]"):
        ndae.load(file, {"f": net(), "g": net()})
    with pytest.raises(SavedModelError, match="weights differ in name or shape"):
        ndae.load(file, {"f": nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))})


def dae(method, **options):
    field = options.pop("field", None) or fields.MLPField(1, 4, 8)
    return ndae.NeuralDAE(field, circles(), method, **({"features": 2, "dim": 2, "latent": 4, "n_layers": 3} | options))


def fixed_maps():
    return {"open": FixedMap(torch.eye(4)[:, :2]), "close": FixedMap(torch.eye(4)[:, :2])}


def several_forces():
    ts = np.linspace(0, 1, 8)
    inputs = forces.InputForce(forces.sampled_inputs(ts, np.sin(ts)), 3, 2)
    return SumForce([forces.PotentialForce(chains.potentials()["graph"]), forces.Damping(3, 2), inputs])


def mimetic():
    field = fields.MimeticField(chains.LINKS, latent=8, hidden=8)
    chain = library.chain(3, dim=2).torch()
    return ndae.NeuralDAE(field, chain, methods.Multiplier(), features=4, dim=2, latent=8, n_layers=2)


def learned_lengths():
    chain = library.chain(3, dim=2, length=[1.0, 1.1, 0.9]).torch(learn=["length"])
    return ndae.NeuralMotion(chain, forces.MLPForce(3, 2, 8), duration=0.2, learn_mass=True)


MODELS = {
    "smooth": lambda: dae(methods.SmoothProjection(tol=1e-6) + methods.Auxiliary(0.5)),
    "a field a layer": lambda: dae(
        methods.Penalty(2.0, "gram"), field=[fields.MLPField(1, 4, 8) for _ in range(2)], n_layers=None
    ),
    "one field in two places": lambda: dae(
        methods.Unconstrained(), field=[fields.MLPField(1, 4, 8)] * 2, n_layers=None
    ),
    "fixed maps": lambda: dae(methods.EndProjection(), **fixed_maps(), adjoint=True, integrator="dopri5"),
    "mimetic": mimetic,
    "learned lengths": learned_lengths,
    "forces": lambda: chains.motion(several_forces(), integrator="dopri5"),
    "of a system": lambda: chains.motion(forces.SystemForce(chains.windy(), parameters={"drag": 0.2})),
    "graph": lambda: chains.motion(forces.GraphForce(chains.LINKS, 2, 8), baumgarte=3.0),
}


@pytest.mark.parametrize("name", [*MODELS])
def test_models_are_read_back(name, tmp_path):
    torch.manual_seed(0)
    model = moved(MODELS[name]())
    for parameter in [*model.parameters()][:1]:
        parameter.requires_grad_(False)
    model.eval()
    again = ndae.load(ndae.save(model, tmp_path / "model"))
    assert not differing(model, again) and not again.training
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    weight = next((w for w in model.state_dict().values() if w.is_floating_point()), torch.zeros(1).double())
    features = 4 if model.constraint.n_states == 6 else 2
    given = chains.states(2).to(weight.dtype) if features == 4 else torch.rand(2, 1, 2, dtype=weight.dtype) + 0.5
    more = {} if features == 4 else {"R": torch.ones(2, dtype=weight.dtype)}
    torch.testing.assert_close(model.predict(given, **more).y, again.predict(given, **more).y, rtol=0, atol=0)


def test_what_was_changed_since_is_refused(tmp_path):
    model = dae(methods.SmoothProjection())
    model.rtol = 1e-9
    with pytest.raises(ValueError, match="rtol is 1e-09, and was made as 1e-05"):
        ndae.save(model, tmp_path / "model")
    another = dae(methods.SmoothProjection())
    for method in (methods.EndProjection(), methods.SmoothProjection(tol=1e-3)):
        another.method = method
        with pytest.raises(ValueError, match=r"method is .*, and was made as SmoothProjection"):
            ndae.save(another, tmp_path / "model")
    other = dae(methods.SmoothProjection())
    other.fields[0] = fields.MLPField(1, 4, 16)
    with pytest.raises(ValueError, match="differ in name or shape"):
        ndae.save(other, tmp_path / "model")
    extended = dae(methods.SmoothProjection())
    extended.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"weights differ in name or shape, first 'extra\.bias'"):
        ndae.save(extended, tmp_path / "model")
    assert not (tmp_path / "model").exists()


class Own(ndae.NeuralDAE):
    """A user's class."""


def test_what_is_no_model_of_ours_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no model"):
        ndae.save(nn.Linear(2, 2), tmp_path / "model")


def test_a_class_of_the_users_is_not_taken_for_ours(tmp_path):
    own = Own(fields.MLPField(1, 4, 8), circles(), features=2, dim=2, latent=4, n_layers=3)
    with pytest.raises(ValueError, match="a Own is no model of ndae's"):
        ndae.save(own, tmp_path / "model")


def test_damaged_files_are_refused(tmp_path):
    file = ndae.save(dae(methods.SmoothProjection()), tmp_path / "model")
    data = bytearray(file.read_bytes())
    for place in (3, 40, len(data) // 2, len(data) - 1):
        broken = bytearray(data)
        broken[place] ^= 1
        file.write_bytes(bytes(broken))
        with pytest.raises(SavedModelError):
            ndae.load(file)
    file.write_bytes(bytes(data[:-9]))
    with pytest.raises(SavedModelError, match="damaged"):
        ndae.load(file)
    with pytest.raises(SavedModelError, match="there is no file"):
        ndae.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "nodes",
    [
        [["Symbol", "x\n__import__('os')", {}]],
        [["Add", 0, 1]],
        [["__import__", 0]],
        [["Symbol", "x", {}], ["Function", 0]],
        [["Symbol", "x", {}], ["sin", -1]],
        [["Float", "a", "b", 1, 1, 53]],
    ],
)
def test_no_text_of_a_file_is_evaluated(nodes):
    from ndae.symbolic.expressions.plain import read_plain

    with pytest.raises(ValueError, match=r"node . of the expressions"):
        read_plain(nodes)


def test_expressions_are_written_once_and_read_back_the_same():
    from ndae.symbolic.expressions.plain import Plain, read_plain

    a, b = sp.symbols("a b", real=True)
    tower = a
    for _ in range(12):
        tower = sp.sin(tower + b) * tower  # 2**12 nodes, written out
    some = [
        tower, sp.Piecewise((a, a < b), (sp.Abs(b), True)), sp.Mul(2, a + b, evaluate=False), sp.Float("0.1", 40) * a,
        sp.Max(a, b, k) + sp.Heaviside(a - sp.Rational(1, 3)) + sp.Mod(t, 2) + sp.pi ** sp.sqrt(k),
        ndae.table([0, 1, 2], [0, 1, 0.5], kind="linear")(t) * ndae.unknown("u", outputs=2)(a, b)[1].diff(a),
    ]  # fmt: skip
    writer = Plain()
    numbers = [writer.add(e) for e in some]
    assert len(writer.nodes) < 100
    found = read_plain(json.loads(json.dumps(writer.nodes)))
    assert [found[i] for i in numbers] == some
