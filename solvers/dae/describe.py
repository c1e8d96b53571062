"""What of a system's variables solutions and messages speak of: names, groups, absolute tolerances."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ndae.solvers.arguments import (
    named_once,
    numbers,
)
from ndae.solvers.batches import at_index
from ndae.solvers.dae.start import in_states, redundant_name
from ndae.solvers.solution import SUCCESS, Solution
from ndae.symbolic.ground.words import check_known

# Absolute tolerance where none is given, as a share of `rtol`: components are measured relatively down to this size.
_DEFAULT_ATOL = 1e-4
# So far off, in units of the states, an equation is not redundant; or so many times as far as constraints have drifted.
REDUNDANT, DRIFTS = 1e-6, 1e3


def describe_states(
    system: Any,
    ts: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    parameters: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Solution:
    """The Solution of a system whose reduced states y (*batch, n_times, N) and w (*batch, n_times, n) are known.

    `parameters` are one number each, or arrays of the batch's shape; `fields` are others of Solution, such as `stats`.
    """
    functions = system.reduce().numpy()
    batch = y.shape[:-2]

    def described(y, w, parameters):
        x = functions.states(y, w, ts, parameters)
        return x, functions.levels(y, w, ts, parameters), functions.invariants(y, w, ts, parameters)

    if any(np.ndim(p) for p in (parameters or {}).values()):
        parts = [described(y[i], w[i], at_index(parameters, i)) for i in np.ndindex(batch)]
        x = np.stack([part[0] for part in parts]).reshape(*batch, *parts[0][0].shape)
        levels, invariants = (
            {
                key: np.stack([part[n][key] for part in parts]).reshape(*batch, *value.shape)
                for key, value in one.items()
            }
            for n, one in ((1, parts[0][1]), (2, parts[0][2]))
        )
    else:
        x, levels, invariants = described(y, w, {name: float(p) for name, p in (parameters or {}).items()})
    if system.reduce().redundant:
        fields |= _as_far_as_redundant(system.reduce(), ts, y, parameters, fields)
    return Solution(
        ts=ts,
        x=np.asarray(x),
        names=tuple(s.name for s in system.states),
        residual={level: np.asarray(value) for level, value in levels.items()},
        invariants={name: np.asarray(value) for name, value in invariants.items()},
        groups=variable_groups(system),
        **fields,
    )


def _as_far_as_redundant(
    reduced: Any, ts: np.ndarray, y: np.ndarray, parameters: Mapping[str, Any] | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """`result` and `n_reached` of a solution that ends where an equation taken as redundant does not hold."""
    batch, functions = y.shape[:-2], reduced.numpy()
    reached = np.array(np.broadcast_to(fields.get("n_reached", ts.size), batch))
    result = np.array(np.broadcast_to(fields.get("result", SUCCESS), batch), dtype=object)
    for index in np.ndindex(batch):
        at, point = y[index], (y[index], ts, at_index(parameters, index))
        off = in_states(functions.redundant(*point), functions.redundant_jacobian(*point), at)
        drift = in_states(functions.constraints(*point), functions.constraints_jacobian(*point), at)
        wrong = ~(off <= REDUNDANT + DRIFTS * drift.max(axis=-1, keepdims=True))
        for k in np.flatnonzero(wrong.any(axis=-1)[: reached[index]])[:1]:
            reached[index], worst = k, int(np.argmax(np.nan_to_num(off[k], nan=np.inf)))
            name = redundant_name(reduced, list(reduced.redundant)[worst])
            result[index] = (
                f"{name} is off by {off[k, worst]:.1e} of the states at t = {ts[k]:.9g} where the others hold: it "
                "contradicts them, or the branch is another"
            )
    return {"result": result.astype(str), "n_reached": reached} if batch else {
        "result": str(result), "n_reached": int(reached)
    }  # fmt: skip


def never_begun(
    system: Any, ts: np.ndarray, y0: np.ndarray, w0: np.ndarray, parameters: Any, refused: Mapping[tuple[int, ...], str]
) -> Solution:
    """The Solution of a batch of which all are refused: one output of nothing."""
    none = np.zeros(y0.shape[:-1], dtype=int)
    stats = dict.fromkeys(("n_steps", "n_accepted", "n_rejected", "n_f_evals"), none)
    with np.errstate(all="ignore"):
        made = describe_states(
            system, ts[:1], y0[..., None, :], w0[..., None, :], parameters, stats=stats, n_reached=none
        )
    return made.without(refused)


def variable_groups(system: Any) -> dict[str, np.ndarray]:
    """Columns of the states that are "differential" and "algebraic", and of a mechanical system "q", "v", "multiplier".

    Mechanical is a system whose differential states are coordinates and their derivatives, in pairs.
    """
    reduced = system.reduce()
    held, rate = reduced.states, dict(zip(reduced.y, reduced.rates, strict=True))
    column = {symbol: i for i, symbol in reversed(list(enumerate(held)))}
    differential = [i for i, s in enumerate(held) if s in rate]
    groups = {"differential": differential, "algebraic": [i for i, s in enumerate(held) if s not in rate]}
    q = [i for i in differential if rate[held[i]] in column and rate[held[i]] in rate]
    v = [column[rate[held[i]]] for i in q]
    if q and sorted(q + v) == differential:
        groups |= {"q": q, "v": v, "multiplier": groups["algebraic"]}
    if reduced.least_norm:
        groups["least_norm"] = [i for i, s in enumerate(held) if s in reduced.least_norm]
    return {name: np.array(columns, dtype=int) for name, columns in groups.items()}


def absolute_tolerances(system: Any, atol: Any, rtol: float) -> np.ndarray:
    """`atol` as solve_dae takes it, (N,) over the differential variables. Raises ValueError unless it is positive."""
    reduced = system.reduce()
    columns = {symbol: i for i, symbol in enumerate(reduced.y)}
    held = zip(system.states, reduced.states, strict=True)
    names = {symbol.name: i for symbol, i in columns.items()} | {s.name: columns[h] for s, h in held if h in columns}
    return tolerances_by_name(system, names, atol, rtol)


def tolerances_by_name(system: Any, names: Mapping[str, int], atol: Any, rtol: float) -> np.ndarray:
    """`atol`, one number, by name or one for each, as (n,) over the variables whose columns `names` gives.

    States that are not among them have no error test, and a tolerance of theirs is passed over. Raises ValueError for
    names that the system does not have, and unless tolerances are positive.
    """
    n, default = max(names.values(), default=-1) + 1, _DEFAULT_ATOL * rtol
    if isinstance(atol, Mapping):
        atol = named_once("atol", atol)
        states = [s.name for s in system.states]
        check_known(atol, {*names, *states}, f"atol: {system.name!r}", "state", states)
        by_column = np.full(n, default)
        for key, value in atol.items():
            value = numbers(f"atol[{key!r}]", value)
            if key in names:
                by_column[names[key]] = value
        atol = by_column
    atol = numbers("atol", default if atol is None else atol)
    if atol.shape not in ((), (n,)):
        listed = ", ".join({i: name for name, i in names.items()}.values())
        raise ValueError(
            f"atol has shape {atol.shape}; give one number, a mapping from names of states, or an array ({n},) over "
            f"the differential variables {listed}"
        )
    if not np.all(atol > 0):
        raise ValueError(f"atol must be positive, got {atol.min():g}; a variable that is never zero may have 1e-100")
    return np.broadcast_to(atol, (n,)).copy()
