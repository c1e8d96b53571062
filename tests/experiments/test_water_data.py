"""The water problem's data: the simulation against mechanics written out here, files, splits, trivial predictions."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from ndae.experiments.problems.registry import to_learn
from ndae.experiments.runs.config import RunConfig
from ndae.experiments.runs.models import build_model
from ndae.experiments.water import force_field as ff, simulate as simulation
from ndae.experiments.water.baselines import baselines, molecule_error_pm, scores, trivial_predictions, violation
from ndae.experiments.water.cp2k import HARTREE, compare, write_input
from ndae.experiments.water.data import water_data
from ndae.experiments.water.missing import MissingPackage
from ndae.experiments.water.simulate import simulate
from ndae.experiments.water.trajectory import Trajectory, count_molecules, read_trajectory, write_extxyz
from tests.experiments.command_line import in_process

pytest.importorskip("openmm", reason="the extra `water` is not installed")
SHORT = {"n_molecules": 6, "equilibration_ps": 0.5, "check_temperature": False}
N_STEPS = 1_000


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def water(own_cache):
    return simulate(0, N_STEPS, **SHORT)


@pytest.fixture(scope="module")
def other(own_cache):
    return simulate(1, N_STEPS, **SHORT)


# --- the force field and the simulation -------------------------------------------------------------------------------


def potential(q):
    """The force field in kcal/mol, from positions (atoms, 3) in Å, written by hand."""
    molecules = q.reshape(-1, 3, 3)
    energy = 0.0
    for o, h, g in molecules:
        a, b = h - o, g - o
        angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        energy += 450 * sum((np.linalg.norm(x) - 0.9572) ** 2 for x in (a, b)) + 55 * (angle - np.deg2rad(104.52)) ** 2
    charge = {"O": -0.834, "H": 0.417}
    epsilon = {"OO": 0.152073, "OH": 0.0836, "HO": 0.0836, "HH": 0.04598}
    sigma = {"OO": 3.1507, "OH": 1.77535, "HO": 1.77535, "HH": 0.4}
    for m, first in enumerate(molecules):
        for second in molecules[m + 1 :]:
            for s, x in zip("OHH", first, strict=True):
                for t, y in zip("OHH", second, strict=True):
                    r = np.linalg.norm(x - y)
                    ratio = (sigma[s + t] / r) ** 6
                    energy += 332.0637 * charge[s] * charge[t] / r + 4 * epsilon[s + t] * (ratio**2 - ratio)
    return energy


def test_the_force_field_is_the_one_written_out(water):
    for i in (0, 500):
        q = water.q[i].astype(float)
        expected = 4.184 * potential(q)
        # O-H terms are given to three digits where OpenMM mixes them exactly.
        assert ff.potential_energy(q) == pytest.approx(expected, rel=1e-4)
        assert water.potential[i // 10] == pytest.approx(expected, rel=1e-4)


def test_forces_are_minus_the_slope_of_the_energy(water):
    q, h = water.q[:2].astype(float), 1e-4
    force = ff.forces(q)
    for atom, axis in ((0, 0), (4, 1), (11, 2)):
        move = np.zeros_like(q)
        move[:, atom, axis] = h
        slope = (ff.potential_energy(q + move) - ff.potential_energy(q - move)) / (2 * h) * 1e-4  # amu Å/fs²
        np.testing.assert_allclose(force[:, atom, axis], -slope, atol=1e-5 * np.abs(force).max())


def test_positions_that_are_not_of_molecules_have_no_energy():
    with pytest.raises(ValueError, match=r"\(4, 3\), expected"):
        ff.forces(np.zeros((4, 3)))


def test_velocities_are_of_the_same_time_as_positions(water):
    """Velocity Verlet: v is the central difference of positions, which leapfrog's velocities are half a step off."""
    q, v = water.q.astype(float), water.v.astype(float)
    middle = (q[2:] - q[:-2]) / (2 * water.dt)
    half = (q[2:] - q[1:-1]) / water.dt
    error, leapfrog = (np.sqrt(((x - v[1:-1]) ** 2).mean() / (v**2).mean()) for x in (middle, half))
    assert error < 1e-4 < 5e-3 < leapfrog  # rounding of float32 is in it


