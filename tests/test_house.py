"""The rules of the house: imports run one way, faces are true, shapes are checked while the tests run."""

import ast
import os
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import jaxtyping
import networkx
import pytest
import torch

ROOT = Path(__file__).parents[1]
# Every room with what stands in it: each imports what is listed before it, in its own room and in the rooms before.
ORDER = {
    "symbolic": (
        "ground", "expressions", "numeric", "parse", "code", "backends", "functions", "forms", "reduction", "systems",
        "library",
    ),
    "solvers": (
        "faces", "progress", "cache_folder", "threads", "programs", "_types", "_jax_types", "errors", "arguments",
        "tensors", "batches", "solution", "manifold", "depth", "stepping", "dae", "mechanics", "outside",
        "consistent", "solve",
    ),
    "ndae": (
        "_types", "users_code", "files", "constants", "progress", "data", "fields", "manifold", "methods", "forces",
        "models", "training", "symmetry",
    ),
    "experiments": (
        "cache", "files", "nearest", "terminal", "variants", "paper", "water", "problems", "runs", "drawing",
        "crosscheck", "validation", "studies", "benchmarks", "cli",
    ),
}  # fmt: skip
ROOMS = tuple(ORDER)


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "ndae" else ("ndae", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(module: str) -> tuple[int, int]:
    """Number of the room, and of what stands in it; a face is above all that it shows."""
    parts = module.split(".")[1:]
    room = parts.pop(0) if parts and parts[0] in ROOMS else "ndae"
    if parts == ["__main__"]:  # the command line's door
        return len(ROOMS), 0
    if not parts:
        return ROOMS.index(room), len(ORDER[room])
    assert parts[0] in ORDER[room], f"{module}: give {parts[0]!r} its place in ORDER"
    return ROOMS.index(room), ORDER[room].index(parts[0])


FILES = {
    module_of(file): file
    for room in ROOMS
    for file in sorted((ROOT / room).rglob("*.py"))
    if not any(folder.is_symlink() for folder in file.parents)
}


def imported(module: str) -> set[str]:
    """Files of the project that a file imports: at its top, inside of functions, and for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports from `ndae` on"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.add(inside if inside in FILES else node.module)
    return found - {module}


STUBS = sorted(file.with_suffix(".pyi") for file in FILES.values() if file.with_suffix(".pyi").exists())


IMPORTS = {module: imported(module) for module in FILES}


def test_imports_run_one_way():
    back = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in sorted(names & FILES.keys())
        if place(name) > place(module)
    ]
    assert not back


def test_no_files_import_one_another_in_a_circle():
    graph = networkx.DiGraph((module, name) for module, names in IMPORTS.items() for name in names if name in FILES)
    assert [sorted(part) for part in networkx.strongly_connected_components(graph) if len(part) > 1] == []


def test_everything_is_imported_under_one_name():
    alone = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if name.split(".")[0] in {*ROOMS} - {"ndae"} or (name.split(".")[0] == "ndae" and name not in FILES)
    ]
    assert not alone


def test_nothing_private_of_other_packages_is_imported():
    """What begins with an underscore may be gone in the next release."""
    private = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if name.split(".")[0] != "ndae" and any(part[0] == "_" and part[1] != "_" for part in name.split("."))
    ]
    assert not private


@pytest.mark.parametrize("stub", STUBS, ids=module_of)
def test_faces_show_what_there_is(stub):
    face = import_module(module_of(stub))
    names = [
        alias.name
        for node in ast.parse(stub.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(face.__all__) == sorted(names)
    for name in names:
        assert hasattr(face, name)


SCRIPT = """
import solvers, symbolic, experiments, os
import ndae, sympy as sp
from ndae.experiments.problems import problem_names
x, y = sp.symbols("x y")
assert ndae.Constraint([x**2 + y**2 - 1], [x, y]).n_residuals == 1
assert ndae.System([ndae.dot(x) - y, x + y], [x, y]).index == 1
assert "robertson" in problem_names()
assert ndae.solvers.IntegrationError is ndae.IntegrationError
assert (solvers.WHOSE, symbolic.WHOSE, experiments.WHOSE) == ("mine",) * 3
print(os.path.dirname(ndae.__file__))
"""


@pytest.mark.parametrize("installed", ["wheel", "checkout"])
def test_a_users_files_may_have_the_names_of_our_rooms(installed, tmp_path):
    home = ROOT
    if installed == "wheel":
        home = tmp_path / "site"
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
        subprocess.run(build, check=True, cwd=ROOT, capture_output=True)
        [wheel] = tmp_path.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(home)
        assert {path.name for path in home.iterdir() if not path.name.endswith(".dist-info")} == {"ndae"}
    own = tmp_path / "own"
    (own / "experiments").mkdir(parents=True)
    for file in ("solvers.py", "symbolic.py", "experiments/__init__.py"):
        (own / file).write_text('WHOSE = "mine"\n')
    (own / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(home)}
    done = subprocess.run([sys.executable, "script.py"], cwd=own, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == home / "ndae"


def test_shapes_are_checked_at_run_time():
    from ndae.models.maps import LinearMap
    from ndae.symbolic import library

    chain = library.chain(3).torch()
    with pytest.raises(jaxtyping.TypeCheckError):
        chain.vjp(torch.zeros(2, 6), torch.zeros(3, 3))  # batches that differ
    with pytest.raises(jaxtyping.TypeCheckError):
        LinearMap(2, 4).start_as(torch.zeros(4))
