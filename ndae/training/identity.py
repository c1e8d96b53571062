"""What the result of a training depends on, and how two trainings differ."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import nn

from ndae.training.description import UNKNOWN, Describer, Description
from ndae.training.evaluation import Data


@dataclass(frozen=True)
class Identity:
    """What a training is. Trainings with one `settings` and one `start` on one machine end in the same weights.

    `settings`: everything but the weights: the model's structure with all its constants, methods, generated and own
    code, the optimiser, the data and the numbers given to `fit`. `start`: a digest of all weights at the start.
    `versions`: of the packages whose code is in the settings by name alone.
    """

    settings: Description
    start: Description
    versions: dict[str, str]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        samples: Data,
        checks: Data,
        optimizer: Callable[[Any], torch.optim.Optimizer] | None,
        numbers: Mapping[str, Any],
    ) -> "Identity":
        """The identity of a training of `model` on `samples`, checked on `checks`; `numbers` are plain values."""
        describer = Describer(model)
        for name, value in numbers.items():
            describer.add(name, value)
        describer.add("default dtype", torch.get_default_dtype())
        describer.add("matmul precision", torch.get_float32_matmul_precision())
        for name, data in (("training", samples), ("validation", checks)):
            parts = {"inputs": data.inputs, "targets": data.targets} | data.conditions
            for what, tensor in parts.items():
                describer.add(f"data.{name}.{what}", tensor)
        describer.add("model", model)
        if optimizer is not None:
            describer.add("optimizer", optimizer([p for p in model.parameters() if p.requires_grad]))
        return cls(describer.found, describe_weights(model.state_dict()), versions(describer.libraries))

    def to_plain(self) -> dict[str, dict[str, str]]:
        """Dictionaries of texts, for a checkpoint."""
        return {"settings": self.settings, "start": self.start, "versions": self.versions}


def describe_weights(weights: Mapping[str, Any]) -> Description:
    """A digest of everything in a state dict, by name."""
    describer = Describer()
    for name, value in weights.items():
        describer.add(name, value)
    return describer.found


def differences(theirs: Mapping[str, str], ours: Mapping[str, str], most: int = 6) -> list[str]:
    """What differs between two descriptions, as `path theirs (now ours)`; of a part that is another one altogether,
    only that. What is unknown differs from everything. After `most` differences they are counted only."""
    paths = theirs.keys() | ours.keys()
    differing = {path for path in paths if theirs.get(path) != ours.get(path) or ours[path].startswith(UNKNOWN)}
    found = []
    # The parts before the code that they share.
    for path in sorted(differing, key=lambda path: (path.startswith(("class ", "global ")), path)):
        if any(path[:i] in differing for i in range(1, len(path)) if path[i] in ".["):
            continue
        was, now = theirs.get(path, "not there"), ours.get(path, "not there")
        reason = next((text.removeprefix(UNKNOWN) for text in (now, was) if text.startswith(UNKNOWN)), None)
        found.append(f"{path} {was} (now {now})" if reason is None else f"{path}, of which nobody can tell: {reason}")
    return found[:most] + [f"{len(found) - most} more"] * (len(found) > most)


def unknown_parts(description: Mapping[str, str]) -> list[str]:
    """The parts that could not be described, with the reason."""
    return [f"{path} ({text.removeprefix(UNKNOWN)})" for path, text in description.items() if text.startswith(UNKNOWN)]


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """The versions of packages by their import names, as far as they have any, and Python's."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for name in sorted({*libraries, "torch", "ndae"}):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = getattr(sys.modules.get(name), "__version__", None)
            if isinstance(version, str):
                found[name] = version
    return found
