"""Measures of molecules in motion: temperature, distances and how they are distributed, drift of energies."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from ndae.experiments.water.force_field import BOLTZMANN, kinetic_energy

DENSITY = 0.0334  # molecules/Å³, of liquid water


def temperature_of(v: np.ndarray, n_dof: int) -> np.ndarray:
    """Temperature (...,) in K of velocities (..., atoms, 3) in Å/fs with so many degrees of freedom."""
    return 2 * kinetic_energy(v) / (n_dof * BOLTZMANN)


def bond_lengths(q: np.ndarray) -> np.ndarray:
    """Both O-H distances of every molecule, (..., n_molecules, 2) in Å, from positions (..., atoms, 3)."""
    atoms = q.reshape(*q.shape[:-2], -1, 3, 3)
    return np.linalg.norm(atoms[..., 1:, :] - atoms[..., :1, :], axis=-1)


def radial_distribution(
    points: Float[np.ndarray, "*frames points 3"], edges: Float[np.ndarray, " edges"], density: float = DENSITY
) -> Float[np.ndarray, " bins"]:
    """`g` of each bin: points at such a distance from a point, on average, over those of `density` in such a shell.

    Nothing is put right for the surface of a cluster: beyond its size `g` is zero. Frames that are not finite are left
    out.
    """
    points = points.reshape(-1, *points.shape[-2:])
    points = points[np.isfinite(points).all((1, 2))]
    n = points.shape[-2]
    counts = np.zeros(len(edges) - 1)
    above, below = np.triu_indices(n, 1)
    for part in np.array_split(points, max(1, len(points) // 200)):
        counts += np.histogram(np.linalg.norm(part[:, above] - part[:, below], axis=-1), edges)[0]
    shells = 4 / 3 * np.pi * np.diff(np.asarray(edges) ** 3)
    return 2 * counts / (max(len(points), 1) * n * density * shells)


def first_peak(g: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    """Where `g` is highest and how high, of the parabola through the highest bin and its neighbours."""
    middle = (edges[1:] + edges[:-1]) / 2
    top = int(np.clip(np.argmax(g), 1, len(g) - 2))
    before, at, after = g[top - 1 : top + 2]
    bend = before - 2 * at + after
    shift = 0.0 if bend == 0 else (before - after) / (2 * bend)
    return float(middle[top] + shift * (middle[1] - middle[0])), float(at - (before - after) * shift / 4)


def drift(energy: np.ndarray, times: np.ndarray, unit: float) -> dict[str, float | None]:
    """Slope of the energy over the duration, over the starts that last: in kJ/mol, and in % of `unit` (f k_B T)."""
    whole = energy[np.isfinite(energy).all(1)]
    if not len(whole):
        return {"mean_kJ": None, "rms_kJ": None, "rms_percent": None}
    slopes = np.polyfit(times, whole.T, 1)[0] * times[-1]
    rms = float(np.sqrt((slopes**2).mean()))
    return {"mean_kJ": float(slopes.mean()), "rms_kJ": rms, "rms_percent": 100 * rms / unit}


def quartiles(values: np.ndarray) -> np.ndarray:
    """Lower quartile, median and upper quartile over starts (3, n_times); NaN from where half of them are lost."""
    found = np.full((3, values.shape[1]), np.nan)
    enough = np.isfinite(values).mean(0) > 0.5
    found[:, enough] = np.nanpercentile(values[:, enough], [25, 50, 75], axis=0)
    return found


def density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(values, edges)[0] / values.size / np.diff(edges)


def short(values: np.ndarray) -> Any:
    """Lists of numbers to four digits, None for what is not finite."""
    if values.ndim > 1:
        return [short(part) for part in values]
    return [float(f"{x:.4g}") if math.isfinite(x) else None for x in values.tolist()]
