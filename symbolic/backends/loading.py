"""What every backend needs to compile a function: the generated source and the numeric tables."""

import linecache
from collections.abc import Callable, Sequence

import numpy as np

from ndae.symbolic.code.local_source import emit

#: Helpers that generated functions call to take arrays apart and to join entries.
JOINS = ("split", "split_rows", "rows", "columns", "matrix")


def generated_functions(function, backend: str, only: Sequence[str] | None = None) -> str:
    """Source of all local functions, or of some, for one backend."""
    programs = function.programs
    return "\n\n".join(emit(programs[name], programs.extras, backend) for name in only or programs.names)


def specification(function) -> dict:
    """Sizes, names, parameters and index tables, as plain data and NumPy arrays."""
    layout, structure = function.layout, function.structure
    n, d = layout.n_instances, layout.dim
    local_states = layout.slots.shape[1] * d
    columns = layout.gather_table()
    fixed, columns = columns < 0, np.maximum(columns, 0)
    tables, constants = {}, {}
    by_row = columns.reshape(local_states, n).T.reshape(-1)
    if fixed.any() or not np.array_equal(columns, np.arange(function.n_states)):
        tables |= {"gather": columns, "gather_rows": by_row, "scatter": columns}
    if fixed.any():
        free = np.nonzero(~fixed)[0]
        tables |= {"fixed": fixed, "free": free, "scatter": columns[free]}
        tables["fixed_columns"] = np.ascontiguousarray(fixed.reshape(local_states, n).T)[:, None, :]
        values = layout.anchor_values()
        if values.any():
            constants["anchor_values"] = values
    tables["point_of_slot"] = np.maximum(layout.slots, 0).reshape(-1)
    if len(structure.pairs):
        pair, slot_i, slot_j, _ = structure.shared.T
        k = layout.slots.shape[1]
        tables["pair_first"] = structure.pairs[pair, 0] * k + slot_i
        tables["pair_second"] = structure.pairs[pair, 1] * k + slot_j
        tables["pairs"] = structure.pairs
        if structure.order is not None and not np.array_equal(structure.order, np.arange(n)):
            tables["order"] = structure.order
        if len(pair) != len(structure.pairs):
            tables["pair_of_shared"] = pair
    return {
        "name": function.name,
        "states": function.states,
        "n_states": function.n_states,
        "n_points": function.n_points,
        "dim": d,
        "n_residuals": function.n_residuals,
        "n_instances": n,
        "n_local": function.n_local,
        "local_states": local_states,
        "n_pairs": len(structure.pairs),
        "structure_kind": structure.kind,
        "affine": all(v == 0 for _, entries in function.programs.hvp().outputs for v in entries),
        "needs_time": function.time is not None,
        "template": function.is_template,
        "parameters": {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in function.parameters.items()},
        "tables": tables,
        "constants": constants,
    }


def load(source: str, names: dict) -> dict:
    """Execute generated source (never a user's text) with the helpers in `names`; tracebacks show its lines."""
    filename = f"<ndae generated {abs(hash(source)):x}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = dict(names)
    exec(compile(source, filename, "exec"), namespace)
    return {key: value for key, value in namespace.items() if key not in names and key != "__builtins__"}


class Generated(dict):
    """Generated functions by name, pickled and copied as the source that they come from.

    `names` is a module's function that gives the helpers which the source calls.
    """

    def __init__(self, source: str, names: Callable[[], dict]):
        super().__init__(load(source, names()))
        self.source, self.names = source, names

    def __reduce__(self):
        return Generated, (self.source, self.names)


def helpers(joins) -> dict:
    """The joining helpers of a backend under the names that generated source calls."""
    return {name: getattr(joins, name) for name in JOINS}
