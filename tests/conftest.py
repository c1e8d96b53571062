"""Turn the shape checks on before any module of the project is imported."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "Agg")

from hypothesis import settings
from jaxtyping import install_import_hook

# The same code gets the same verdict; `HYPOTHESIS_PROFILE=explore make test` draws other examples every time.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Of `ndae.symbolic`, the modules that hold arrays: the others work on SymPy alone, check their input by hand (so wrong
# values have to reach them), and make so many small calls that the checks would slow derivation down tenfold.
ARRAYS = ("backends._runtime_torch", "backends._runtime_array", "systems.of_points_jax")
HERE = ("fields", "forces", "manifold", "methods", "models", "symmetry", "training")
CHECKED = [*(f"ndae.symbolic.{name}" for name in ARRAYS), "ndae.solvers", *(f"ndae.{name}" for name in HERE)]
install_import_hook(CHECKED, "beartype.beartype")