def test_it_moves_as_the_forces_say(water):
    v = water.v.astype(float)
    acceleration = (v[2:300] - v[:298]) / (2 * water.dt)
    expected = ff.forces(water.q[1:299]) / np.tile([15.999, 1.008, 1.008], 6)[:, None]
    assert np.sqrt(((acceleration - expected) ** 2).mean() / (expected**2).mean()) < 2e-3


def test_energy_and_momenta_are_kept_and_it_starts_at_300_kelvin(water):
    energy = water.potential + water.kinetic
    assert len(energy) == N_STEPS // 10 + 1
    assert np.ptp(energy) < 0.05 < np.ptp(water.kinetic)
    np.testing.assert_allclose(ff.kinetic_energy(water.v[::10]), water.kinetic, rtol=1e-6)
    assert ff.temperature(water.kinetic[0], 6) == pytest.approx(300, rel=1e-9)
    mass = np.tile([15.999, 1.008, 1.008], 6)[:, None]
    for i in (0, -1):
        q, v = water.q[i].astype(float), water.v[i].astype(float)
        size = (mass * np.linalg.norm(v, axis=-1, keepdims=True)).sum()
        assert np.abs((mass * v).sum(0)).max() < 1e-6 * size
        assert np.abs((mass * np.cross(q, v)).sum(0)).max() < 1e-5 * size


