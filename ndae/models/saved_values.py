"""What models are made of as plain values for JSON, and back: numbers, expressions, systems, modules of ndae.

Arrays and tensors go to a table beside. What nobody can write down, a module or function of the user's, is left out
under a name, by which it is given again. Nothing that is read is evaluated: classes are looked up in the table below.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import sympy as sp
import torch
from torch import nn

from ndae import methods
from ndae.symbolic.backends._runtime_torch import TorchFunction
from ndae.symbolic.expressions.plain import Plain, read_plain
from ndae.symbolic.expressions.tables import Table
from ndae.symbolic.expressions.unknowns import Unknown
from ndae.symbolic.functions.constraint import Constraint
from ndae.symbolic.functions.function import Function
from ndae.symbolic.ground.arguments import arguments_of, made_again
from ndae.symbolic.systems.of_points import Points
from ndae.symbolic.systems.system import GivenSystem, System, SystemOfPoints

#: Where the classes are whose objects are written by what they were made with.
MADE = {
    "ndae.fields.equivariant": ("EquivariantField",),
    "ndae.fields.mimetic": ("MimeticField",),
    "ndae.fields.mlp": ("MLP", "MLPField"),
    "ndae.forces.actuation": ("Damping", "InputForce", "SampledInputs"),
    "ndae.forces.equivariant": ("EquivariantForce", "EquivariantPotential"),
    "ndae.forces.networks": ("GraphForce", "MLPForce", "SumForce"),
    "ndae.forces.of_system": ("SystemForce",),
    "ndae.forces.pair_potential": ("PairPotential",),
    "ndae.forces.potentials": ("GraphPotential", "MLPPotential", "PotentialForce"),
    "ndae.forces.soft_constraint": ("SoftConstraint",),
    "ndae.models.maps": ("FixedMap", "LinearMap"),
    "ndae.models.molecular_dae": ("MolecularDAE",),
    "ndae.models.neural_dae": ("NeuralDAE",),
    "ndae.models.neural_motion": ("NeuralMotion",),
    "ndae.models.neural_system": ("NeuralSystem",),
    "ndae.solvers.dae.formulations": ("Baumgarte", "GGL"),
}
_WHERE = {name: module for module, names in MADE.items() for name in names}
_METHODS = {
    c.__name__: c
    for c in (
        *(methods.Unconstrained, methods.Auxiliary, methods.Penalty, methods.Multiplier),
        *(methods.EndProjection, methods.SmoothProjection),
    )
}
_FUNCTIONS = {"Function": Function, "Constraint": Constraint}


class NotSaved(ValueError):
    """Something that can't be written down; the text says what, and the mend."""


