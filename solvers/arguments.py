"""What the reference solvers are given, checked: numbers, output times, settings; and the precision they run in."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ndae.symbolic.backends.supplied import Supplied
from ndae.symbolic.ground.forks import check_process
from ndae.symbolic.ground.words import check_known
from ndae.symbolic.systems.of_points import Points
from ndae.symbolic.systems.system import System

INTEGRATORS = ("dopri8", "dopri5", "tsit5", "kvaerno5", "radau13")
_NUMBERS = (float, int, np.number, np.ndarray)


@contextmanager
def float64_on_cpu() -> Iterator[None]:
    """JAX in 64 bits on the CPU inside the context, as it was outside. Local to the thread."""
    import jax  # here, since other solvers check their arguments without it

    check_process()
    # Thousands of small steps, one after the other: a GPU only adds its latency.
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield


def numbers(name: str, value: Any, finite: bool = True) -> np.ndarray:
    """`value` as a float64 array. Raises ValueError, by `name`, for what is no number and, if `finite`, not finite."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor that needs a gradient
        jax = sys.modules.get("jax")
        if jax is not None and isinstance(value, jax.core.Tracer):
            raise ValueError(
                f"{name} is traced by JAX, inside of jit, vmap or grad, where solvers that give NumPy arrays can't be "
                "called: write ndae.flow there"
            ) from None
        raise ValueError(f"{name} must be an array of numbers, got {type(value).__name__}: {error}") from error
    if finite and not np.all(np.isfinite(array)):
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        place = f"[{', '.join(map(str, where))}]" if where else ""
        raise ValueError(f"{name} must be finite, but {name}{place} = {array[where]}")
    return array


def output_times(ts: Any) -> np.ndarray:
    """Output times (n_times,), at least two and strictly increasing; raises ValueError for others."""
    ts = numbers("ts", ts).copy()  # a Solution keeps them
    if ts.ndim != 1 or ts.size < 2:
        raise ValueError(f"ts has shape {ts.shape}; give a vector of at least two output times, the start first")
    late = np.flatnonzero(np.diff(ts) <= 0)
    if late.size:
        i = int(late[0])
        raise ValueError(
            f"ts must increase strictly, but ts[{i}] = {ts[i]:g} and ts[{i + 1}] = {ts[i + 1]:g}; "
            "sort the output times and drop repeated ones (np.unique does both)"
        )
    return ts


def parameter_arrays(parameters: Mapping[str, Any] | None) -> dict[str, np.ndarray] | None:
    """Parameters by name as arrays of finite numbers, or None where there are none."""
    return None if not parameters else {name: numbers(f"parameter {name!r}", p) for name, p in parameters.items()}


def numeric_defaults(parameters: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """The defaults among parameters, by name or symbol, that are one number each."""
    return {str(key): np.asarray(p, np.float64) for key, p in parameters.items() if p is not None and np.ndim(p) == 0}


def check_system(system: Any) -> None:
    """Raises ValueError for what is no System."""
    if not isinstance(system, System):
        raise ValueError(f"expected a System, got {type(system).__name__}: define one with ndae.System")


def points_of(system: Any) -> Points:
    """The points that a system is of. Raises ValueError, with what to write, for a system that is not of points."""
    check_system(system)
    if system.points is None:
        raise ValueError(
            f"{system.name!r} is known by its equations alone, and this takes points with masses on a constraint: "
            "write it as System.of_points(constraint, mass, potential, force)"
        )
    return system.points


def check_parameter_names(system: Any, parameters: Mapping[str, Any] | None) -> None:
    """Raises ValueError unless all parameters given are the system's, and all that need a value have one."""
    known = {symbol.name: default for symbol, default in system.parameters.items()}
    if system.missing:
        name = system.missing[0]
        raise ValueError(
            f"{system.name!r} has the unknown function{'s' * (len(system.missing) > 1)} {', '.join(system.missing)}: "
            f"say what they are by functions={{{name!r}: ...}}, a torch module, a function or ndae.table(...)"
        )
    check_known(parameters or (), known, repr(system.name))
    missing = [name for name, default in known.items() if default is None and name not in (parameters or {})]
    if missing:
        raise ValueError(
            f"{system.name!r} has no value of {', '.join(missing)}; give parameters={{{missing[0]!r}: ...}}"
        )


def checked_parameters(system: Any, parameters: Mapping[str, Any] | None) -> dict[str, np.ndarray] | None:
    """Parameters by name as arrays of finite numbers, None where there are none; raises ValueError for others."""
    parameters = parameter_arrays(named_once("parameters", parameters or {}))
    check_parameter_names(system, parameters)
    return parameters


def with_functions(system: Any, functions: Mapping[Any, Any] | None) -> Any:
    """The system with unknown functions given. Raises ValueError for what is no System, and as `System.given`."""
    check_system(system)
    return system if functions is None else system.given(functions)


def refuse_functions(name: str, parameters: Mapping[str, Any]) -> None:
    """Raises ValueError for a parameter that is a function, such as a network of the state."""
    for key, value in parameters.items():
        if callable(value) and not isinstance(value, Supplied):
            raise ValueError(
                f"{name}: parameter {key!r} is a function, parameters are numbers or tensors that do not change with "
                "the state, for derivatives are taken with them held fixed: write what depends on the state into the "
                "equations, or learn it as a force of its own (a module F(t, y))"
            )


def named_once(what: str, given: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping from names or symbols as one from names. Raises ValueError for none, and for two keys of one name."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be a mapping from names to values, such as {{'g': 9.81}}, got {given!r}")
    named = {str(key): value for key, value in given.items()}
    if len(named) < len(given):
        keys = [str(key) for key in given]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"{what} gives {', '.join(twice)} twice, as a name and as a symbol; give each once")
    return named


def check_settings(integrator: str | None, max_steps: int | None, **positive: Any) -> None:
    """Raises ValueError unless an integrator, if given, is known, `max_steps` is at least 1 and the others positive."""
    for name, value in positive.items():
        if not (_is_number(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    if integrator is not None and integrator not in INTEGRATORS:
        raise ValueError(f"integrator {integrator!r} is not known; choose one of {', '.join(INTEGRATORS)}")
    if max_steps is not None and not (_is_number(max_steps) and max_steps == int(max_steps)):
        raise ValueError(f"max_steps must be a whole number, got {max_steps!r}")
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBERS) and np.ndim(value) == 0 and np.isrealobj(value) and bool(np.isfinite(value))
