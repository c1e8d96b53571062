"""What a type checker, and so an editor, says of a file that uses `ndae` alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("basedpyright", reason="the type checker is not installed: pip install basedpyright")

ROOT = Path(__file__).parents[1]
USE = """
import sympy as sp
import torch

import ndae

x, y = sp.symbols("x y")
system = ndae.System([ndae.dot(x) - y, x + y], [x, y], name="decay")
solution = ndae.solve(system, {"x": 1.0, "y": -1.0}, [0.0, 1.0])
links = ndae.library.chain(2, 2)
field = ndae.fields.MLPField(2, 4, 16)
method = ndae.methods.SmoothProjection() + ndae.methods.Penalty(10.0)
model = ndae.NeuralDAE(field, links, method, features=4, dim=2, latent=4, n_layers=2)
motion = ndae.NeuralMotion(links, ndae.forces.MLPForce(2, 2), duration=0.1)
inputs, targets = torch.zeros(8, 2, 4), torch.zeros(8, 2, 2)
result = ndae.fit(model, (inputs, targets), (inputs, targets), epochs=1, out="run")
"""
TYPES = {
    "system": "System",
    "system.index": "int",
    "solution": "Solution",
    "solution.names": "Sequence[str]",
    "links": "Constraint",
    "links.n_residuals": "int",
    "model": "NeuralDAE",
    "model.constraint": "TorchFunction",
    "model.method": "Method",
    "model.n_layers": "int",
    "model.log_step": "Parameter",
    "model.predict(inputs)": "Prediction",
    "model.predict(inputs).y": "Tensor",
    "motion": "NeuralMotion",
    "motion.duration": "float",
    "motion.masses": "Masses",
    "motion.states(inputs)": "Tensor",
    "result": "TrainingResult",
    "result.best.val_mae": "float",
    "ndae.evaluate(model, inputs, targets).mae": "float",
    "ndae.training.load_weights(model, result.best_checkpoint)": "NeuralDAE",
}
# A wrong line, and the rule that it is against.
WRONG = {
    "ndae.NeuralDEA": "reportAttributeAccessIssue",
    "ndae.fields.MLPFeild": "reportAttributeAccessIssue",
    "model.predicts(inputs)": "reportCallIssue",
    "ndae.NeuralDAE(field, links, features=4, dim=2)": "reportCallIssue",
    "ndae.NeuralDAE(field, links, features=4, dim=2, latent=4, layers=2)": "reportCallIssue",
    "ndae.solve(system)": "reportCallIssue",
    "ndae.fit(model, (inputs, targets), epochs=1)": "reportCallIssue",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What is said of each line: (severity, text, rule)."""
    folder = tmp_path_factory.mktemp("use")
    lines = [*USE.splitlines(), *(f"reveal_type({expression})" for expression in TYPES), *WRONG]
    (folder / "use.py").write_text("\n".join(lines) + "\n")
    settings = {"include": ["use.py"], "extraPaths": [str(ROOT)], "typeCheckingMode": "basic", "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found: dict[str, list] = {line: [] for line in lines}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        line = lines[one["range"]["start"]["line"]]
        found[line].append((one["severity"], one["message"], one.get("rule")))
    return found


def test_a_right_use_is_without_error(said):
    assert {line: said[line] for line in USE.splitlines() if said[line]} == {}


def test_attributes_have_types(said):
    expected = {name: [("information", f'Type of "{name}" is "{kind}"', None)] for name, kind in TYPES.items()}
    assert {name: said[f"reveal_type({name})"] for name in TYPES} == expected


def test_a_misspelt_name_and_a_missing_argument_are_errors(said):
    assert {line: [(how, rule) for how, _, rule in said[line] if how == "error"] for line in WRONG} == {
        line: [("error", rule)] for line, rule in WRONG.items()
    }
