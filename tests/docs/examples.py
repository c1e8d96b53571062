"""The code of a page of the documentation, run as it stands there, and what its examples claim.

A file of tests for each page, so that pages run side by side.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = {path.stem.lower(): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


# What an example says at its end that it found, by its last line.
CLAIMS = {
    "print(check)": [lambda n: n["check"].least > 6, lambda n: n["result"].best.val_mae < 3],
    "print(measured.missing)  # ['source']": [lambda n: n["measured"].missing == ["source"]],
    "print(push.matrix)  # 1.5 and 0": [
        lambda n: (n["push"].matrix.flatten() - torch.tensor([1.5, 0])).abs().max() < 0.05
    ],
    "print(damping.matrix())  # 0.5 and 0.2": [
        lambda n: (n["damping"].matrix() - torch.tensor([0.5, 0.2]).diag()).abs().max() < 1e-3
    ],
    "print(motion.mass.detach())": [lambda n: (n["motion"].mass - n["mass"]).abs().max() < 0.05],
    'print(links.learned["length"].tolist())  # 1.3 and 0.6': [
        lambda n: (n["links"].learned["length"] - torch.tensor([1.3, 0.6])).abs().max() < 5e-3
    ],
    "print(learned.stiffness.detach(), learned.rest_values.detach())  # 0.5 on the diagonal, and 0.02, 0.02, 0": [
        lambda n: (n["learned"].stiffness - 0.5 * torch.eye(3)).abs().max() < 1e-3,
        lambda n: (n["learned"].rest_values - torch.tensor([0.02, 0.02, 0])).abs().max() < 1e-4,
    ],
    'print(f"noise left in the starts: {100 * left.std():.1f} cm")': [lambda n: n["left"].std() < 0.01],
    "print(error)  # names the two equations, what they combine to, and the unknowns left over": [
        lambda n: (
            [n[name].reduce().index for name in ("rod", "same", "sleigh", "filled", "circuit")] == [3, 3, 2, 2, 1]
        ),
    ],
    "print(start.residual)  # at every level": [
        lambda n: all(abs(values).max() < 1e-12 for values in n["start"].residual.values()),
        lambda n: [n["start"].as_dict()[name] for name in ("x", "u")] == [0.8, 0.3],
    ],
    'print(many["y"].shape)  # (5, 101)': [
        lambda n: n["many"]["y"].shape == (5, 101),
        lambda n: n["solution"].max_drift()["level 0"] < 1e-14 < 1e-7 < n["plain"].max_drift()["level 0"],
    ],
    'print(f"share {found:.6f}: {float(reached(found)):.9f} rad/s")': [
        lambda n: abs(float(n["value"]) - 20) < 1e-8 and 0.2 < n["found"] < 0.5,
    ],
    "print(many.succeeded, many.reason())  # one is solved; of the others it says why not, and their x is NaN": [
        lambda n: abs(float(n["slope"]) - float(n["speed"]) / (2 * 9.81)) < 1e-7,
        lambda n: n["many"].succeeded.tolist() == [True, False, False],
        lambda n: np.isnan(n["many"].x).any((1, 2)).tolist() == [False, True, True],
    ],
    "print(run)  # Recording('run 3'; 0 to 0.8 in 5 times; seen level 4; inputs pump; area=1.2)": [
        lambda n: repr(n["run"]) == "Recording('run 3'; 0 to 0.8 in 5 times; seen level 4; inputs pump; area=1.2)",
    ],
    "print([len(part) for part in run.windows(duration=2.5)])  # by time": [
        lambda n: [len(part) for part in n["run"].windows(6)] == [6, 6, 6, 2],
        lambda n: [len(part) for part in n["run"].windows(duration=2.5)] == [5, 5, 5, 5],
    ],
    'print(*arm, sep="\\n")': [
        lambda n: [recording.name for recording in n["arm"]] == ["arm trial=a", "arm trial=b"],
        lambda n: [int(recording.seen["q"].sum()) for recording in n["arm"]] == [2, 2],
    ],
    'print(f"{100 * result.best.val_mae:.2f} cm")': [lambda n: n["result"].best.val_mae < 0.01],
}


def blocks(page):
    """The Python of a page, as parameters that are named after its headings."""
    found = []
    for part in re.split(r"^## ", PAGES[page].read_text(), flags=re.MULTILINE):
        codes = re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)
        found += [pytest.param(code, id=part.splitlines()[0]) for code in codes]
    return found


def last_line(code):
    return code.strip().splitlines()[-1].strip()


def run(code, folder, monkeypatch):
    """Run an example in an empty folder, and check what it claims."""
    monkeypatch.chdir(folder)
    torch.manual_seed(0)  # some draw their data from torch
    namespace = {}
    exec(compile(code, "an example", "exec"), namespace)
    for check in CLAIMS.get(last_line(code), ()):
        assert check(namespace)
    if {"model", "inputs"} <= namespace.keys():  # the example ends with a network whose output obeys the constraint
        constraint, y = namespace["model"].constraint, namespace["model"](namespace["inputs"])
        assert constraint.residual(y.flatten(-2)).abs().max() < 1e-4
