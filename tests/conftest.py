"""Turn the shape checks on before any module of the project is imported."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import install_import_hook

install_import_hook(["symbolic", "solvers", "ndae"], "beartype.beartype")