def test_reruns_are_bitwise_equal_and_longer_runs_begin_alike(water, other, tmp_path, monkeypatch):
    monkeypatch.setenv("NDAE_CACHE", str(tmp_path))  # so that it is made again
    again = simulate(0, N_STEPS // 2, **SHORT)
    assert len(again) == N_STEPS // 2 + 1
    for name in ("q", "v"):
        assert np.array_equal(getattr(again, name), getattr(water, name)[: N_STEPS // 2 + 1])
        assert not np.allclose(getattr(other, name)[0], getattr(water, name)[0])
    assert np.array_equal(again.potential, water.potential[: N_STEPS // 20 + 1])


def test_what_the_force_field_or_a_setting_makes_is_made_again_where_that_changes(cache, monkeypatch):
    few = {"n_steps": 3, "n_molecules": 2, "equilibration_ps": 0.01, "check_temperature": False}
    first = simulate(5, **few)
    made, accepted = [], simulation._accepted
    monkeypatch.setattr(simulation, "_accepted", lambda *of: made.append(of) or accepted(*of))
    np.testing.assert_array_equal(simulate(5, **few).q, first.q)
    assert not made
    for module, name, value in ((ff, "BOND", 800.0), (simulation, "_FRICTION", 4.0)):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            assert not np.array_equal(simulate(5, **few).q, first.q)
    assert len(made) == 2


def test_a_start_of_another_temperature_is_not_taken(monkeypatch):
    """Six molecules come to any temperature: with a check of 0.02 ps the first starts are wrong by tens of kelvins."""
    monkeypatch.setattr("ndae.experiments.water.simulate.CHECKED_PS", 0.02)
    said = []
    options = {"n_molecules": 6, "equilibration_ps": 0.1}
    found = simulate(0, 100, progress=lambda fraction, what: said.append((fraction, what)), **options)
    assert len(found) == 101
    start = int(found.origin.rsplit(" ", 1)[1])
    assert start > 0 and f"start {start}: constant energy" in said[-1][1]
    assert all(0 <= fraction <= 1 for fraction, _ in said)
    whole = simulate(0, 200, **options)
    assert abs(ff.temperature(whole.kinetic.mean(), 6) - 300) <= 5
    assert np.array_equal(whole.q[:101], found.q)
    monkeypatch.setattr("ndae.experiments.water.simulate.MAX_TRIES", start)
    with pytest.raises(ValueError, match=rf"none of {start} starts .* within 5 K of 300 K .*give another seed or more"):
        simulate(0, 300, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps must be a whole number of at least 1"),
        ({"n_molecules": True}, "n_molecules must be"),
        ({"seed": -1}, "seed must be"),
        ({"dt": 0.0}, "dt must be a positive time step in fs"),
        ({"equilibration_ps": -1.0}, "equilibration_ps must be"),
        ({"dt": 30.0, "n_steps": 1000}, "not finite in steps of 30 fs: give a smaller dt"),
    ],
)
def test_what_it_can_not_simulate_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(**(SHORT | {"seed": 0, "n_steps": 10} | options))


def test_the_line_that_installs_the_extra_is_said(monkeypatch, water, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "openmm", None)  # importing it then fails
    monkeypatch.setitem(sys.modules, "ase", None)
    for name in ("ase.io", "ase.units"):
        monkeypatch.setitem(sys.modules, name, None)
    line = r"needs the package {}, .*pip install 'ndae\[water\]'"
    with pytest.raises(MissingPackage, match=line.format("openmm")):
        simulate(0, 10, **SHORT)
    path = tmp_path / "a.extxyz"
    path.touch()
    with pytest.raises(MissingPackage, match=line.format("ase")):
        read_trajectory(path)
    with pytest.raises(ModuleNotFoundError, match=line.format("ase")):
        write_extxyz(water, path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(MissingPackage, match=line.format("e3nn")):
        patch.setitem(sys.modules, "e3nn", None)
        build_model(RunConfig(problem="water", network="equivariant-small"))
    # The command line tells it as one line.
    arguments = ["train", "water", "--out", str(tmp_path / "run"), "--horizon", "1", "--network", "molecular"]
    arguments += ["--method", "soft"]
    code, _, error = in_process(capsys, *arguments)
    assert code == 1 and "pip install 'ndae[water]'" in error and "Traceback" not in error


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def frames(water, tmp_path):
    """`write(change)`: a file of the first five frames, each changed by `change(atoms, number)`; its path."""
    import ase.io

    path = write_extxyz(water.first(5), tmp_path / "water@1.extxyz")
    images = ase.io.read(path, ":", do_not_split_by_at_sign=True)

    def write(change):
        changed = [new if (new := change(atoms, i)) is not None else atoms for i, atoms in enumerate(images)]
        ase.io.write(tmp_path / "changed.extxyz", changed)
        return tmp_path / "changed.extxyz"

    return write


def test_what_is_written_is_read(water, tmp_path):
    path = write_extxyz(water, tmp_path / "water.extxyz", every=20)
    assert count_molecules(path) == 6
    read = read_trajectory(path)
    assert read.dt == 2.0 and len(read) == N_STEPS // 20 + 1 and read.potential is None
    assert read.q.dtype == read.v.dtype == np.float32
    np.testing.assert_allclose(read.q, water.q[::20], atol=1e-6)
    np.testing.assert_allclose(read.v, water.v[::20], atol=1e-8)
    assert read_trajectory(path, frame_step=1.9).dt == 1.9
    with pytest.raises(ValueError, match="every must be"):
        write_extxyz(water, path, every=0)


def test_atoms_are_put_into_order(water, frames):
    order = [0, 3, 6, 9, 12, 15, 5, 1, 4, 2, *(i for i in range(6, 18) if i % 3)]
    path = frames(lambda atoms, i: atoms[order])
    read = read_trajectory(path)
    mine = water.q[:5].reshape(5, 6, 3, 3)
    mine[:, 1, 1:] = mine[:, 1, [2, 1]]  # hydrogens of a molecule stay in the file's order: of this one turned round
    np.testing.assert_allclose(read.q.reshape(5, 6, 3, 3), mine, atol=1e-6)


def replaced(atoms, **options):
    for name, value in options.items():
        getattr(atoms, f"set_{name}")(value)


def moved(atoms, which, by):
    atoms.positions[which] += by


def without(atoms, name):
    del atoms.arrays[name]


def timed(atoms, time):
    atoms.info["time"] = time


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, i: without(a, "momenta"), "frame 0 has no velocities .*momenta:R:3"),
        (lambda a, i: without(a, "momenta") if i == 2 else None, "frame 2 has no velocities"),
        (lambda a, i: a[:15] if i == 3 else None, "frame 3 has 15 atoms and frame 0 has 18"),
        (lambda a, i: a[[1, 0, *range(2, 18)]] if i == 1 else None, "atom 0 is H in frame 1 and O in frame 0"),
        (lambda a, i: a[:17], "frame 0 has 6 O, 11 H: expected water"),
        (lambda a, i: replaced(a, chemical_symbols=["C", *a.get_chemical_symbols()[1:]]), "1 C, 12 H, 5 O"),
        (lambda a, i: a[:0], "no atoms|can not read"),
        (lambda a, i: replaced(a, masses=[15.999, 2.014, 2.014] * 6), r"atom 1 \(H\) .* has a mass of 2.014 amu"),
        (lambda a, i: moved(a, 7, np.nan) if i == 4 else None, "positions of atom 7 in frame 4 are not finite"),
        (lambda a, i: replaced(a, momenta=np.full((18, 3), np.inf)), "velocities of atom 0 in frame 0 are not finite"),
        (lambda a, i: replaced(a, momenta=np.zeros((18, 3))), "all velocities are zero"),
        (lambda a, i: moved(a, 4, 20.0), r"atom 4 \(H\) in frame 0 has 0 oxygens within 1.3 Å"),
        (lambda a, i: replaced(a, positions=a.positions * [1, 0.01, 0.01]), r"atom 1 \(H\) in frame 0 has . oxygens"),
        (lambda a, i: moved(a, 8, [20.0, 0, 0]) if i == 3 else None, "molecule 2 .* is torn in frame 3"),
        (lambda a, i: moved(a, [6, 7, 8], 20.0) if i > 2 else None, "molecule 2 .* jumps by 34.6 Å between frames 2"),
        (lambda a, i: a.info.clear(), "frame 0 has no time .* give frame_step"),
        (lambda a, i: timed(a, 0.3 if i == 2 else 0.1 * i), "frames 1 and 2 are 0.2 fs apart, on average it is 0.1"),
        (lambda a, i: timed(a, 0.5), "frames 0 and 1 are 0 fs apart"),
        (lambda a, i: timed(a, 0.0001 * i), "times as fast as their velocities say"),
        (lambda a, i: replaced(a, momenta=a.get_momenta() * 10), "molecules move 0.1 times as fast"),
    ],
)  # fmt: skip
def test_what_a_file_has_wrong_is_said(frames, change, message):
    path = frames(change)
    with pytest.raises(ValueError, match=message) as caught:
        read_trajectory(path)
    assert str(caught.value).startswith(str(path))


def test_molecules_torn_in_the_first_frame_of_a_periodic_cell_are_named(frames):
    def wrap(atoms, i):
        atoms.set_cell([12, 12, 12])
        atoms.pbc = True
        atoms.positions += atoms.positions[0] * -1 + [0.01, 0.01, 0.01]
        atoms.wrap()

    with pytest.raises(ValueError, match=r"has 0 oxygens .*the cell is periodic: give whole molecules, unwrapped"):
        read_trajectory(frames(wrap))


def test_what_is_no_trajectory_is_said(water, tmp_path):
    with pytest.raises(ValueError, match="it has 2 frames: give a trajectory of three or more"):
        read_trajectory(write_extxyz(water.first(2), tmp_path / "two.extxyz"))
    with pytest.raises(FileNotFoundError):
        read_trajectory(tmp_path / "none.extxyz")
    path = tmp_path / "text.extxyz"
    path.write_text("3\nnothing\n")
    with pytest.raises(ValueError, match=r"text\.extxyz: ASE can not read it as a trajectory"):
        read_trajectory(path)
    with pytest.raises(ValueError, match="frame_step must be a positive time in fs"):
        read_trajectory(path, frame_step=0.0)


# --- samples ----------------------------------------------------------------------------------------------------------


def counted(n=1000, dt=0.1, molecules=1):
    """A trajectory whose positions are the number of the frame."""
    q = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None], (n, 3 * molecules, 3))
    return Trajectory(q, -q, dt)


