"""Lengths of links that the model is not told, learned with the force from positions a moment later.

    python -m ndae.experiments.studies.learned_lengths [--seeds 0,1,2] [--noise 0,0.001] [--out FILE]

Five links of lengths drawn between 0.5 and 1.5 m hang from the origin and swing under gravity. The model starts with
links of one metre and no force, and learns both from 100 states and the positions 0.15 s later. States that are
measured lie on no constraint whose lengths are still to be found: they are projected (starts="project").

Beside it is what needs no model at all where all bodies are seen: the mean distance of neighbours in the data.
The settings were chosen on seed 100, which is in no table.
"""

import argparse
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndae import NeuralMotion, fit
from ndae.experiments.files import write_text
from ndae.forces import MLPForce
from ndae.methods import EndProjection
from ndae.symbolic import library

OUT, RUNS = Path("experiments/results/learned_lengths.json"), Path("runs/learned_lengths")
LINKS, SHORTEST, LONGEST = 5, 0.5, 1.5
GRAVITY, AHEAD, N_STEPS = 9.82, 0.15, 3
N_TRAIN, N_VAL = 100, 50
# Starts: links up to so far from hanging down, at normal rates (1/s) of this spread.
ANGLE, RATE = 2 * np.pi / 3, 1.0
# Velocities are ten times as noisy in m/s as positions in m, as slopes over five points 0.03 s apart would be.
VELOCITY_NOISE = 10.0
EPOCHS, BATCH, LEARNING_RATE, HIDDEN = 60, 20, 0.03, 32


def main(arguments: list[str] | None = None) -> None:
    """Learn the lengths of every seed with every noise, write what was found, and print it as a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2", help="lengths, starts and weights of each, comma-separated")
    parser.add_argument("--noise", default="0,0.001", help="standard deviations of positions (m), comma-separated")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder for the trainings; finished ones are kept")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file to write")
    options = parser.parse_args(arguments)
    about = {
        "links": LINKS, "lengths_m": [SHORTEST, LONGEST], "n_train": N_TRAIN, "n_val": N_VAL, "seconds_ahead": AHEAD,
        "step_s": AHEAD / N_STEPS, "velocity_noise_per_s": VELOCITY_NOISE, "epochs": options.epochs,
        "batch_size": BATCH, "learning_rate": LEARNING_RATE, "schedule": "cosine", "hidden": HIDDEN,
    }  # fmt: skip
    found = {"about": about, "runs": []}
    for seed in (int(seed) for seed in options.seeds.split(",")):
        for noise in (float(noise) for noise in options.noise.split(",")):
            folder = options.runs / f"seed{seed}-noise{noise:g}"
            found["runs"].append(recover(seed, noise, folder, options.epochs))
            write_text(options.out, json.dumps(found, indent=1) + "\n")
    print(describe(found))
    print(f"wrote {options.out}")


def samples(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths (LINKS,), states (n, LINKS, 4) and the positions (n, LINKS, 2) `AHEAD` later, of N_TRAIN + N_VAL samples.

    Noise is on states and on later positions; the motion does not depend on it.
    """
    lengths, x, later = _true(seed, LINKS, N_TRAIN + N_VAL)
    rng = np.random.default_rng([seed, 1])
    size = noise * np.array([1.0, 1.0, VELOCITY_NOISE, VELOCITY_NOISE])
    return lengths, x + size * rng.normal(size=x.shape), later + noise * rng.normal(size=later.shape)


@lru_cache(maxsize=1)
def _true(seed: int, links: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from ndae.solvers import solve

    rng = np.random.default_rng(seed)
    lengths = rng.uniform(SHORTEST, LONGEST, links)
    angle, rate = rng.uniform(-ANGLE, ANGLE, (n, links)), RATE * rng.normal(size=(n, links))
    q = (np.stack([np.sin(angle), -np.cos(angle)], -1) * lengths[:, None]).cumsum(1).reshape(n, -1)
    v = (np.stack([np.cos(angle), np.sin(angle)], -1) * (lengths * rate)[..., None]).cumsum(1).reshape(n, -1)
    system = library.chain_pendulum(links, lengths, gravity=GRAVITY)
    true: Any = solve(system, {"q": q, "v": v}, np.array([0.0, AHEAD]), rtol=1e-10, atol=1e-10)
    x = np.concatenate([part.reshape(n, links, 2) for part in (q, v)], -1)
    return lengths, x, true.q[:, -1].reshape(n, links, 2)


def motion(seed: int) -> NeuralMotion:
    """Links of one metre and no force, both to be learned."""
    torch.manual_seed(seed)
    links = library.chain(LINKS, length=[1.0] * LINKS).torch(learn=["length"])
    force, method = MLPForce(LINKS, 2, hidden=HIDDEN), EndProjection(tol=1e-9)
    return NeuralMotion(links, force, duration=AHEAD, n_steps=N_STEPS, method=method, starts="project").double()


def recover(seed: int, noise: float, folder: Path, epochs: int = EPOCHS) -> dict[str, Any]:
    """Train on the data of a seed with so much noise (m); the lengths found, and how far they are off (m)."""
    lengths, x, later = samples(seed, noise)
    model: Any = motion(seed)
    result = fit(
        model, (x[:N_TRAIN], later[:N_TRAIN]), (x[N_TRAIN:], later[N_TRAIN:]), out=folder, epochs=epochs,
        batch_size=BATCH, learning_rate=LEARNING_RATE, schedule="cosine", seed=seed, device="cpu", progress=True,
        error_unit=("cm", 100.0),
    )  # fmt: skip
    learned = model.constraint.learned["length"].detach().numpy()
    read_off = distances(np.concatenate([x[:N_TRAIN, :, :2], later[:N_TRAIN]])).mean(0)
    return {
        "seed": seed,
        "noise_m": noise,
        "true_m": lengths.tolist(),
        "learned_m": learned.tolist(),
        "largest_error_m": float(np.abs(learned - lengths).max()),
        "largest_error_at_start_m": float(np.abs(1 - lengths).max()),
        "largest_error_of_mean_distance_m": float(np.abs(read_off - lengths).max()),
        "val_mae_m": result.best.val_mae,
        "val_mae_of_noise_m": float(noise * np.sqrt(np.pi / 2)),  # mean length of the targets' own noise in a plane
        "best_epoch": result.best.epoch,
        "seconds": result.seconds,
    }


def distances(q: np.ndarray) -> np.ndarray:
    """Of each body (n, LINKS, 2) from the one before, the first from the origin."""
    return np.linalg.norm(np.diff(q, axis=1, prepend=0.0), axis=-1)


def describe(found: dict[str, Any]) -> str:
    """The runs as a table in Markdown, and the worst of each noise."""
    lines = [
        "| noise (mm) | seed | one metre (mm) | learned (mm) | mean distance (mm) | prediction (mm) | noise (mm) | s |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    runs = sorted(found["runs"], key=lambda run: (run["noise_m"], run["seed"]))
    for run in runs:
        sizes = [
            run[f"largest_error_{name}m"] * 1e3 for name in ("at_start_", "", "of_mean_distance_")
        ] + [run["val_mae_m"] * 1e3, run["val_mae_of_noise_m"] * 1e3]  # fmt: skip
        cells = " | ".join(f"{size:.3g}" for size in sizes)
        lines.append(f"| {run['noise_m'] * 1e3:g} | {run['seed']} | {cells} | {run['seconds']:.0f} |")
    lines += [
        "",
        "- one metre (the start), learned, mean distance (read off the positions): largest error of a link's length",
        "- prediction: mean error per body of validation samples; noise: what noise in their targets alone makes of it",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
