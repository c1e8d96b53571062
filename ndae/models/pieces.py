"""Recordings cut to windows: their times, what was seen in them, and where each may have started."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ndae.data.recording import Recording
from ndae.models.first_guesses import guessed_states, observed_states, observed_values
from ndae.models.fitted_starts import fitted_starts
from ndae.models.tables import TablesOfSamples, tables_of
from ndae.symbolic.expressions.unknowns import Applied, applied_in
from ndae.symbolic.functions.vector_function import VectorFunction
from ndae.symbolic.ground.words import check_known

# What fitted starts are counted in, of the units of states: fine enough to end at the least squares.
_FINE = 0.01
# What a window that can't be predicted misses in everything at least, in units of the outputs.
_LOST = 1e3


class Pieces(nn.Module):
    """Windows of recordings as tensors: times, what was seen, in which units it counts, and first guesses of starts."""

    def __init__(self, model: Any, recordings: Sequence[Recording], window: int | None, scale: Mapping):
        super().__init__()
        reduced = model.reduced
        cut, following = [], []
        for recording in recordings:
            n = len(recording.times) - 1
            length = n if window is None else window
            begins = list(range(0, n, length))
            cut += [(recording, b, min(b + length, n)) for b in begins]
            following += [True] * (len(begins) - 1) + [False]
        self.inputs = {name: tables_of([r.inputs[name] for r, _, _ in cut], name) for name in model.inputs}
        names, longest = model.outputs, max(end - begin for _, begin, end in cut) + 1

        def filled(x: Any, begin: int, end: int) -> np.ndarray:
            """Rows begin..end, the last one repeated."""
            part = np.asarray(x)[begin : end + 1]
            return np.concatenate([part, np.repeat(part[-1:], longest - len(part), axis=0)])

        times, values, weights, starts, around = [], [], [], [], []
        whole = {r: np.stack([r.values.get(n, np.full(len(r.times), np.nan)) for n in names], -1) for r in recordings}
        guesses = {r: guessed_states(model, r) for r in recordings}
        for r, begin, end in cut:
            times.append(filled(r.times, begin, end))
            seen = filled(whole[r], begin, end)
            seen[end - begin + 1 :] = np.nan
            values.append(np.nan_to_num(seen))
            unit = np.stack([np.broadcast_to(sigma_of(r, n, scale), len(r.times)) for n in names], -1)
            weights.append(np.where(np.isfinite(seen), 1 / filled(unit, begin, end), 0.0))
            starts.append(guesses[r][begin])
            around.append(filled(guesses[r], begin, end))
        seen_states = [observed_states(model, r) for r in recordings]
        self.observed = sorted(set.intersection(*seen_states))
        self.states_seen = torch.as_tensor(np.stack(around))
        for name, parts in {"t": times, "seen": values, "weight": weights, "guess": starts}.items():
            self.register_buffer(name, torch.as_tensor(np.stack(parts)))
        self.register_buffer("goes_on", torch.tensor(following))
        known = np.stack([_known_start(model, r, begin) for r, begin, _ in cut])
        self.register_buffer("free", torch.as_tensor(~known))
        default = {s.name: v for s, v in reduced.parameters.items()} | model.parameters_now()
        shared = {name for r in recordings for name in r.parameters} | {n for n, v in default.items() if v is None}
        self.parameters_of = {
            name: torch.tensor([_parameter(r, name, default, model) for r, _, _ in cut], dtype=torch.float64)
            for name in sorted(shared)
        }
        w = [_leading_guess(model, r, begin) for r, begin, _ in cut]
        self.register_buffer("w", torch.as_tensor(np.stack(w)))
        self.worst = 0.0  # what was missed of windows that could be predicted, at most

    t: Tensor
    seen: Tensor
    weight: Tensor
    guess: Tensor
    goes_on: Tensor
    free: Tensor
    w: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def conditions(self, which: Tensor) -> tuple[dict[str, Tensor], dict[str, TablesOfSamples]]:
        """Parameters and inputs of some windows."""
        inputs = {name: tables.take(which) for name, tables in self.inputs.items()}
        return {name: v[which] for name, v in self.parameters_of.items()}, inputs


def missed(
    model: Any, pieces: Pieces, which: Tensor, start: Tensor, parameters: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Any]:
    """(seen − predicted) / unit of some windows from starts (batch, N), (batch, n_times, 1, n_outputs), 0 where nothing
    was seen; and the path. `parameters` are taken over those that there are."""
    own, inputs = pieces.conditions(which)
    path = model.path(start, pieces.t[which], {**own, **(parameters or {})}, inputs, pieces.w[which])
    found = model.seen(path)
    misses = torch.where(pieces.weight[which] > 0, (pieces.seen[which] - found) * pieces.weight[which], 0.0)
    return misses[:, :, None, :], path


def finite_misses(model: Any, pieces: Pieces, which: Tensor, start: Tensor) -> tuple[Tensor, Any, Tensor]:
    """As `missed`, and which windows could be predicted. Of the others more is missed than of any that could, and they
    take no part in derivatives: so that a search for better weights turns back. Where none ever could, all is as it is.
    """
    misses, path = missed(model, pieces, which, start)
    good = misses.detach().flatten(1).isfinite().all(1) & path.y.detach().flatten(1).isfinite().all(1)
    if bool(good.any()):
        pieces.worst = max(pieces.worst, float(misses.detach()[good].abs().max()))
    if bool(good.all()) or not pieces.worst:
        return misses, path, good
    lost = torch.full_like(misses, lost_misses(pieces))
    if not bool(good.any()):
        zero = sum((0 * p.sum() for p in model.parameters() if p.requires_grad), misses.new_zeros(()))
        return lost + zero, replace(path, y=path.y[:0], regularisation=zero), good
    # Anew: of what is not finite a derivative is not either, whatever it is multiplied by.
    found, path = missed(model, pieces, which[good], start[good])
    return lost.index_copy(0, good.nonzero()[:, 0], found), path, good


def lost_misses(pieces: Pieces) -> float:
    """What a window that can't be predicted is said to miss, more than any that could."""
    return max(_LOST, 10 * pieces.worst)


