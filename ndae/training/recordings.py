"""Recordings as samples of `fit`: their windows, the starts of these, and what predictions miss of what was seen."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ndae.data.change import sizes
from ndae.models.neural_system import NeuralSystem
from ndae.models.pieces import Pieces, check_recordings, finite_misses, fitted, scale_networks, state_units
from ndae.models.prediction import Prediction

# What gaps between windows are counted in, of each state's spread.
HUNDREDTH = 0.01


@dataclass(frozen=True)
class Windows:
    """How recordings are cut, and what becomes of the starts of the pieces.

    - `length`: intervals between observations in a piece, None for whole recordings. Short pieces keep a training well
      behaved where long predictions are chaotic or far off, and their predictions are made at once; whole recordings
      weigh noise best.
    - `continuity`: weight of what the end of a piece misses the start of the next by, in hundredths of each state's
      spread. Of two weights, (1.0, 1e4), the first holds in the first epoch, and ten times as much in each that
      follows, up to the second: pieces become one motion, which weighs noise as a whole recording does.
    - `starts`: "learned" with the network (from what was observed), or "measured", taken as they are observed.
    """

    length: int | None = None
    continuity: float | tuple[float, float] = 1.0
    starts: str = "learned"

    def __post_init__(self) -> None:
        if self.length is not None and (isinstance(self.length, bool) or not 1 <= self.length == int(self.length)):
            raise ValueError(f"length={self.length!r}: expected a whole number of intervals, at least 1, or None")
        first, last = _pair(self.continuity)
        if not 0 <= first <= last < math.inf:
            raise ValueError(
                f"continuity={self.continuity!r}: expected a weight, finite and not negative, or the first and the "
                "last of growing ones"
            )
        if first == 0 < last:
            raise ValueError(f"continuity={self.continuity!r} never grows from 0: begin with a positive weight")
        if self.starts not in ("learned", "measured"):
            raise ValueError(f'starts={self.starts!r}: expected "learned" or "measured"')

    def weight(self, done: int) -> float:
        """Weight of continuity after so many epochs."""
        first, last = _pair(self.continuity)
        return min(last, first * 10.0**done)


def _pair(continuity: float | tuple[float, float]) -> tuple[float, float]:
    first, last = continuity if isinstance(continuity, tuple | list) else (continuity, continuity)
    return float(first), float(last)


class RecordingFit(nn.Module):
    """A NeuralSystem as `fit` trains it on recordings: predictions are misses, in standard deviations or sizes.

    `predict(x, window=...)` rolls out pieces from starts that are learned with the model, `predict(x, check=...)` those
    of the validation from starts fitted under the model as it is. Both give (seen − predicted) / unit, 0 where nothing
    was seen, so that targets are zero.
    """

    def __init__(self, model: NeuralSystem, train: Any, validation: Any, windows: Windows):
        super().__init__()
        train, validation = list(train), list(validation or train)
        check_recordings(model, train, "training")
        check_recordings(model, validation, "validation")
        self.model, self.windows = model, windows
        scale = sizes(train)
        self.train_pieces = Pieces(model, train, windows.length, scale)
        self.check_pieces = Pieces(model, validation, windows.length, scale)
        self.register_buffer("unit", state_units(self.train_pieces))
        scale_networks(model, self.train_pieces)
        self.moved = nn.Parameter(torch.zeros_like(self.train_pieces.guess), windows.starts == "learned")
        self.register_buffer("checked", self.check_pieces.guess.clone())
        self.register_buffer("done", torch.tensor(0))  # epochs, counted as they are validated

    unit: Tensor
    checked: Tensor
    done: Tensor

    @property
    def weight(self) -> float:
        """Of continuity, in the present epoch."""
        return self.windows.weight(int(self.done))

    @property
    def data(self) -> tuple[Any, Any]:
        """Samples and validation samples of `fit`."""
        made = []
        for name, pieces in (("window", self.train_pieces), ("check", self.check_pieces)):
            zeros = torch.zeros(len(pieces), *pieces.seen.shape[1:]).double()[:, :, None, :]
            made.append((pieces.guess[:, None, :].clone(), zeros, {name: torch.arange(len(pieces))}))
        return made[0], made[1]

    def starts(self, which: Tensor) -> Tensor:
        """Starts of training windows as learned so far."""
        pieces = self.train_pieces
        return pieces.guess[which] + self.unit * self.moved[which] * pieces.free[which]

    def predict(self, x: Tensor, *, window: Tensor | None = None, check: Tensor | None = None) -> Prediction:
        """What is missed, (batch, n_times, 1, n_outputs), and the terms of continuity and of the method."""
        if window is None:
            assert check is not None
            return self._checked(check)
        pieces = self.train_pieces
        misses, path, good = finite_misses(self.model, pieces, window, self.starts(window))
        term, there = path.regularisation, window if len(path.y) == len(window) else window[good]
        goes_on = pieces.goes_on[there]
        if bool(goes_on.any()) and self.weight:
            following = self.starts((there + 1).clamp_max(len(pieces) - 1))
            gap = ((path.y[:, -1] - following) / (HUNDREDTH * self.unit)).square().sum(-1) * goes_on
            term = term + self.weight / 2 * gap.mean()
        return Prediction(misses, term, ())

    def _checked(self, which: Tensor) -> Prediction:
        pieces = self.check_pieces
        if bool((which == 0).any()):
            self.done += 1
        learned = self.windows.starts == "learned"
        start = pieces.guess[which]
        if learned:  # those of the epoch before are near
            start = fitted(self.model, pieces, which, self.unit, self.checked[which])
            self.checked[which] = start.detach()
        misses, path, _ = finite_misses(self.model, pieces, which, start)
        return Prediction(misses, path.regularisation, ())

    def forward(self, x: Tensor) -> Tensor:
        """Not for use: a window says more than its start."""
        raise NotImplementedError("RecordingFit predicts windows, by their numbers")
