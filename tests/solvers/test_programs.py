"""Compiled programs: what compiles again and what does not, and that what is kept is right or of no use."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp

import ndae
from ndae.solvers import programs, solve
from ndae.solvers.arguments import float64_on_cpu
from ndae.solvers.programs import Program
from ndae.symbolic import System, dot
from ndae.symbolic.expressions.unknowns import unknown
from tests.solvers.dae_cases import pendulum
from tests.systems import hanging

compiled_by_xla = []


def note(event, duration, **more):
    if event.endswith("backend_compile_duration"):
        compiled_by_xla.append(duration)


jax.monitoring.register_event_duration_secs_listener(note)
GROWTH = """
import sys, numpy as np, sympy as sp
from ndae.solvers import programs, solve
from ndae.symbolic import System, dot
from ndae.solvers.stepping.kernel import ReferenceKernel
compile_, names = programs._compile, []
programs._compile = lambda *a: names.append(1) or compile_(*a)
chunk, traced = ReferenceKernel._solve_chunk, []
ReferenceKernel._solve_chunk = lambda *a, **k: traced.append(1) or chunk(*a, **k)
x, k = sp.symbols("x k")
solution = solve(System([dot(x) - k * x], [x], {k: 0.5}), {"x": 1.0}, np.linspace(0, 1, 3))
assert abs(solution["x"][-1] - np.exp(0.5)) < 1e-9
print(f"compiled {len(names)}, traced {len(traced)}")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NDAE_COMPILED", str(tmp_path / "kept"))
    return tmp_path / "kept"


def n_compiled(run):
    """How many programs, however small, XLA compiles in `run()`."""
    before = len(compiled_by_xla)
    run()
    return len(compiled_by_xla) - before


def cube(x):
    with float64_on_cpu():
        return Program(lambda x: x * x * x, "cube")(x)


def growth(rate):
    x, k = sp.symbols("x k")
    return System([dot(x) - k * x], [x], {k: rate})


def test_a_first_solve_compiles_one_program_and_a_few_operations_and_other_numbers_none(folder):
    ts = np.linspace(0, 1, 5)
    system = pendulum()

    def swing(angle=0.5, ts=ts, **settings):
        return solve(system, hanging(angle), ts, **settings)

    assert n_compiled(swing) <= 4  # the kernel, and what diffrax computes while it is traced
    again = [
        lambda: swing(angle=1.0),
        lambda: swing(ts=np.linspace(2, 3.5, 8)),
        lambda: swing(ts=np.array([0.0, 0.1])),
        lambda: swing(parameters={"g": 3.0}),
        lambda: swing(parameters={"m": 2.0, "g": 1}),
        lambda: swing(rtol=1e-6, atol=1e-9, max_steps=10_000),
        lambda: swing(atol={"x": 1e-3}),
    ]
    assert [n_compiled(run) for run in again] == [0] * len(again)


def test_a_batch_of_the_same_size_never_compiles_again(folder):
    system, ts = growth(0.5), np.linspace(0, 1, 3)
    solve(system, {"x": np.ones(3)}, ts, parameters={"k": np.arange(3.0)})
    others = {"x": np.array([1.0, 2.0, 0.5])}
    assert n_compiled(lambda: solve(system, others, 2 * ts, parameters={"k": np.array([1.0, 0.0, -1.0])})) == 0


def test_the_same_equations_with_other_defaults_share_what_is_kept(folder):
    ts = np.linspace(0, 1, 3)
    solve(growth(0.5), {"x": 1.0}, ts)
    files = set(folder.glob("*.program"))
    solution = solve(growth(0.25), {"x": 1.0}, ts)
    assert set(folder.glob("*.program")) == files
    np.testing.assert_allclose(solution["x"][-1], np.exp(0.25), rtol=1e-9)


