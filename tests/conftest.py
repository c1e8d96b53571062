"""Turn the shape checks on before any module of the project is imported; put long files first, clear up after each."""

import functools
import gc
import os
import sys
import types
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "Agg")
# Compiled programs of earlier runs and of other workers, not those in the user's cache folder.
os.environ.setdefault("NDAE_COMPILED", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled"))
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import pytest
from hypothesis import settings

# The same code gets the same verdict; `HYPOTHESIS_PROFILE=explore make test` draws other examples every time.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Of `ndae.symbolic`, the modules that hold arrays: the others work on SymPy alone, check their input by hand (so wrong
# values have to reach them), and make so many small calls that the checks would slow derivation down tenfold.
ARRAYS = ("backends._runtime_torch", "backends._runtime_array", "systems.of_points_jax")
HERE = ("fields", "forces", "manifold", "methods", "models", "symmetry", "training")
CHECKED = [*(f"ndae.symbolic.{name}" for name in ARRAYS), "ndae.solvers", *(f"ndae.{name}" for name in HERE)]
# So many calls of each function are checked in each test: a check takes longer than most of what it checks.
N_CHECKED = 20
_test = 0
_jaxtyped = jaxtyping.jaxtyped


def _checked_at_first(*, typechecker):
    """`jaxtyping.jaxtyped`, as the import hook calls it, of each function's first calls in a test."""
    check = _jaxtyped(typechecker=typechecker)

    def decorate(fn):
        checked = check(fn)
        if not isinstance(fn, types.FunctionType):
            return checked
        test, calls = -1, 0

        @functools.wraps(fn)
        def call(*args, **kwargs):
            nonlocal test, calls
            if test != _test:
                test, calls = _test, 0
            calls += 1
            return checked(*args, **kwargs) if calls <= N_CHECKED else fn(*args, **kwargs)

        return call

    return decorate


jaxtyping.jaxtyped = _checked_at_first
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    global _test
    _test += 1


@pytest.fixture
def double_precision():
    """JAX in float64, as the solvers set it themselves."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache of simulations that begins empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


TESTS = Path(__file__).parent
# Files that take longest, for what they compile or train. They go first, so that no process is left alone with one.
LONG = ("docs", "solvers", "ndae", "experiments")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        room = item.path.relative_to(TESTS).parts[0]
        return LONG.index(room) if room in LONG else len(LONG)

    items.sort(key=rank)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What a file compiled for JAX goes with it: of use to no other, and gigabytes at the end."""
    if "jax" in sys.modules and (nextitem is None or nextitem.path != item.path):
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def no_lines_of_progress(monkeypatch):
    """Lines that long work writes into a pipe now and then: when they come depends on the machine."""
    from ndae import progress

    monkeypatch.setattr(progress, "LINE_SECONDS", float("inf"))
