"""`ndae validate`: what it says of propagators whose errors are known, and the command on a run as small as can be."""

import dataclasses
import json

import matplotlib.image
import numpy as np
import pytest
import sympy as sp
import torch

import ndae
from ndae.experiments.cli import validate as validate_command
from ndae.experiments.problems import pendulum_data as pendulum
from ndae.experiments.runs import run as runs
from ndae.experiments.validation.figure import validation_figure
from ndae.experiments.validation.propagators import (
    HorizonMap,
    MotionMap,
    TrueFieldMap,
    one_period_on,
    roll_out,
    with_true_force,
)
from ndae.experiments.validation.report import print_validation, spread, time_of_passing
from ndae.experiments.validation.validate import Contest, HeldOut, compare, contest_of, pendulum_held_out, validate
from ndae.solvers import SolveError, solve
from ndae.solvers.manifold import multipliers
from ndae.solvers.mechanics.motion_torch import TorchMotion
from ndae.symbolic import Constraint, System, library
from tests.experiments.command_line import in_process
from tests.experiments.test_runs import swinging, tiny
from tests.systems import chain_states

PERIOD, N = 0.1, 4
PARTS = ("learning", "velocities", "integrator")


@pytest.fixture(scope="module")
def system():
    return library.chain_pendulum(2)


@pytest.fixture(scope="module")
def held_out(system):
    """Two bodies at several angles and speeds; the times are made up."""
    random = np.random.default_rng(0)
    angle, rate = random.uniform(-1.5, 1.5, (2, N, 2))
    q, v = (part.reshape(N, 4) for part in chain_states(angle, rate))
    return HeldOut(system, q, v, 10.0 + np.arange(N), 9.0, size=2.0, size_of="the chain", energy_range=60.0)