class Writer:
    """Makes plain values. `nodes`: of all expressions; `arrays`: by name; `given`: what is left out, by name."""

    def __init__(self) -> None:
        self._expressions, self._objects = Plain(), {}
        self.arrays: dict[str, torch.Tensor] = {}
        self.given: dict[str, Any] = {}
        self._kept: list[Any] = []  # so that no id in use is given to another object

    @property
    def nodes(self) -> list[list[Any]]:
        """The expressions."""
        return self._expressions.nodes

    def value(self, value: Any, path: str) -> Any:
        """A plain value; `path` says what it is of whom."""
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": repr(float(value))}
        if value is None or isinstance(value, bool | int | float | str):
            return float(value) if isinstance(value, float) else value
        for kind, write in _WRITTEN.items():
            if isinstance(value, kind):
                return write(self, value, path)
        return self._object(value, path)

    def _object(self, value: Any, path: str) -> Any:
        if id(value) in self._objects:
            return {"same": self._objects[id(value)]}
        number = self._objects[id(value)] = len(self._objects)
        self._kept.append(value)
        name = type(value).__name__
        if _METHODS.get(name) is type(value):
            return {"method": name, "number": number, "with": self.by_name(vars(value), path)}
        if isinstance(value, methods.Combined):
            return {"methods": [self.value(part, path) for part in value.methods], "number": number}
        known = _WHERE.get(name) == type(value).__module__
        made = arguments_of(value)
        if known and made is not None:
            return {"made": name, "number": number, "with": self.by_name(made, path)}
        if known and dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
            return {"made": name, "number": number, "with": self.by_name(fields, path)}
        if not callable(value):
            raise NotSaved(f"{path} is {value!r}, which can't be written to a file: make the model without it")
        short = path.rpartition(".")[2]
        label = path if short in self.given else short
        self.given[label] = value
        return {"given": label, "number": number, "kind": type(value).__name__}

    def by_name(self, values: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Plain values by name."""
        return {name: self.value(value, f"{path}.{name}" if path else name) for name, value in values.items()}

    def expression(self, value: Any, path: str) -> dict[str, int]:
        """The number of an expression."""
        try:
            return {"expression": self._expressions.add(value)}
        except ValueError as error:
            raise NotSaved(f"{path}: {error}") from error

    def expressions(self, values: Any, path: str) -> list[int]:
        """Numbers of expressions."""
        return [self.expression(value, path)["expression"] for value in values]

    def array(self, value: Any, path: str) -> Any:
        """The name of an array in the table."""
        tensor = torch.as_tensor(value).detach().cpu().contiguous().clone()
        name = f"array.{len(self.arrays)}"
        self.arrays[name] = tensor
        kind = "numpy" if isinstance(value, np.ndarray | np.generic) else "torch"
        trained = isinstance(value, nn.Parameter)
        if trained:
            raise NotSaved(f"{path} is a parameter that the model was made with: make it a part of a module")
        return {"array": name, "kind": kind}

    def sequence(self, value: Any, path: str) -> Any:
        """A list, or a tuple of that."""
        parts = [self.value(part, f"{path}[{i}]") for i, part in enumerate(value)]
        return {"tuple": parts} if isinstance(value, tuple) else parts

    def mapping(self, value: Mapping[Any, Any], path: str) -> Any:
        """Pairs."""
        pairs = []
        for key, part in value.items():
            called = key.name if hasattr(key, "name") else str(key)
            pairs.append([self.value(key, f"{path} {key!r}"), self.value(part, f"{path}.{called}")])
        return {"map": pairs}

    def unknown(self, value: Unknown, path: str) -> Any:
        """An unknown function."""
        return {"unknown": value.name, "outputs": value.outputs}

    def matrix(self, value: Any, path: str) -> Any:
        """A matrix of expressions."""
        return {"matrix": self.expressions(list(value), path), "shape": list(value.shape)}

    def formula(self, value: sp.Lambda, path: str) -> Any:
        """A Lambda."""
        return {"lambda": self.expressions(value.variables, path), "of": self.expressions([value.expr], path)[0]}

    def function(self, value: Function, path: str) -> Any:
        """A function or constraint, as it was written."""
        kind = type(value).__name__
        if _FUNCTIONS.get(kind) is not type(value):
            raise NotSaved(f"{path} is a {kind}, which can't be written to a file")
        names = list(value.anchors)
        symbols = self.expressions(value.parameter_symbols, path)
        defaults = [self.value(value.parameters[s.name], path) for s in value.parameter_symbols]
        return {
            "function": kind, "name": value.name, "template": value.is_template,
            "expressions": self.expressions(value.expressions, path),
            "points": [self.expressions(list(p), path) for p in value.points],
            "over": [[names[-1 - s] if s < 0 else int(s) for s in slots] for slots in value.layout.slots.tolist()],
            "n_points": value.n_points, "parameters": [symbols, defaults],
            "anchors": {name: [float(x) for x in place] for name, place in value.anchors.items()},
            "time": None if value.time is None else self.expressions([value.time], path)[0],
        }  # fmt: skip

    def compiled(self, value: TorchFunction, path: str) -> Any:
        """A function compiled for torch."""
        made = arguments_of(value)
        if made is None:
            raise NotSaved(f"{path} is compiled of a function that is not known: make the model of Constraint.torch()")
        if id(value) in self._objects:
            return {"same": self._objects[id(value)]}
        number = self._objects[id(value)] = len(self._objects)
        self._kept.append(value)
        return {"compiled": self.function(made["function"], path), "learn": list(made["learn"]), "number": number}

    def system(self, value: System, path: str) -> Any:
        """A system by its equations as they were read."""
        if isinstance(value, GivenSystem):
            system, given, formulas = value._given
            functions = {name: g.value for name, g in given.items()} | dict(formulas)
            return {"given to": self.system(system, path), "functions": self.by_name(functions, "")}
        if isinstance(value, SystemOfPoints):
            points = value.points
            return {
                "points": self.function(points.constraint, path), "mass": self.array(points.mass, path),
                "potential": self.value(points.potential, path), "force": self.value(points.external_force, path),
                "name": points.name,
            }  # fmt: skip
        return {
            "system": value.name,
            "equations": self.expressions(value.equations, path), "states": self.expressions(value.states, path),
            "parameters": [self.expressions(value.parameters, path), list(value.parameters.values())],
            "time": None if value.time is None else self.expressions([value.time], path)[0],
            "invariants": {k: self.expressions([e], path)[0] for k, e in value.invariants.items()},
            "outputs": {k: self.expressions([e], path)[0] for k, e in value.outputs.items()},
        }  # fmt: skip


_WRITTEN: dict[Any, Callable[[Any, Any, str], Any]] = {
    System: Writer.system,
    Function: Writer.function,
    TorchFunction: Writer.compiled,
    Unknown: Writer.unknown,
    sp.Lambda: Writer.formula,
    sp.MatrixBase: Writer.matrix,
    sp.Basic: Writer.expression,
    Table: Writer.expression,
    (np.ndarray, np.generic, torch.Tensor): Writer.array,
    (list, tuple): Writer.sequence,
    Mapping: Writer.mapping,
}


class Reader:
    """Makes of plain values again what they were. `given`: what was left out, by name."""

    def __init__(self, nodes: Sequence[Any], arrays: Mapping[str, torch.Tensor], given: Mapping[str, Any]):
        self.nodes, self.arrays, self.given = read_plain(nodes), arrays, given
        self._objects: dict[int, Any] = {}

    def value(self, plain: Any) -> Any:
        """What a plain value stands for; raises ValueError, KeyError or TypeError on what is never written."""
        if plain is None or isinstance(plain, bool | int | float | str):
            return plain
        if isinstance(plain, list):
            return [self.value(part) for part in plain]
        kind = next(iter(plain))
        found = _READ[kind](self, plain)
        if "number" in plain:
            self._objects[plain["number"]] = found
        return found

    def by_name(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """Values by name."""
        return {str(name): self.value(part) for name, part in plain.items()}

    def _of(self, numbers: Sequence[int]) -> list[Any]:
        return [self.nodes[i] for i in numbers]

    def _one(self, number: int | None) -> Any:
        return None if number is None else self.nodes[number]

    def _array(self, plain: Any) -> Any:
        tensor = self.arrays[plain["array"]]
        return tensor.numpy() if plain["kind"] == "numpy" else tensor

    def _given(self, plain: Any) -> Any:
        return self.given[plain["given"]]

    def _made(self, plain: Any) -> Any:
        cls = getattr(import_module(_WHERE[plain["made"]]), plain["made"])
        return made_again(cls, self.by_name(plain["with"]))

    def _function(self, plain: Any) -> Any:
        cls = _FUNCTIONS[plain["function"]]
        symbols, defaults = plain["parameters"]
        parameters = dict(zip(self._of(symbols), map(self.value, defaults), strict=True))
        rest = {"parameters": parameters, "time": self._one(plain["time"]), "name": plain["name"]}
        expressions, points = self._of(plain["expressions"]), [self._of(p) for p in plain["points"]]
        if not plain["template"]:
            states = [s for p in points for s in p]
            used = set().union(*(e.free_symbols for e in expressions))
            return cls(expressions, states, unconstrained=[s for s in states if s not in used], **rest)
        over = [tuple(slots) for slots in plain["over"]]
        return cls.template(
            expressions, [sp.Matrix(p) for p in points], over, plain["n_points"], anchors=plain["anchors"], **rest
        )

    def _compiled(self, plain: Any) -> Any:
        return self._function(plain["compiled"]).torch(learn=plain["learn"])

    def _system(self, plain: Any) -> Any:
        symbols, defaults = plain["parameters"]
        return System(
            self._of(plain["equations"]), self._of(plain["states"]),
            dict(zip(self._of(symbols), defaults, strict=True)), self._one(plain["time"]),
            invariants={k: self.nodes[i] for k, i in plain["invariants"].items()},
            outputs={k: self.nodes[i] for k, i in plain["outputs"].items()}, name=plain["system"],
        )  # fmt: skip

    def _points(self, plain: Any) -> Any:
        potential, force = self.value(plain["potential"]), self.value(plain["force"])
        mass = self.value(plain["mass"])
        return SystemOfPoints(Points(self._function(plain["points"]), mass, potential, force, plain["name"]))

    def _given_to(self, plain: Any) -> Any:
        return self.value(plain["given to"]).given(self.by_name(plain["functions"]))


_READ: dict[str, Callable[[Reader, Any], Any]] = {
    "float": lambda reader, plain: float(plain["float"]),
    "tuple": lambda reader, plain: tuple(reader.value(part) for part in plain["tuple"]),
    "map": lambda reader, plain: {reader.value(key): reader.value(part) for key, part in plain["map"]},
    "same": lambda reader, plain: reader._objects[plain["same"]],
    "method": lambda reader, plain: made_again(_METHODS[plain["method"]], reader.by_name(plain["with"])),
    "methods": lambda reader, plain: methods.Combined([reader.value(part) for part in plain["methods"]]),
    "expression": lambda reader, plain: reader.nodes[plain["expression"]],
    "matrix": lambda reader, plain: sp.Matrix(*plain["shape"], reader._of(plain["matrix"])),
    "lambda": lambda reader, plain: sp.Lambda(tuple(reader._of(plain["lambda"])), reader.nodes[plain["of"]]),
    "unknown": lambda reader, plain: Unknown(str(plain["unknown"]), int(plain["outputs"])),
    "array": Reader._array,
    "given": Reader._given,
    "made": Reader._made,
    "function": Reader._function,
    "compiled": Reader._compiled,
    "system": Reader._system,
    "points": Reader._points,
    "given to": Reader._given_to,
}  # fmt: skip