def test_splits_are_disjoint_with_a_gap_and_targets_stay_in_their_block():
    horizon, size = 30, 100
    data = water_data(400, horizon, 3, n_val=50, n_test=size, trajectory=counted(), other=counted(500))
    assert list(data.tests) == ["random", "time-blocked", "other seed"] and data.test is data.tests["time-blocked"]
    assert [len(part) for part in (data.train, data.val, *data.tests.values())] == [400, 50, size, size, size]
    early = [data.train.index, data.val.index, data.tests["random"].index]
    assert len(np.unique(np.concatenate(early))) == 400 + 50 + size
    assert np.concatenate(early).max() + horizon < 800 and np.concatenate(early).min() < 20
    late = data.test.index
    assert len(np.unique(late)) == size and late.min() >= 850 and 970 > late.max() > 950
    assert data.tests["other seed"].index.max() + horizon < 500
    for part in (data.train, data.val, *data.tests.values()):
        assert part.inputs.shape == (len(part), 3, 6) and part.inputs.dtype == part.targets.dtype == np.float32
        assert (part.inputs[:, 0, 0] == part.index).all() and (part.inputs[:, 2, 5] == -part.index).all()
        assert (part.targets[:, 1, 1] == part.index + horizon).all()


def test_all_of_a_block_can_be_asked_for_and_no_more():
    sizes = {"n_val": 60, "n_test": 140}
    data = water_data(600 - 10, 10, 0, trajectory=counted(), **sizes)
    assert "other seed" not in data.tests
    drawn = np.concatenate([data.train.index, data.val.index, data.tests["random"].index])
    assert np.array_equal(np.sort(drawn), np.arange(790))
    assert np.array_equal(np.sort(data.test.index), np.arange(850, 990))
    with pytest.raises(
        ValueError, match=r"first 80 % .*\(1000 frames\) has 790 samples .*fewer than 791 .*n_train 591"
    ):
        water_data(591, 10, 0, trajectory=counted(), **sizes)
    with pytest.raises(ValueError, match=r"last 15 % .* has 140 samples .* fewer than 141 \(n_test 141\)"):
        water_data(5, 10, 0, trajectory=counted(), n_val=5, n_test=141)
    with pytest.raises(ValueError, match=r"other trajectory \(100 frames\) has 90 samples"):
        water_data(590, 10, 0, trajectory=counted(), other=counted(100), **sizes)
    with pytest.raises(ValueError, match="has 0 samples with targets 900 steps later"):
        water_data(5, 900, 0, trajectory=counted(), n_val=5, n_test=5)


