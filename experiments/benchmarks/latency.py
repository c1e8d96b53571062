"""What a person waits for who changes equations all day: first solve, first solve of a later process, second solve.

    python -m ndae.experiments.benchmarks.latency [--only NAME ...] [--by dopri8 ...] [--max-seconds 120] [--out FILE]

Every line is a process of its own: it defines the system and reduces it, solves it twice, and says the seconds of each,
and its memory. "cached" is the first solve of another process that finds what the one before has compiled, in a folder
that is empty at first. "diffrax" is plain diffrax on the ODE reduced by hand, where there is one; "ida banded" is IDA
alone with a banded Jacobian, on a residual written by hand; IDA and Radau are those of other makers with this project's
equations. CPU seconds, of all threads, stand beside wall seconds: on a machine that others use too the
first are what can be compared. What takes longer than `--max-seconds` is stopped, and stands there as not finished.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads that spin take the cores from the others

import numpy as np

from ndae.experiments.benchmarks.latency_systems import CASES

_WAYS = ("dopri8", "radau13", "diffrax", "ida banded", "ida", "radau")
_MARK = "figures: "


def main() -> None:
    from ndae.experiments.crosscheck.report import machine

    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--by", nargs="+", choices=_WAYS, help="default: dopri8 or radau13, as it fits, and the others")
    parser.add_argument("--max-seconds", type=float, default=120.0, help="for one process")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON too")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(_MARK + json.dumps(_one(*options.one)), flush=True)
        return
    result: dict[str, Any] = {"machine": machine(), "max_seconds": options.max_seconds, "cases": {}}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if load is not None:
        shared = "others used the machine too: compare CPU seconds" if load > 0.5 else "nobody else used the machine"
        result["load"] = f"{load:.1f} before the first process, on {os.cpu_count()} cores: {shared}"
        print(f"load {result['load']}")
    print(f"{'':24}{'reduce':>16}{'first':>16}{'cached':>16}{'second':>16}{'memory':>10}   wall / CPU seconds, MB")
    for name in options.only:
        own = "radau13" if CASES[name].stiff else "dopri8"
        case = CASES[name]
        able = {"diffrax": case.by_hand, "ida banded": case.banded}
        ways = [way for way in options.by or (own, *_WAYS[2:]) if able.get(way, True)]
        result["cases"][name] = {way: _measured(name, way, options.max_seconds) for way in ways}
        for way, figures in result["cases"][name].items():
            print(_line(name, way, figures), flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _measured(name: str, way: str, max_seconds: float) -> dict[str, Any]:
    """The figures of a process, and for what is compiled here of a second one."""
    with tempfile.TemporaryDirectory() as folder:
        first = _process(name, way, folder, max_seconds)
        if way in ("dopri8", "radau13") and "failed" not in first:
            again = _process(name, way, folder, max_seconds)
            first["cached"] = again.get("first", again)
        return first


def _process(name: str, way: str, folder: str, max_seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "ndae.experiments.benchmarks.latency", "--one", name, way]
    environment = os.environ | {"NDAE_COMPILED": folder}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=max_seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"not finished within {max_seconds:g} s"}
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line[len(_MARK) :])
    return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}


def _one(name: str, way: str) -> dict[str, Any]:
    """Seconds (wall, CPU) of what a process does, one after the other; what it imports is not among them."""
    import diffrax
    import jax

    from ndae.solvers import solve

    case, figures = CASES[name], {}
    ts, rtol = case.ts(), case.rtol
    if way == "diffrax" and case.by_hand is not None:
        function, y0, y = case.by_hand()

        def run(y0, ts):
            # Kvaerno5 is what diffrax has for stiff equations.
            solver = diffrax.Kvaerno5() if case.stiff else diffrax.Dopri8()
            controller = diffrax.PIDController(rtol=rtol, atol=1e-4 * rtol)
            out = diffrax.diffeqsolve(
                diffrax.ODETerm(function), solver, ts[0], ts[-1], None, y0,
                saveat=diffrax.SaveAt(ts=ts), stepsize_controller=controller, max_steps=1_000_000,
            )  # fmt: skip
            return out.ys

        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            for which in ("first", "second"):
                figures[which], found = _timed(lambda: jax.block_until_ready(run(y0, ts)))
        value = float(found[-1][y])
    elif way == "ida banded" and case.banded is not None:
        written = case.banded()
        for which in ("first", "second"):
            figures[which], value = _timed(lambda: _by_ida(*written, ts, rtol))
    else:

        def define():
            system, start = case.system()
            system.reduce()
            return system, start

        figures["reduce"], (system, start) = _timed(define)
        for which in ("first", "second"):
            figures[which], found = _timed(lambda: solve(system, start, ts, by=way, rtol=rtol))
        value = float(found[case.shown][-1])
    figures["memory"] = _megabytes()
    figures["value"] = value
    return figures


def _by_ida(residual: Any, y0: np.ndarray, algebraic: list[int], shown: int, ts: np.ndarray, rtol: float) -> float:
    from sksundae.ida import IDA

    solver = IDA(
        residual, rtol=rtol, atol=rtol, algebraic_idx=algebraic, linsolver="band", lband=1, uband=1,
        max_num_steps=1_000_000,
    )  # fmt: skip
    return float(solver.solve(ts, y0, np.zeros_like(y0)).y[-1, shown])


def _timed(function: Any) -> tuple[list[float], Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    out = function()
    return [round(time.perf_counter() - wall, 3), round(time.process_time() - cpu, 3)], out


def _megabytes() -> float | None:
    """The most memory that this process has held; None where the platform does not say."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _line(name: str, way: str, figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return f"{name + ', ' + way:24}  {figures['failed']}"
    columns = []
    for key in ("reduce", "first", "cached", "second"):
        seconds = figures.get(key, "")
        if isinstance(seconds, dict):
            seconds = seconds["failed"]
        columns.append(f"{seconds if isinstance(seconds, str) else '{:.2f} / {:.2f}'.format(*seconds):>16}")
    return f"{name + ', ' + way:24}{''.join(columns)}{figures['memory'] or 0:>10.0f}   {figures['value']:.8g}"


if __name__ == "__main__":
    main()
