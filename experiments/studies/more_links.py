"""A force learned on five links put on chains of more, with no further training.

    python -m ndae.experiments.studies.more_links [--run RUN] [--links 5,10,20,40] [--out FILE]

A GraphForce knows bodies and links but not how many there are. It is trained as by `ndae train pendulum --method
multiplier --network mimetic-small` (or read from the folder of such a run), laid over a longer chain by `.on(edges)`,
and predicts 0.2 s ahead from states of that chain's true motion. Beside it, under the same constraint and steps: the
true force (what is left is the integrator's error) and no force at all (what the links alone explain).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndae import NeuralMotion
from ndae.experiments.files import write_text
from ndae.experiments.problems import pendulum_data as pendulum
from ndae.experiments.runs.config import RunConfig
from ndae.experiments.runs.run import load_model, run
from ndae.methods import SmoothProjection

RUN, OUT = Path("runs/more_links"), Path("experiments/results/more_links.json")
# Better trained than by the command's defaults, in two or three minutes on two cores.
TRAINING = RunConfig(method="multiplier", network="mimetic-small", epochs=100, schedule="cosine", learning_rate=3e-3)
# Motions begin at rest with every link up to so far from hanging down, and go on for so many horizons.
ANGLE, MOTIONS, HORIZONS, SEED = np.pi / 3, 20, 6, 0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--run", type=Path, help=f"folder of a finished run; by default {RUN}, trained first if it is not"
    )
    parser.add_argument("--links", default="5,10,20,40", help="lengths of chains, comma-separated")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file to write")
    options = parser.parse_args(arguments)
    if options.run is None:
        run(TRAINING, RUN)
    found = compare(options.run or RUN, [int(n) for n in options.links.split(",")])
    write_text(options.out, json.dumps(found, indent=1) + "\n")
    print(describe(found))
    print(f"wrote {options.out}")


def compare(folder: Path, links: list[int]) -> dict[str, Any]:
    """The force of a finished run on chains of so many links, see `on_chain`; raises ValueError for another network."""
    model: Any
    config, model = load_model(folder)
    if config.method != "multiplier" or not hasattr(getattr(model, "force", None), "on"):
        raise ValueError(
            f"{folder} has no force that can be laid over another chain: train it by --method multiplier --network "
            "mimetic-small"
        )
    duration = model.duration
    about = {
        "trained_on_links": pendulum.N_BODIES, "n_train": config.n_train, "epochs": config.epochs, "seed": config.seed,
        "parameters": sum(weight.numel() for weight in model.parameters()), "seconds_ahead": duration,
        "step_s": duration / model.n_steps, "motions": MOTIONS, "states_of_each": HORIZONS,
        "starts": f"at rest, links within {np.degrees(ANGLE):.0f} degrees of hanging down",
    }  # fmt: skip
    return {"about": about, "chains": [on_chain(model.force, n, duration, model.n_steps) for n in links]}


def states(n: int, duration: float, *, motions: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """States (samples, n, 4) of true motions of n links, and the positions (samples, n, 2) `duration` (s) later."""
    from ndae.solvers import solve

    motions = MOTIONS if motions is None else motions
    angle = np.random.default_rng([SEED, n]).uniform(-ANGLE, ANGLE, (motions, n))
    q = np.stack([np.sin(angle), -np.cos(angle)], -1).cumsum(1).reshape(motions, 2 * n)
    ts = duration * np.arange(HORIZONS + 1)
    true: Any = solve(pendulum.system(n), {"q": q, "v": 0.0}, ts, rtol=1e-10, atol=1e-10)
    q, v = (x.reshape(motions, len(ts), n, 2) for x in (true.q, true.v))
    return np.concatenate([q, v], -1)[:, :-1].reshape(-1, n, 4), q[:, 1:].reshape(-1, n, 2)


def on_chain(force: Any, n: int, duration: float, n_steps: int, *, motions: int | None = None) -> dict:
    """Errors (cm) of a GraphForce over n links after `duration` (s) in `n_steps` steps, and by body from the anchor.

    `force_error_by_body_N`: root mean square of the learned force minus the true one. A force that the links take up
    moves nothing, so that this is more than training could see. `force_error_goes_with`: its correlation with a body's
    distance from the anchor and with its speed.
    """
    x, later = states(n, duration, motions=motions)
    force = force.on([(None, 0), *((body, body + 1) for body in range(n - 1))])
    weight = torch.tensor([0.0, -pendulum.MASS * pendulum.GRAVITY])
    forces = {
        "learned": force,
        "true force": lambda t, y: weight.to(y).expand(*y.shape[:-1], 2),
        "no force": lambda t, y: torch.zeros_like(y[..., :2]),
    }
    like = next(force.parameters())
    inputs, links = torch.as_tensor(x).to(like), pendulum.constraint(n).torch()
    predictions = {"constant velocity": x[..., :2] + duration * x[..., 2:]}
    with torch.no_grad():
        for name, acting in forces.items():
            method = SmoothProjection(tol=1e-6)
            motion = NeuralMotion(links, acting, duration=duration, n_steps=n_steps, mass=pendulum.MASS, method=method)
            predictions[name] = motion.predict(inputs).y.double().numpy()
        off = (force(0.0, inputs) - weight.to(like)).double().numpy()
    errors = {name: 100 * np.linalg.norm(y - later, axis=-1) for name, y in predictions.items()}
    speed = np.linalg.norm(x[..., 2:], axis=-1)
    return {
        "links": n,
        "error_cm": {name: float(error.mean()) for name, error in errors.items()},
        "largest_violation_m": float(pendulum.violation(predictions["learned"]).max()),
        "fastest_m_per_s": float(speed.max()),
        "error_by_body_cm": errors["learned"].mean(0).tolist(),
        "force_error_by_body_N": np.sqrt(np.square(off).sum(-1).mean(0)).tolist(),
        "force_error_goes_with": {
            name: _correlation(np.linalg.norm(off, axis=-1), size)
            for name, size in (("distance", np.linalg.norm(x[..., :2], axis=-1)), ("speed", speed))
        },
    }


def describe(found: dict[str, Any]) -> str:
    """The table, and what it says of where the force stops being right."""
    about, known = found["about"], found["about"]["trained_on_links"]
    head = ["links", "learned", "true force", "no force", "const. velocity", "links off", "force off: 1 to 5", "beyond"]
    rows = [head]
    for chain in found["chains"]:
        errors, off = chain["error_cm"], np.array(chain["force_error_by_body_N"])
        rows.append([
            f"{chain['links']}", f"{errors['learned']:.2f} cm", f"{errors['true force']:.3f} cm",
            f"{errors['no force']:.1f} cm", f"{errors['constant velocity']:.1f} cm",
            f"{chain['largest_violation_m']:.0e} m", f"{_rms(off[:known]):.2f} N",
            f"{_rms(off[known:]):.2f} N" if len(off) > known else "",
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"A force learned on {known} links, {about['seconds_ahead']:g} s ahead: mean error per body"]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    longest = max(found["chains"], key=lambda chain: chain["links"])
    off, along = longest["force_error_by_body_N"], longest["force_error_goes_with"]
    reach, weight, fastest = known * pendulum.LENGTH, pendulum.MASS * pendulum.GRAVITY, longest["fastest_m_per_s"]
    lines += [
        f"Of {longest['links']} links the force is off by {off[0]:.2f} N on the first body and {off[-1]:.2f} N on the "
        f"last, of {weight:g} N.",
        f"What limits it: no body of {known} links is further than {reach:g} m from the anchor, and the network on the",
        "links sees where they are. The force's error goes with that distance (correlation "
        f"{along['distance']:.2f}) and with",
        f"the speed ({along['speed']:.2f}). Longer chains are faster too (up to {fastest:.0f} m/s), and the same steps "
        "then cost more.",
    ]
    return "\n".join(lines)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sets of numbers; 0 where one of them does not vary."""
    a, b = (x.ravel() - x.mean() for x in (a, b))
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size > 1e-9 else 0.0


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


if __name__ == "__main__":
    main()