def test_tests_are_the_same_for_every_number_of_training_samples():
    few, many, again = (
        water_data(n, 10, seed, n_val=20, n_test=30, trajectory=counted(), other=counted())
        for n, seed in ((10, 0), (300, 0), (10, 1))
    )
    assert np.array_equal(few.train.index, many.train.index[:10])
    assert not np.array_equal(few.train.index, again.train.index)
    for name, samples in few.tests.items():
        assert np.array_equal(samples.index, many.tests[name].index), name
        assert not np.array_equal(samples.index, again.tests[name].index), name


def test_wrong_counts_and_pairs_are_said():
    for name, value in (("n_train", 0), ("horizon", 1.0), ("seed", -1), ("n_val", True)):
        options = {"n_train": 5, "horizon": 10, "seed": 0, "n_val": 5} | {name: value}
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            water_data(**options, trajectory=counted())
    for wrong in (counted(dt=0.2), counted(molecules=2)):
        with pytest.raises(ValueError, match="give two of the same kind"):
            water_data(5, 10, 0, n_val=5, n_test=5, trajectory=counted(), other=wrong)


# --- trivial predictions ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(water, other):
    return water_data(300, 50, 0, n_val=20, n_test=40, trajectory=water, other=other)


def test_scores_are_those_written_out():
    rigid = np.array([[0, 0, 0], [0.957, 0, 0], [0.957 - 1.513**2 / 2 / 0.957, 0, 0]])
    rigid[2, 1] = np.sqrt(0.957**2 - rigid[2, 0] ** 2)
    assert violation(rigid).max() < 1e-12
    long = rigid.copy()
    long[1, 0] += 0.03
    found = scores(long[None], rigid[None])
    assert found["mae_pm"] == pytest.approx(1.0) and found["molecule_pm"] == pytest.approx(3.0)
    assert violation(long)[0, 0] == pytest.approx(0.03)
    assert found["violation_max"] == pytest.approx(0.03)
    with pytest.raises(ValueError, match="give both the same"):
        molecule_error_pm(long[None], rigid)


