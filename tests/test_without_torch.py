"""A base installation, without the extra `learn`: systems are solved and checked, and what needs torch says so."""

import os
import subprocess
import sys

import pytest

LEARN = {"torch", "torchdiffeq", "lightning", "e3nn"}
# What an installation without an extra looks like to Python: nobody finds the packages.
ABSENT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in WITHOUT else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
PENDULUM = """
import numpy as np
import sympy as sp
import ndae

x, y, u, v, s = sp.symbols("x y u v s", real=True)
f = [ndae.dot(x) - u, ndae.dot(y) - v, ndae.dot(u) + s * x, ndae.dot(v) + s * y + 9.81, x**2 + y**2 - 1]
pendulum = ndae.System(f, [x, y, u, v, s])
assert pendulum.reduce().index == 3
start = ndae.consistent_initial_condition(pendulum, {"x": 0.8, "y": -0.5, "u": 0.3, "v": 0.0}, keep=["x", "u"])
solution = ndae.solve(pendulum, start, np.linspace(0, 1, 5))
assert max(solution.max_drift().values()) < 1e-10
energy = 9.81 * solution["y"] + (solution["u"] ** 2 + solution["v"] ** 2) / 2
assert np.ptp(energy) < 1e-8

torus = ndae.Constraint([x**2 + y**2 - 1], [x, y])
for name, ask in {
    "ndae.NeuralDAE": lambda: ndae.NeuralDAE,
    "ndae.methods": lambda: ndae.methods,
    "ndae.fields.MLPField": lambda: ndae.fields.MLPField,
    'by="torch"': lambda: ndae.solve(pendulum, start, [0, 1], by="torch"),
    "a function in torch": torus.torch,
}.items():
    try:
        ask()
    except ndae.MissingExtraError as error:
        assert str(error) == f"{name} needs the package torch: pip install 'ndae[learn]'", error
    else:
        raise AssertionError(name)
assert not {"torch", "lightning", "torchdiffeq"} & set(sys.modules)
"""
# The packages of `learn` are there, what is on top of them is not.
NETWORKS = """
import numpy as np
import sympy as sp
import ndae

x = sp.symbols("x:9")
bonds = ndae.Constraint([sum(x) - 1], x)
def build():
    ndae.models.build_molecular_network("equivariant-small", bonds, molecule="OHH", velocity_scale=1.0)
def fit():
    data = np.zeros((4, 1, 2)), np.zeros((4, 1, 1))
    ndae.fit(torch.nn.Linear(2, 1), data, data, out=sys.argv[1], epochs=1)

import torch
for what, ask, package, extra in [
    ("ndae.forces.EquivariantForce", lambda: ndae.forces.EquivariantForce, "e3nn", "e3nn"),
    ("ndae.fields.EquivariantField", lambda: ndae.fields.EquivariantField, "e3nn", "e3nn"),
    ("an equivariant network", build, "e3nn", "e3nn"),
    ("ndae.fit", fit, "lightning", "learn"),
]:
    try:
        ask()
    except ndae.MissingExtraError as error:
        assert str(error).endswith(f" needs the package {package}: pip install 'ndae[{extra}]'"), error
    else:
        raise AssertionError(what)
"""
COMMAND = "from ndae.experiments.cli import main; main()"


def without_torch(script: str, *arguments: str, packages: set[str] = LEARN) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", f"WITHOUT = {packages}\n{ABSENT}{script}", *arguments],
        env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True,
    )  # fmt: skip


def test_a_pendulum_is_solved_and_what_needs_torch_names_the_extra():
    done = without_torch(PENDULUM)
    assert done.returncode == 0, done.stderr


def test_what_trains_and_what_is_equivariant_name_their_extras(tmp_path):
    done = without_torch(NETWORKS, str(tmp_path), packages={"lightning", "e3nn"})
    assert done.returncode == 0, done.stderr


def test_crosschecks_go_on_without_the_opinion_in_torch():
    done = without_torch(COMMAND, "crosscheck", "pendulum_g10", "--tolerances", "1e-6", "--against", "torch")
    assert done.returncode == 0, done.stderr
    assert "torch, rtol 1e-06: not installed: pip install 'ndae[learn]'" in done.stdout


@pytest.mark.parametrize("command", ["train", "demo"])
def test_a_command_that_trains_names_the_extra(command):
    done = without_torch(COMMAND, command, *(["pendulum"] if command == "train" else []))
    assert done.returncode == 1
    assert f"`ndae {command}` needs the package torch: pip install 'ndae[learn]'" in done.stderr