def test_another_process_compiles_nothing_again(folder):
    environment = os.environ | {"NDAE_COMPILED": str(folder)}
    for seed, n in (("1", 1), ("2", 0)):
        command = [sys.executable, "-c", GROWTH]
        done = subprocess.run(
            command, env=environment | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert f"compiled {n}, traced {n}" in done.stdout
    assert len(list(folder.glob("*.program"))) == len(list(folder.glob("*.recipe"))) == 1


def test_a_damaged_note_or_one_of_a_program_that_is_gone_is_made_again(folder):
    ts = [0.0, 1.0]
    solve(growth(0.5), {"x": 1.0}, ts)
    (program,), (note,) = folder.glob("*.program"), folder.glob("*.recipe")
    whole = note.read_bytes()
    for damage in (lambda: note.write_bytes(whole[:-1]), lambda: note.write_bytes(b""), program.unlink, note.unlink):
        damage()
        solution = solve(growth(0.5), {"x": 1.0}, ts)
        np.testing.assert_allclose(solution["x"][-1], np.exp(0.5), rtol=1e-9)
        assert program.exists() and note.exists()


def test_recipes_tell_equations_apart():
    x, k = sp.symbols("x k")
    rates = [k * x, 2 * x, 2.0 * x, sp.Float("2.0", 30) * x, x, sp.sin(x), sp.Symbol("x", real=True) * k, sp.Abs(x)]
    systems = [System([dot(x) - rate.xreplace({sp.Symbol("x", real=True): x})], [x], {k: 0.5}) for rate in rates]
    systems += [
        growth(0.25),
        System([dot(x) - k * x], [x], {k: None}),
        System([dot(x) - k * x], [x], {k: 0.5}, name="b"),
    ]
    real = sp.Symbol("x", real=True)
    systems.append(System([dot(real) - k * real], [real], {k: 0.5}))
    recipes = [system.reduce().recipe() for system in systems]
    same = systems[0].reduce().recipe(), growth(0.5).reduce().recipe(), recipes[6]
    assert same[0] == same[1] == same[2]
    del recipes[6]
    assert None not in recipes and len(set(recipes)) == len(recipes)
    t, f = sp.Symbol("t"), unknown("f")
    table = ndae.table([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])
    for rate in (f(x), table(t)):
        assert System([dot(x) - rate], [x], time=t).reduce().recipe() is None


def test_what_is_kept_is_checked_and_made_again(folder):
    assert cube(2.0) == 8.0
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"x" * len(whole)):
        file.write_bytes(damaged)
        assert cube(2.0) == 8.0
        assert file.read_bytes() != damaged
    assert n_compiled(lambda: cube(3.0)) == 0


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path, monkeypatch):
    blocked = tmp_path / "a file"
    blocked.touch()
    monkeypatch.setenv("NDAE_COMPILED", str(blocked / "kept"))
    assert cube(2.0) == 8.0


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files")
def test_a_folder_that_others_may_write_to_is_not_used(folder):
    solve(growth(0.5), {"x": 1.0}, [0.0, 1.0])
    for kept in folder.iterdir():
        kept.write_bytes(b"")
    folder.chmod(0o777)
    assert solve(growth(0.5), {"x": 1.0}, [0.0, 1.0]).succeeded
    assert [path.read_bytes() for path in folder.iterdir()] == [b"", b""]


def test_nothing_is_kept_where_the_user_does_not_want_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NDAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NDAE_COMPILED", "off")
    assert cube(2.0) == 8.0
    monkeypatch.delenv("NDAE_COMPILED")
    for name, value in (("jax_enable_compilation_cache", False), ("jax_compilation_cache_dir", str(tmp_path / "own"))):
        before = getattr(jax.config, name)
        jax.config.update(name, value)
        try:
            assert cube(2.0) == 8.0
        finally:
            jax.config.update(name, before)
    assert not (tmp_path / "cache").exists()
    assert cube(2.0) == 8.0
    assert len(list((tmp_path / "cache" / "compiled").iterdir())) == 1


def test_code_for_another_processor_is_not_loaded(folder, monkeypatch):
    cube(2.0)
    monkeypatch.setattr(programs, "_processor", lambda: "another one")
    assert n_compiled(lambda: cube(2.0)) == 1
    assert len(list(folder.iterdir())) == 2


def test_every_number_in_a_program_counts(folder):
    """Also one in the middle of a large array, which printing might leave out."""
    table = np.arange(300.0 * 300).reshape(300, 300)
    for change in (0.0, 1.0):
        table[150, 150] += change
        with float64_on_cpu():
            np.testing.assert_array_equal(Program(lambda x: x @ table.copy(), "product")(np.ones(300)), table.sum(0))
    assert len(list(folder.iterdir())) == 2


def test_a_program_that_calls_python_is_compiled_every_time(folder):
    def doubled(x):
        return jax.pure_callback(lambda x: 2 * np.asarray(x), jax.ShapeDtypeStruct((), jnp.float64), x)

    with float64_on_cpu():
        assert Program(doubled, "doubled")(1.5) == 3.0
    assert not folder.exists()


def test_writers_at_once_leave_whole_files(folder):
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(cube, [2.0] * 8)) == [8.0] * 8
    assert len(list(folder.iterdir())) == 1
    assert n_compiled(lambda: cube(2.0)) == 0


def test_what_was_not_used_for_the_longest_time_goes_first(folder, monkeypatch):
    for n in (1, 2, 3):
        cube(np.ones(n))
    (folder / "notes.txt").write_text("of somebody else")
    first, second, third = sorted(folder.glob("*.program"), key=lambda file: file.stat().st_mtime_ns)
    for age, file in enumerate((first, third, second)):  # the first was used last
        os.utime(file, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(programs, "MOST_BYTES", first.stat().st_size + 1500)
    programs._make_room(folder)
    assert first.exists() and not second.exists() and (folder / "notes.txt").exists()


@pytest.mark.parametrize(("by", "batch"), [("dopri8", ()), ("dopri8", (2,)), ("kvaerno5", ()), ("radau13", ())])
def test_kernels_do_not_call_python(folder, monkeypatch, by, batch):
    class SeenError(Exception):
        pass

    def see(lowered, text, name, long):
        assert "callback" not in text
        raise SeenError

    monkeypatch.setattr(programs, "_compiled", see)
    with pytest.raises(SeenError):
        solve(growth(0.1), {"x": np.ones(batch)}, np.linspace(0, 1, 3), by=by)