def test_trivial_predictions_are_what_their_names_say(water, data):
    samples = data.tests["random"]
    found = trivial_predictions(samples, 50, data.dt, train=data.train, same_time=True)
    i = 7
    q, v = (x[samples.index[i]].astype(float) for x in (water.q, water.v))
    np.testing.assert_allclose(found["constant velocity"][i], q + 5.0 * v, atol=1e-6)
    for name in ("no motion", "constant velocity"):
        on = found[f"{name}, projected"]
        assert violation(on).max() < 1e-9
        # Nearest: what it moved by is normal to motions that keep distances, such as a shift of one molecule.
        shift = (on - found[name]).reshape(len(samples), -1, 3, 3).sum(2)
        assert np.abs(shift).max() < 1e-6
    by_mass = found["constant velocity, projected by mass"] - found["constant velocity"]
    assert violation(found["constant velocity, projected by mass"]).max() < 1e-9
    weighted = np.array([15.999, 1.008, 1.008])[:, None] * by_mass.reshape(len(samples), -1, 3, 3)
    assert np.abs(weighted.sum(2)).max() < 1e-6
    far = np.linalg.norm(
        (np.concatenate([data.train.inputs[..., :3], 5.0 * data.train.inputs[..., 3:]], -1)
         - np.concatenate([q, 5.0 * v], -1)).reshape(300, -1), axis=1)  # fmt: skip
    assert np.array_equal(found["nearest training sample"][i], data.train.targets[np.argmin(far)])
    gap = np.abs(data.train.index - samples.index[i]).min()
    nearest = found["nearest in time"][i]
    assert any(np.array_equal(nearest, water.q[samples.index[i] + k + 50]) for k in (-gap, gap))


def test_memory_is_of_use_on_the_random_split_alone(data):
    tables = {name: baselines(data, name) for name in data.tests}
    assert "nearest in time" in tables["random"] and "nearest in time" not in tables["time-blocked"]
    error = {name: table["nearest training sample"]["mae_pm"] for name, table in tables.items()}
    assert error["random"] < tables["random"]["no motion"]["mae_pm"] < error["time-blocked"] < error["other seed"]
    for table in tables.values():
        floor = table["truth, projected"]
        assert 1.0 < floor["mae_pm"] < 6.0 and floor["violation_max"] < 1e-9
        assert floor["mae_pm"] < table["constant velocity, projected"]["mae_pm"] < table["no motion"]["mae_pm"]
    with pytest.raises(ValueError, match="no test samples 'blocked': give one of 'random', 'time-blocked'"):
        baselines(data, "blocked")