@pytest.fixture(scope="module")
def reference(held_out):
    return solve(held_out.system, {"q": held_out.q, "v": held_out.v}, PERIOD * np.arange(4), rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def motion(system):
    return TorchMotion(system)


def network(system, method=None, *, seed=0, n_layers=4, dtype=torch.float64, **options):
    """An untrained network over the bodies of a chain."""
    links = [(ndae.fields.ORIGIN, 0), (0, 1)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ndae.models.build_network(
            "mlp",
            system.points.constraint.torch(),
            method,
            edges=links,
            features=4,
            dim=2,
            n_layers=n_layers,
            **options,
        )
    return model.to(dtype).eval()


def exactly(system):
    """A network in which the true field makes no error to speak of."""
    return network(system, n_layers=1, integrator="dopri8", rtol=1e-11, atol=1e-11)


def rolled(propagator, held_out, reference):
    """Largest errors of position and velocity of all samples, at every time."""
    q, v = roll_out(propagator, held_out.q, held_out.v, len(reference.ts) - 1)
    return np.abs(q - reference.q).max((0, 2)), np.abs(v - reference.v).max((0, 2))


# -- the true field in the network's place -----------------------------------------------------------------------------


def test_the_true_field_has_the_error_of_its_integrator(system, motion, held_out, reference):
    """Of fourth order in the layers, whatever was learned; none with adaptive steps."""
    errors = {}
    for n_layers in (4, 8, 16):
        propagator = TrueFieldMap(network(system, n_layers=n_layers), motion, PERIOD)
        errors[n_layers] = rolled(propagator, held_out, reference)[0][1]
    orders = np.log2([errors[4] / errors[8], errors[8] / errors[16]])
    assert np.all(np.abs(orders - 4) < 0.5), errors
    for exact in rolled(TrueFieldMap(exactly(system), motion, PERIOD), held_out, reference):
        assert exact.max() < 1e-9


def test_what_was_learned_does_not_touch_the_true_field(system, motion, held_out):
    """But for the lengths of layers, which weigh the penalty: as strong as in the network."""
    for method in (None, ndae.methods.SmoothProjection()):
        one, other = network(system, method), network(system, method, seed=1)
        with torch.no_grad():
            other.log_step.add_(torch.linspace(-1, 1, 4))
        a, b = (TrueFieldMap(model, motion, PERIOD).advance(held_out.q, held_out.v) for model in (one, other))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    q, violations = 1.1 * held_out.q, []
    for change in (0.0, 1.0):
        model = network(system, ndae.methods.Penalty(3.0))
        with torch.no_grad():
            model.log_step.add_(change)
        q_after, _ = TrueFieldMap(model, motion, PERIOD).advance(q, held_out.v)
        violations.append(system.points.constraint.torch().residual(torch.as_tensor(q_after)).abs().max())
    assert violations[1] < 0.9 * violations[0] < 0.09


def test_projections_keep_the_true_field_on_the_constraint(system, motion, held_out):
    q, v = roll_out(TrueFieldMap(network(system, n_layers=1), motion, PERIOD), held_out.q, held_out.v, 5)
    drift = system.points.constraint.torch().residual(torch.as_tensor(q)).abs().max()
    projected = TrueFieldMap(network(system, ndae.methods.EndProjection(tol=1e-12), n_layers=1), motion, PERIOD)
    q, v = roll_out(projected, held_out.q, held_out.v, 5)
    assert system.points.constraint.torch().residual(torch.as_tensor(q)).abs().max() < 1e-12 < 1e-7 < drift
    assert np.isfinite(v).all()


# -- a network over positions carried on -------------------------------------------------------------------------------


def test_an_exact_map_is_carried_on_exactly(system, motion, held_out, reference):
    """Positions, and the velocities that are taken from how they change."""
    exact = TrueFieldMap(exactly(system), motion, PERIOD).network
    q, v = rolled(HorizonMap(exact, motion, PERIOD), held_out, reference)
    assert q.max() < 1e-8 and v.max() < 1e-8
    still = HorizonMap(network(system), motion, PERIOD)  # untrained: no motion comes out
    assert rolled(still, held_out, reference)[0].max() > 0.1


def test_a_map_in_single_precision_has_that_much_error(system, motion, held_out, reference):
    model = network(system, n_layers=16, dtype=torch.float32)
    single = HorizonMap(TrueFieldMap(model, motion, PERIOD).network, motion, PERIOD)
    q, v = rolled(single, held_out, reference)
    assert 1e-8 < q[1] < 1e-5 and v[1] < 1e-5  # rates are made in double precision, or they would have no digits
    assert motion.acceleration(*torch.as_tensor(np.stack([held_out.q, held_out.v]))).dtype == torch.float64


def test_one_period_on_starts_every_time_from_what_is_given(system, motion, reference):
    propagator = TrueFieldMap(exactly(system), motion, PERIOD)
    q, v = one_period_on(propagator, reference.q, reference.v)
    assert q.shape == reference.q.shape
    np.testing.assert_array_equal(q[:, 0], reference.q[:, 0])
    assert np.abs(q - reference.q).max() < 1e-10 and np.abs(v - reference.v).max() < 1e-9


def test_projections_are_counted(system, motion, held_out):
    propagator = HorizonMap(network(system, ndae.methods.SmoothProjection(), n_layers=3), motion, PERIOD)
    propagator.advance(held_out.q, held_out.v)
    assert (propagator.projections, propagator.unconverged) == (3 * N, 0)


def test_models_that_cannot_be_compared_are_refused(system, motion):
    positions = ndae.models.build_network(
        "mlp", system.points.constraint.torch(), edges=[(ndae.fields.ORIGIN, 0), (0, 1)], features=2, dim=2
    )
    with pytest.raises(ValueError, match=r"takes 2 numbers a node and gives 2: .*4 numbers"):
        HorizonMap(positions, motion, PERIOD)
    x, y, t = sp.symbols("x y t")
    moving = System.of_points(Constraint([sp.sqrt((x - t) ** 2 + y**2) - 1], [x, y], time=t), 1.0, name="moving")
    with pytest.raises(ValueError, match="moving: its equations depend on time"):
        TrueFieldMap(network(system), TorchMotion(moving), PERIOD)


# -- the split ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(system, held_out):
    """An untrained network against the reference."""
    return compare(contest_of(network(system, ndae.methods.SmoothProjection()), system, PERIOD), held_out, 0.55)


def test_parts_bound_the_error(found):
    """The triangle inequality, for every trajectory at every time, and each part measures something."""
    rollout, one = found.rollout, found.one_period
    assert np.all(rollout["error"] <= sum(rollout[part] for part in PARTS) + 1e-15)
    assert np.all(one["error"] <= one["learning"] + one["integrator"] + 1e-15)
    assert np.all(rollout["integrator"] >= rollout["error"] - rollout["learning"] - rollout["velocities"] - 1e-15)
    assert rollout["learning"][:, -1].min() > 100 * rollout["integrator"][:, -1].max() > 0
    np.testing.assert_array_equal(found.control_errors["integrator"], rollout["integrator"])
    assert np.all(found.control_errors["velocities"] <= rollout["velocities"] + rollout["integrator"] + 1e-15)
    # The first period starts from the reference's own velocities: nothing has been rebuilt yet.
    np.testing.assert_allclose(rollout["velocities"][:, 1], 0, atol=1e-12)
    np.testing.assert_allclose(rollout["error"][:, 1], one["error"][:, 0], atol=1e-12)


def test_a_network_with_the_true_field_has_learned_everything(system, motion, held_out):
    true_field = TrueFieldMap(network(system), motion, PERIOD)
    learned = HorizonMap(true_field.network, motion, PERIOD)
    found = compare(Contest(learned, true_field, learned), held_out, 0.55)
    np.testing.assert_array_equal(found.rollout["learning"], 0)
    assert found.rollout["error"].max() < 1e-3 and found.one_period["energy_error"].max() < 1e-2
    bare = compare(Contest(true_field, true_field), held_out, 0.5)  # one that has velocities of its own
    assert "velocities" not in bare.rollout
    np.testing.assert_array_equal(bare.rollout["error"], bare.rollout["integrator"])


def printed(found) -> str:
    lines = []
    print_validation(found, lambda *words, **style: lines.extend(map(str, words)))
    return "\n".join(lines)


def test_a_motion_with_velocities_of_its_own_is_compared_as_it_stands(system, motion, held_out, reference):
    force = ndae.forces.MLPForce(2, 2, 8)
    model = ndae.NeuralMotion(system.points.constraint.torch(), force, duration=PERIOD, n_steps=8).double()
    untrained = compare(contest_of(model, system, PERIOD), held_out, 0.35)
    rollout = untrained.rollout
    assert "velocities" not in rollout
    assert np.all(rollout["error"] <= rollout["learning"] + rollout["integrator"] + 1e-15)
    assert 0 < rollout["integrator"].max() < 1e-4  # steps of 12.5 ms, and positions projected to 1e-6
    assert rollout["learning"][:, -1].min() > 1e-2  # it knows nothing of weight yet
    assert rollout["position_violation"].max() < 1e-6 and untrained.projections > 0
    scale = np.abs(reference.multiplier).max((0, 1))
    np.testing.assert_allclose(untrained.multiplier_scale, scale, rtol=1e-9)
    x = torch.cat([torch.as_tensor(part).unflatten(-1, (2, 2)) for part in (held_out.q, held_out.v)], -1)
    wrong = np.abs(model.multiplier(x).detach().numpy() - reference.multiplier[:, 0]) / scale
    np.testing.assert_allclose(rollout["multiplier_error"][:, 0], wrong.max(-1), rtol=1e-9)
    assert wrong.max() > 0.1
    true = with_true_force(model, motion)
    assert model.force is force
    found = compare(Contest(MotionMap(true), MotionMap(true)), held_out, 0.35)
    np.testing.assert_array_equal(found.rollout["learning"], 0)
    np.testing.assert_array_equal(found.rollout["integrator"], rollout["integrator"])
    assert found.rollout["multiplier_error"].max() < 1e-4 and found.one_period["multiplier_error"].shape == (N, 3)
    content = strict(json.dumps(untrained.to_json(), allow_nan=False))
    assert content["rollout"]["multiplier_error_of_scale"]["max"][0] == pytest.approx(wrong.max())
    assert content["multiplier_scale"] == pytest.approx(scale)
    assert "error of the worst multiplier, of its largest size in the reference" in printed(untrained)


def test_multipliers_that_do_not_solve_their_equations_count_as_infinite(monkeypatch, system, held_out):
    model = ndae.NeuralMotion(system.points.constraint.torch(), ndae.forces.MLPForce(2, 2, 8), duration=PERIOD).double()
    compared, at = MotionMap(model), np.zeros(N)
    right, solve = compared.multiplier(held_out.q, held_out.v, at), multipliers.solve_gram
    monkeypatch.setattr(multipliers, "solve_gram", lambda *of: torch.linspace(1, 1.3, N)[:, None] * solve(*of))
    found = compared.multiplier(held_out.q, held_out.v, at)
    np.testing.assert_array_equal(found[0], right[0])
    assert np.isnan(found[1:]).all()
    with pytest.raises(SolveError, match=r"the multipliers of pendulum of 2 links solve .* at state \(1,\) \(3 of 4\)"):
        TorchMotion(system).multiplier(torch.as_tensor(held_out.q), torch.as_tensor(held_out.v))


def test_a_network_without_multipliers_is_said_to_have_none(found):
    assert found.multiplier_scale is None and "multiplier_error" not in found.rollout
    assert "λ           not compared: the model has no multipliers" in printed(found)


def test_times_are_whole_periods_and_shapes_fit(found):
    np.testing.assert_allclose(found.ts, PERIOD * np.arange(6))
    assert all(curve.shape == (N, 6) for curve in found.rollout.values())
    assert all(curve.shape == (N, 5) for curve in found.one_period.values())
    assert found.reference_error.max() < 1e-8
    assert found.rollout["position_violation"].max() < 1e-4  # as far as the projections of the network go


class Stretching:
    """A propagator that makes every link longer by a tenth, and lets all of them grow by 0.3 m/s."""

    period = PERIOD

    def advance(self, q, v):
        return 1.1 * q, 0.3 * q


def test_violations_and_energy_by_hand(held_out, reference):
    """Of one period on, from states on the constraint: |c| = 0.1 m, |dc/dt| = 0.3 m/s."""
    one = compare(Contest(Stretching(), Stretching()), held_out, 0.3).one_period
    np.testing.assert_allclose(one["position_violation"], 0.1, atol=1e-12)
    np.testing.assert_allclose(one["velocity_violation"], 0.3, atol=1e-12)
    before, after = reference.q[:, :-1], reference.energy[:, 1:]
    energy = 0.5 * 0.09 * (before**2).sum(-1) + 9.82 * 1.1 * before[..., 1::2].sum(-1)
    np.testing.assert_allclose(one["energy_error"], np.abs(energy - after), atol=1e-8)
    points = (1.1 * before - reference.q[:, 1:]).reshape(N, -1, 2, 2)
    np.testing.assert_allclose(one["error"], np.linalg.norm(points, axis=-1).mean(-1), atol=1e-12)
    np.testing.assert_array_equal(one["learning"], 0)


class Blowing:
    """A propagator that does nothing, but loses its first sample."""

    period = PERIOD

    def advance(self, q, v):
        q = q.copy()
        q[0] = np.nan
        return q, v


@pytest.fixture(scope="module")
def lost(system, motion, held_out):
    return compare(Contest(Blowing(), TrueFieldMap(network(system), motion, PERIOD)), held_out, 0.5)


def test_a_trajectory_that_is_lost_counts_as_infinite_alone(lost):
    assert np.all(np.isinf(lost.rollout["error"][0, 1:])) and np.all(np.isfinite(lost.rollout["error"][1:]))
    assert lost.passing["model"][0] <= PERIOD
    content = strict(json.dumps(lost.to_json(), allow_nan=False))
    assert content["rollout"]["error_m"]["mean"][1] is None
    assert content["rollout"]["error_m"]["median"][1] is not None


def test_a_figure_with_what_is_lost(lost, tmp_path):
    path = validation_figure(dataclasses.replace(lost, unrelated=None), tmp_path / "lost.png")
    assert path.stat().st_size > 10_000


def test_a_sample_that_is_lost_stays_so_and_touches_no_other(system, motion, held_out):
    q = held_out.q.copy()
    q[1] = np.nan
    propagator = TrueFieldMap(exactly(system), motion, PERIOD)
    with_loss, without = propagator.advance(q, held_out.v), propagator.advance(held_out.q, held_out.v)
    assert np.isnan(with_loss[0][1]).all()
    np.testing.assert_allclose(with_loss[0][[0, 2, 3]], without[0][[0, 2, 3]], atol=1e-9)


def test_times_of_passing_by_hand():
    ts = np.array([0.0, 1.0, 2.0])
    errors = np.array([[0.0, 0.4, 0.8], [0.0, 0.1, 0.2], [0.0, np.inf, np.inf], [0.9, 0.0, 0.0]])
    np.testing.assert_allclose(time_of_passing(ts, errors, 0.5), [1.25, np.inf, 0.0, 0.0])


def test_spread_by_hand():
    values = np.array([[1.0], [2.0], [4.0], [9.0]])
    expected = {"mean": 4.0, "std": (38 / 3) ** 0.5, "median": 2.0, "low": 1.0, "high": 4.0, "max": 9.0}
    assert {name: float(v[0]) for name, v in spread(values).items()} == pytest.approx(expected)
    assert spread(values[:1])["std"][0] == 0


def strict(text):
    """JSON in the strict sense."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# -- held-out states ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.03, 0.5])
def test_held_out_states_are_later_than_every_sample(monkeypatch, seconds):
    monkeypatch.setattr(pendulum, "simulate", swinging)
    config = tiny(horizon=3)
    held_out = pendulum_held_out(config, 5, seconds)
    data = runs.build_data(config)
    last = max(part.index.max() for part in (data.train, data.val, data.test)) + config.horizon
    assert held_out.samples_end == pytest.approx(last * pendulum.DT)
    assert held_out.times.min() > held_out.samples_end
    assert np.diff(held_out.times).min() >= seconds - 1e-9  # what follows them does not overlap
    trajectory = swinging(round(held_out.times[-1] / pendulum.DT))
    index = np.rint(held_out.times / pendulum.DT).astype(int)
    np.testing.assert_array_equal(held_out.q, trajectory.r[index].reshape(5, 10))
    np.testing.assert_array_equal(held_out.v, trajectory.v[index].reshape(5, 10))


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulated():
    """Made-up motion in place of the simulation, for the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pendulum, "simulate", swinging)
        yield


@pytest.fixture(scope="module")
def run(simulated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "smooth"
    runs.run(tiny(method="smooth", epochs=1), folder, progress=False)
    return folder


SMALL = ("--trajectories", 3, "--seconds", 0.1)


def test_the_command_shows_tables_and_writes_into_the_run(capsys, run):
    code, out, err = in_process(capsys, "validate", run, *SMALL)
    assert (code, err) == (0, "")
    for words in ("Smooth projection", "3 states of motion later than all samples", "Rolled out", "learning"):
        assert words in out
    for words in ("integrator", "|dc/dt|", "energy", "Time until the error passes 0.5 m", "the network"):
        assert words in out
    assert out.endswith(f"wrote {run / 'validation.json'}\nwrote {run / 'validation.png'}\n")
    content = strict((run / "validation.json").read_text())
    assert content["about"]["method"] == "smooth" and content["trajectories"] == 3
    assert content["times_s"] == pytest.approx([0, 0.03, 0.06, 0.09])
    assert content["held_out"]["first_s"] > content["held_out"]["samples_end_s"]
    for part in ("one_period", "rollout"):
        for name in ("error_m", "learning_m", "integrator_m", "position_violation_m", "velocity_violation_m_per_s"):
            assert content[part][name].keys() == {"mean", "std", "median", "low", "high", "max"}
            assert len(content[part][name]["mean"]) == len(content[part]["times_s"])
        assert all(value >= 0 for value in content[part]["energy_error_J"]["mean"])
    assert len(content["time_to_threshold"]["model"]["by_trajectory_s"]) == 3
    height, width, _ = matplotlib.image.imread(run / "validation.png").shape
    assert width > 1000 and height > 700


@pytest.fixture
def found_at_once(monkeypatch, found):
    monkeypatch.setattr(validate_command, "validate", lambda *arguments, **options: found)


@pytest.mark.usefixtures("found_at_once")
def test_json_on_stdout_is_all_there_is(capsys, tmp_path):
    figure = tmp_path / "new" / "v.png"
    code, out, err = in_process(capsys, "validate", tmp_path, "--json", "-", "--figure", figure)
    assert (code, err) == (0, "")
    assert strict(out)["trajectories"] == N
    assert figure.stat().st_size > 10_000


@pytest.mark.usefixtures("found_at_once")
def test_only_what_is_named_is_written(capsys, tmp_path):
    code, out, _ = in_process(capsys, "validate", tmp_path, "--json", tmp_path / "found.json")
    assert code == 0 and out.endswith(f"wrote {tmp_path / 'found.json'}\n")
    assert "A model against the reference" in out
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_refusals(capsys, run, tmp_path):
    for arguments, words in (
        ((tmp_path,), f"{tmp_path} holds no run"),
        ((run, "--seconds", 0.02), "seconds=0.02 is shorter than the 0.03 s that this network predicts ahead"),
        ((run, "--seconds", "nan"), "seconds=nan"),
    ):
        code, out, err = in_process(capsys, "validate", *arguments)
        assert (code, out) == (1, "") and words in " ".join(err.split()) and len(err.splitlines()) == 1, err
    code, _, err = in_process(capsys, "validate", run, "--trajectories", 0)
    assert code == 2 and "--trajectories" in err
    for count in (0, True, 2.0):
        with pytest.raises(ValueError, match="trajectories is a whole number of at least 1"):
            validate(run, trajectories=count)
