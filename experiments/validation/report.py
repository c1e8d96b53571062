"""What `ndae validate` found, as numbers: statistics over trajectories, JSON, and tables in the terminal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# One array (n_trajectories, n_times) each; infinite where a prediction is not finite.
Curves = Mapping[str, np.ndarray]

#: Curve -> its unit in the names of the JSON file.
UNITS = {
    "error": "m",
    "learning": "m",
    "velocities": "m",
    "integrator": "m",
    "position_violation": "m",
    "velocity_violation": "m_per_s",
    "energy_error": "J",
    "multiplier_error": "of_scale",
}
_PARTS = ("learning", "velocities", "integrator")
_MEASURES = {
    "position_violation": "|c|\n(m)",
    "velocity_violation": "|dc/dt|\n(m/s)",
    "energy_error": "energy\n(J)",
    "multiplier_error": "λ\n(share)",
}
_ROWS = 6


@dataclass(frozen=True)
class Validation:
    """A network, rolled out and one period on, against the reference.

    - `about`: what the model is (a run's configuration).
    - `ts` (n_times,): times since the held-out states (s), `period` (s) apart; `held_out_times` (n,): when those
      states occurred, and `samples_end` when the last sample of the run's data did, None for motions of their own.
    - `size` (m): how large the system is, called `size_of`; `energy_range` (J): what its potential energy differs by,
      None where energy is not looked at; `multiplier_scale` (n_multipliers,): the largest size of each multiplier in
      the reference, which their errors are shares of, None for a model without multipliers.
    - `reference_error` (n_times,): largest distance (m) of the reference from a solve at ten times its tolerance.
    - `unrelated`: mean distance (m) of two states that have nothing to do with each other, None for one trajectory.
    - `one_period` (from `ts[1]` on), `rollout`: curves by name, see `UNITS`.
    - `control_errors`: error (n, n_times) of the network with the true field in place of its own, rolled out: with its
      own velocities as "integrator" and, where the model has none, with velocities rebuilt as "velocities".
    - `projections`, `unconverged`: of the network's own projections.
    """

    about: Mapping[str, Any]
    ts: np.ndarray
    period: float
    held_out_times: np.ndarray
    samples_end: float | None
    size: float
    size_of: str
    energy_range: float | None
    reference_error: np.ndarray
    unrelated: float | None
    one_period: Curves
    rollout: Curves
    control_errors: Curves
    projections: int = 0
    unconverged: int = 0
    multiplier_scale: np.ndarray | None = None

    @property
    def threshold(self) -> float:
        """A tenth of the system's size, in m."""
        return self.size / 10

    @property
    def passing(self) -> dict[str, np.ndarray]:
        """When (s) each trajectory's error passes the threshold: of the "model", and of its counterparts."""
        errors = {"model": self.rollout["error"], **self.control_errors}
        return {name: time_of_passing(self.ts, error, self.threshold) for name, error in errors.items()}

    @property
    def n_trajectories(self) -> int:
        return len(self.held_out_times)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values for JSON in the strict sense: numbers are finite, or null."""
        content = {
            "about": dict(self.about),
            "trajectories": self.n_trajectories,
            "held_out": {
                "first_s": self.held_out_times[0],
                "last_s": self.held_out_times[-1],
                "samples_end_s": self.samples_end,
            },
            "period_s": self.period,
            "times_s": self.ts,
            "size_m": self.size,
            "threshold_m": self.threshold,
            "energy_range_J": self.energy_range,
            "multiplier_scale": self.multiplier_scale,
            "unrelated_m": self.unrelated,
            "reference_error_m": self.reference_error,
            "one_period": {"times_s": self.ts[1:], **_statistics(self.one_period)},
            "rollout": {
                "times_s": self.ts,
                **_statistics(self.rollout),
                "error_by_trajectory_m": self.rollout["error"],
            },
            "true_field": {
                "times_s": self.ts,
                **{f"{name}_m": spread(error) for name, error in self.control_errors.items()},
            },
            "time_to_threshold": {
                name: {
                    "median_s": _quantile(times, 0.5),
                    "low_s": _quantile(times, 0.25),
                    "high_s": _quantile(times, 0.75),
                    "passed": int(np.isfinite(times).sum()),
                    "by_trajectory_s": times,
                }
                for name, times in self.passing.items()
            },
            "projections": {"count": self.projections, "unconverged": self.unconverged},
        }
        return _plain(content)


def spread(values: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics over trajectories, the first axis: mean, std, median, low and high quartile, and max."""
    # An infinite sample makes mean and std so, or undefined; the others are order statistics, which it cannot spoil.
    with np.errstate(invalid="ignore"):
        return {
            "mean": values.mean(0),
            "std": values.std(0, ddof=min(1, len(values) - 1)),
            "median": _quantile(values, 0.5),
            "low": _quantile(values, 0.25),
            "high": _quantile(values, 0.75),
            "max": values.max(0),
        }


def time_of_passing(ts: np.ndarray, error: np.ndarray, threshold: float) -> np.ndarray:
    """When each row of `error` (n, n_times) first exceeds `threshold`, linearly between `ts`; infinite if never."""
    above = error > threshold
    first = above.argmax(1)
    rows = np.arange(len(error))
    before, after = error[rows, np.maximum(first - 1, 0)], error[rows, first]
    share = np.where(first > 0, (threshold - before) / np.where(after > before, after - before, np.inf), 0.0)
    times = ts[np.maximum(first - 1, 0)] + share * (ts[first] - ts[np.maximum(first - 1, 0)])
    return np.where(above.any(1), times, np.inf)


def print_validation(found: Validation, say) -> None:
    """Print the findings with `say`, a rich console's `print`."""
    say(title_of(found.about), style="bold", markup=False)
    for line in _setting(found):
        say(f"  {line}", markup=False)
    say(f"\nOne horizon of {found.period:g} s on, from the reference's state each time", style="bold")
    say(_one_period_table(found))
    say("Rolled out, going on from its own predictions", style="bold")
    say(_rollout_table(found))
    say(f"Time until the error passes {found.threshold:g} m, a tenth of {found.size_of}", style="bold")
    for line in _passing(found):
        say(f"  {line}", markup=False)
    say()
    for line in _notes(found):
        say(f"  {line}", style="dim", markup=False)


def title_of(about: Mapping[str, Any]) -> str:
    """What the model is, in a line."""
    from ndae.experiments.variants import Variant

    if "method" not in about:
        return "A model against the reference"
    motion = {name: about[name] for name in ("stabilisation", "force") if name in about}
    variant = Variant.of(about["method"], about["gamma"], about["eta"], **motion)
    return (
        f"{about['problem'].replace('_', ' ')}: {variant.title}, {about['network']} network, "
        f"{about['n_train']:,} training samples, "
        f"{about['horizon']} steps ahead, seed {about['seed']}"
    )


def _setting(found: Validation) -> list[str]:
    times = found.held_out_times
    if found.samples_end is None:
        starts = f"{found.n_trajectories} trajectories that no sample is from, from their start at t = 0"
    else:
        starts = (
            f"{found.n_trajectories} states of motion later than all samples, {found.ts[-1]:g} s apart: at "
            f"{times[0]:.2f} to {times[-1]:.2f} s, samples end at {found.samples_end:.2f} s"
        )
    lines = [
        f"starts      {starts}",
        f"reference   within {found.reference_error.max():.0e} m of a solve at ten times its tolerance",
    ]
    if found.unrelated is not None:
        lines.append(f"for scale   two unrelated states of the motion are {found.unrelated:.1f} m apart")
    if found.projections:
        lines.append(f"projections {found.projections:,}, of which {found.unconverged} did not converge")
    return lines


def _one_period_table(found: Validation) -> Any:
    def error(values: np.ndarray) -> str:
        statistics = spread(values)
        return f"{_cm(statistics['mean'])} ± {_cm(statistics['std'])}"

    drawn = _table("mean ± std", found.one_period)
    for i in _shown(len(found.ts) - 1):
        now = {name: curve[:, i] for name, curve in found.one_period.items()}
        drawn.add_row(f"{found.ts[1 + i]:.2f}", error(now["error"]), *_other_cells(now))
    drawn.add_section()
    everything = {name: curve.ravel() for name, curve in found.one_period.items()}
    drawn.add_row("all", error(everything["error"]), *_other_cells(everything))
    return drawn


def _rollout_table(found: Validation) -> Any:
    drawn = _table("(quartiles)", found.rollout)
    for i in _shown(len(found.ts) - 1):
        now = {name: curve[:, 1 + i] for name, curve in found.rollout.items()}
        median, low, high = (_cm(_quantile(now["error"], share)) for share in (0.5, 0.25, 0.75))
        drawn.add_row(f"{found.ts[1 + i]:.2f}", f"{median} ({low}–{high})", *_other_cells(now))
    return drawn


def _table(error: str, curves: Curves) -> Any:
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    parts = (f"{name}\n(cm)" for name in _PARTS if name in curves)
    measured = (title for name, title in _MEASURES.items() if name in curves)
    for name in ("time\n(s)", f"error (cm)\n{error}", *parts, *measured):
        drawn.add_column(name, justify="right", no_wrap=True)
    return drawn


def _other_cells(now: Curves) -> list[str]:
    """Medians, but for violations the largest, of curves at one time (n_trajectories,)."""
    return [
        *(_cm(_quantile(now[name], 0.5)) for name in _PARTS if name in now),
        *(_number(now[name].max()) for name in ("position_violation", "velocity_violation") if name in now),
        *(_number(_quantile(now[name], 0.5)) for name in ("energy_error", "multiplier_error") if name in now),
    ]


def _shown(n: int) -> list[int]:
    """Up to `_ROWS` of n rows, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, _ROWS))})


def _passing(found: Validation) -> list[str]:
    names = {
        "model": "the network",
        "velocities": "true field in its place, velocities rebuilt",
        "integrator": "true field in its place",
    }
    return [
        f"{text:<44}{_time(found.passing[name], found.ts[-1])}" for name, text in names.items() if name in found.passing
    ]


def _time(times: np.ndarray, end: float) -> str:
    median, low, high = (_quantile(times, share) for share in (0.5, 0.25, 0.75))
    text = [f"{value:.2f} s" if np.isfinite(value) else f"over {end:g} s" for value in (median, low, high)]
    return f"{text[0]} (quartiles {text[1]}, {text[2]})"


def _notes(found: Validation) -> list[str]:
    notes = [
        "error       mean distance of a body from where the reference has it",
        "learning    the network against the same network with the true field (same layers, method, steps); median",
        "integrator  that network against the reference; median",
    ]
    if "velocities" in found.rollout:
        notes += [
            "velocities  what it costs to rebuild them, on the true field: the network gives none, and is taken to say",
            "            how fast its prediction moves as the state it is made from moves by the true equations",
        ]
    if "position_violation" in found.rollout:
        notes.append("|c|, |dc/dt|  largest violation at the position and velocity level, of all trajectories")
    else:
        notes.append("|dc/dt|     largest violation of the constraints on velocities, of all trajectories")
    if found.energy_range is not None:
        notes.append(f"energy      error, of a range of {found.energy_range:.0f} J; median")
    if found.multiplier_scale is None:
        notes.append("λ           not compared: the model has no multipliers")
    else:
        low, high = (_number(size) for size in (found.multiplier_scale.min(), found.multiplier_scale.max()))
        notes.append(
            f"λ           error of the worst multiplier, of its largest size in the reference ({low} to {high}); median"
        )
    return notes


def _cm(metres: Any) -> str:
    return _number(100 * metres)


def _number(value: Any) -> str:
    if not np.isfinite(value):
        return "∞"
    if value == 0:
        return "0"
    if 0.01 <= abs(value) < 10_000:
        return f"{value:.{max(0, 2 - max(0, math.floor(math.log10(abs(value)))))}f}"
    return f"{value:.0e}"


def _quantile(values: np.ndarray, share: float) -> np.ndarray:
    return np.quantile(values, share, axis=0, method="inverted_cdf")


def _statistics(curves: Curves) -> dict[str, dict[str, np.ndarray]]:
    return {f"{name}_{UNITS[name]}": spread(values) for name, values in curves.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