# --- the problem ------------------------------------------------------------------------------------------------------


def test_the_problem_of_a_file_is_of_the_molecules_in_it(water, tmp_path):
    problem = to_learn("water")
    assert (problem.nodes, problem.n_molecules, problem.dt) == (96, 32, 0.1)
    assert len(problem.mass) == 96 and problem.constraint.n_states == 288
    mine = problem.of(write_extxyz(water, tmp_path / "a.extxyz"), None)
    assert (mine.nodes, mine.dt, len(mine.mass), mine.constraint.n_states) == (18, 0.1, 18, 54)
    parts = mine.data(50, 20, 0, n_val=10, n_test=15, report=None)
    assert parts.test.inputs.shape == (15, 18, 6) and list(mine.tests(parts)) == ["random", "time-blocked"]
    assert mine.baselines(parts) == mine.baselines_of(parts, "time-blocked")
    assert "mae_pm" in mine.baselines(parts)["no motion"]
    assert mine.metrics(parts.test.targets, parts.test.targets) == {"molecule_pm": 0.0}
    assert problem.of(mine.trajectory_file, 0.2).dt == 0.2
    with pytest.raises(ValueError, match="has 6 molecules, not 7"):
        type(mine)(7, mine.trajectory_file).data(50, 20, 0, n_val=10, n_test=15, report=None)


@pytest.mark.parametrize("network", ["mlp", "mimetic", "mimetic-small"])
def test_networks_that_know_no_molecules_are_refused(network):
    with pytest.raises(ValueError, match=f"{network}.*equivariant-small or equivariant or molecular"):
        to_learn("water").check_method("none", network)
    to_learn("water").check_method("none", "equivariant-small")


# --- CP2K -------------------------------------------------------------------------------------------------------------


def test_what_cp2k_found_is_compared(water, tmp_path):
    """With results as CP2K would write them: of the same motion, then of one that is off by a known amount."""
    path = write_input(water, tmp_path, n_steps=20)
    text = " ".join(path.read_text().split())
    assert "KIND CHARMM K [kcalmol*angstrom^-2] 450 R0 [angstrom] 0.9572" in text
    assert "KIND CHARMM K [kcalmol*rad^-2] 55 THETA0 [deg] 104.52" in text
    assert "STEPS 20 TIMESTEP [fs] 0.1" in text and "NMOL 6" in text
    atoms = np.loadtxt(tmp_path / "water.xyz", skiprows=2, usecols=(1, 2, 3))
    np.testing.assert_allclose(atoms, water.q[0], atol=1e-8)

    def leave(what, values):
        rows = (
            f"18\n step\n{''.join(f'X {x:.10f} {y:.10f} {z:.10f}' + chr(10) for x, y, z in frame)}" for frame in values
        )
        (tmp_path / f"water-{what}-1.xyz").write_text("".join(rows))

    n, bohr = 21, 0.529177210903
    hartree_per_bohr = ff.forces(water.q[:n]) / 1e-4 / HARTREE * bohr
    energies = np.zeros((n, 7))
    energies[:, 4] = ff.potential_energy(water.q[:n]) / HARTREE
    np.savetxt(tmp_path / "water-1.ener", energies, header="Step")
    for what, values in (("pos", water.q[:n]), ("vel", water.v[:n]), ("frc", hartree_per_bohr)):
        leave(what, values)
    found = compare(water, tmp_path)
    assert found["n_steps"] == 20 and found["potential"] < 1e-3
    assert max(found["force"], found["position"], found["velocity"]) < 1e-6
    leave("pos", water.q[:n] + np.float32(0.01))
    assert compare(water, tmp_path)["position"] == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ValueError, match="n_steps=2000"):
        write_input(replace(water), tmp_path, n_steps=2000)