def fitted(model: Any, pieces: Pieces, which: Tensor, unit: Tensor, also: Tensor | None = None) -> Tensor:
    """Starts (batch, N) from which the model as it is comes nearest to what was seen, each window by itself.

    The search begins at the first guess, or at the starts `also`, wherever less is missed.
    """
    n, start = len(which), pieces.guess[which]
    if also is not None:
        both = torch.stack([start, also])
        misses = missed(model, pieces, which.repeat(2), both.flatten(0, 1))[0].view(2, n, -1).square().sum(-1)
        less = misses.nan_to_num(torch.inf, torch.inf).argmin(0)
        start = both[less, torch.arange(n)]
    if not bool(pieces.free[which].any()):
        return start

    def path(x: Tensor, t0: Tensor) -> Tensor:
        repeated = which.repeat(len(x) // n)
        x = torch.where(pieces.free[repeated], x[:, 0], pieces.guess[repeated])
        return missed(model, pieces, repeated, x)[0]

    zeros = torch.zeros(n, *pieces.seen.shape[1:2], 1, pieces.seen.shape[-1], dtype=torch.float64)
    found = fitted_starts(path, start[:, None], zeros, pieces.t[which, 0], _FINE * unit)[:, 0]
    return torch.where(pieces.free[which], found, start)


def check_recordings(model: Any, recordings: Sequence[Any], name: str) -> None:
    """Raise ValueError for what is no recording of this system."""
    if not recordings:
        raise ValueError(f"{name} data: no recordings: give at least one")
    for i, r in enumerate(recordings):
        where = f"{name} recording {i}{f' ({r.name})' if getattr(r, 'name', '') else ''}"
        if not isinstance(r, Recording):
            raise ValueError(f"{where} is {type(r).__name__}: give ndae.Recording(times, {{output: values}})")
        strange = sorted(set(r.values) - set(model.outputs))
        if strange:
            raise ValueError(
                f"{where}: {strange[0]!r} is no output of {model.system.name!r}, which has {', '.join(model.outputs)}: "
                "say what it shows by System(..., outputs={...})"
            )
        if len(r.times) < 2:
            raise ValueError(f"{where} has one time: a motion has at least two")
        both = sorted(set(r.parameters) & set(model.learned.keys()))
        if both:
            raise ValueError(f"{where} gives the parameter {both[0]!r}, which is learned: leave one of the two out")
        missing = [u for u in model.inputs if u not in r.inputs]
        if missing:
            raise ValueError(
                f"{where}: the unknown function {missing[0]} is neither given to the model nor an input of the "
                f"recording: give inputs={{{missing[0]!r}: (times, values)}}"
            )


def _parameter(r: Recording, name: str, default: Mapping[str, float | None], model: Any) -> float:
    check_known([name], default, repr(model.system.name))
    value = r.parameters.get(name, default[name])
    if value is None:
        raise ValueError(
            f"{model.system.name}: the parameter {name!r} has no value in {r!r}: give Recording(parameters={{{name!r}: "
            "...}), a default, or learn it"
        )
    return float(value)


def sigma_of(recording: Recording, output: str, scale: Mapping[str, float]) -> Any:
    """What errors of an output are counted in: its noise where that is known, else its size."""
    return recording.sigma.get(output, scale.get(output, 1.0))


def _known_start(model: Any, r: Recording, begin: int) -> np.ndarray:
    return np.array([begin == 0 and s.name in r.start for s in model.reduced.y])


def state_units(pieces: Pieces) -> Tensor:
    """How far states move in a window and over them, or how large they are; 1 of what is nothing."""
    spread = pieces.guess.std(0, unbiased=False) if len(pieces) > 1 else torch.zeros_like(pieces.guess[0])
    size = pieces.guess.abs().amax(0)
    return torch.where(spread > 1e-6 * size, spread, torch.where(size > 0, size, 1.0))


def _leading_guess(model: Any, r: Recording, begin: int) -> np.ndarray:
    """Where Newton's iteration for algebraic variables begins: what of them was given, or observed, else 0."""
    observed = {s.name: values[begin] for s, values in observed_values(model, r).items()}
    there = {**r.start, **observed} if begin else {**observed, **r.start}
    return np.array([there.get(s.name, 0.0) for s in model.reduced.w])


def scale_networks(model: Any, pieces: Pieces) -> None:
    """Tell networks that ask for it (by `scale_to`) where their functions are asked, as far as that was observed."""
    reduced, functions = model.reduced, model.system.functions
    asked: dict[str, list[Tensor]] = {}
    known = {*reduced.y, reduced.time, *reduced.parameters}
    for e in sorted(applied_in((*reduced.equations, *reduced.constraints)), key=str):
        module = functions[e.unknown.name].module if e.unknown.name in functions else None
        if not hasattr(module, "scale_to") or not {s for a in e.places for s in a.free_symbols} <= known:
            continue
        function = VectorFunction(e.places, {"y": reduced.y}, reduced.time, reduced.parameters, f"arguments of {e}")
        values = {**model.parameters_now(), **{name: v[:, None] for name, v in pieces.parameters_of.items()}}
        inner = any(a.has(Applied) for a in e.places)
        if not inner:
            x = function.torch()(pieces.states_seen, t=pieces.t, parameters=values)
            asked.setdefault(e.unknown.name, []).append(x.flatten(0, -2))
    for name, parts in asked.items():
        functions[name].module.scale_to(torch.cat(parts))


def regress_on_constraints(model: Any, pieces: Pieces, steps: int = 60) -> None:
    """Let networks that stand in constraints over observed states begin where these hold best for what was observed.

    Minimises the mean of C_i(y)² over the observations, each in units of the spread of its known part, for those C_i of
    which every state is observed: a regression, without a motion. Where there are none, nothing happens.
    """
    reduced = model.reduced
    observed = {reduced.y[j] for j in pieces.observed}
    known = {*observed, reduced.time, *reduced.parameters}
    rows = [c for c in reduced.constraints if c.has(Applied) and c.free_symbols <= known]
    trained = [p for p in model.networks.parameters() if p.requires_grad]
    if not rows or not trained or model.inputs:
        return
    function = VectorFunction(rows, {"y": reduced.y}, reduced.time, reduced.parameters, "constraints").torch()
    numbers = {name: v[:, None] for name, v in pieces.parameters_of.items()} | model.parameters_now()
    before = [p.detach().clone() for p in trained]

    def residuals() -> Tensor:
        return function(pieces.states_seen, t=pieces.t, parameters=reduced.torch().with_functions(numbers))

    with torch.no_grad():
        unit = residuals().flatten(0, -2).std(0).clamp_min(1e-12)
    search = torch.optim.LBFGS(trained, max_iter=steps, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = (residuals() / unit).square().mean()
        loss.backward()
        return loss

    search.step(closure)
    search.zero_grad(set_to_none=True)
    if not all(bool(p.isfinite().all()) for p in trained):
        with torch.no_grad():
            for p, old in zip(trained, before, strict=True):
                p.copy_(old)
