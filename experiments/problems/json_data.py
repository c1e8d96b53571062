"""A problem with data from a JSON file: equations as text, with functions that nobody knows, and files of recordings.

As in `json_file`, nothing of the file is evaluated. Beside `states`, `equations`, `parameters`, `tables`,
`definitions`, `outputs` and `invariants` it has:

- `unknown` {name: {"hidden": units a layer, "depth": layers}}: functions, asked as name(x, ...), in whose places
  networks (`ndae.MLP`) are learned. `learn`: names of parameters that are trained, or {name: where from}.
- `data`: {"train": ..., "validation": ..., "test": ...}, each a file, a pattern or a list of these, looked for beside
  this file; and what `ndae.read_recordings` takes for all of them: "outputs", "time", "every", "inputs", "parameters",
  "by", "sigma", "start", "sort". Inputs are asked in the equations as functions of time, name(t).
- `model`: {"step", "integrator", "rtol", "atol", "invariants", "sizes", "method": "smooth", "end" or "none"};
  `training`: {"epochs", "window": intervals in a piece of a recording, "learning_rate", "batch_size", "keep"}.
"""

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ndae.data.reading import read_recordings
from ndae.data.recording import Recording
from ndae.experiments.problems.data_problem import DataProblem
from ndae.experiments.problems.json_file import ProblemFileError, read_file, typed
from ndae.symbolic.ground.words import check_known

_PARTS = ("train", "validation", "test")
_READING = ("outputs", "time", "every", "inputs", "parameters", "by", "sigma", "start", "sort")
_MODEL = ("step", "integrator", "rtol", "atol", "invariants", "sizes", "method")
_TRAINING = ("epochs", "window", "learning_rate", "batch_size", "keep")
_METHODS = ("smooth", "end", "none")


def read_data_problem(path: Path) -> DataProblem:
    """The problem with data in the JSON file `path`; raises ProblemFileError, naming file, key and the mend, and what
    `ndae.read_recordings` raises of its recordings."""
    reader = read_file(path)
    try:
        system = reader.system()[-1]
        return _problem(reader.data, system, reader.name, path.parent)
    except ProblemFileError as error:
        raise ProblemFileError(f"{path}: {error}") from error
    except ValueError as error:  # of the system, the recordings or the problem, which know nothing of a file
        raise ProblemFileError(f"{path}: {error}") from error


def _problem(data: Mapping[str, Any], system: Any, name: str, folder: Path) -> DataProblem:
    networks = {key: _network(key, said) for key, said in data["unknown"].items()}
    arities = {u.name: n for u, n in system.unknowns.items()}
    idle = [key for key in networks if key not in arities]
    if idle:
        raise ProblemFileError(f"unknown.{idle[0]} stands in no equation: write {idle[0]}(...) where it belongs")

    def functions() -> dict[str, Any]:
        from ndae.fields.mlp import MLP

        return {key: MLP(arities[key], 1, **said) for key, said in networks.items()}

    options = dict(_object("model", data.get("model", {}), _MODEL))
    if "method" in options:
        options["method"] = _method(options["method"])
    training = dict(_object("training", data.get("training", {}), _TRAINING))
    if "window" in training:
        from ndae.training.recordings import Windows

        training["windows"] = Windows(training.pop("window"))
    parts = _recordings(data["data"], folder)
    return DataProblem(
        name, system, functions, learn=data.get("learn", ()), options=options, fit=training, **parts
    )  # fmt: skip


def _recordings(said: Mapping[str, Any], folder: Path) -> dict[str, list[Recording]]:
    said = _object("data", said, (*_PARTS, *_READING))
    for key in ("train", "outputs"):
        if key not in said:
            raise ProblemFileError(f"data: {key!r} missing: write where the recordings are, and the columns seen")
    how = {key: said[key] for key in _READING if key in said}
    inputs = {key: tuple(c) if isinstance(c, list) else c for key, c in how.get("inputs", {}).items()}
    how |= {"inputs": inputs} if inputs else {}
    found = {}
    for part in _PARTS:
        files = said.get(part, [])
        files = [files] if isinstance(files, str) else typed(f"data.{part}", files, list, "a file or a list of files")
        found[part] = [r for file in files for r in read_recordings(_beside(folder, part, file), **how)]
    return found


def _beside(folder: Path, part: str, file: Any) -> str:
    """A pattern of files in the folder of the problem, and no other."""
    text = typed(f"data.{part}", file, str, "a file, as text")
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        raise ProblemFileError(f"data.{part}: {text!r} is not beside this file: write a path inside of its folder")
    return str(Path(glob.escape(str(folder))) / path)


def _network(name: str, said: Any) -> dict[str, int]:
    said = _object(f"unknown.{name}", said, ("hidden", "depth"))
    for key, value in said.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ProblemFileError(f"unknown.{name}.{key}: {value!r} is no whole number of at least 1")
    return {"hidden": 16, "depth": 2} | dict(said)


def _method(name: Any) -> Any:
    from ndae import methods

    made = {"smooth": methods.SmoothProjection, "end": methods.EndProjection, "none": methods.Unconstrained}
    if name not in made:
        raise ProblemFileError(f"model.method: {name!r} is unknown: write one of {', '.join(map(repr, _METHODS))}")
    return made[name]()


def _object(where: str, said: Any, known: tuple[str, ...]) -> Mapping[str, Any]:
    said = typed(where, said, dict, "an object {...}")
    check_known(said, known, where, "key", error=ProblemFileError)
    return said
