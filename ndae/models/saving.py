"""Models in files: one safetensors file with the weights, and as JSON in its header what the model is made of."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ndae.files import differing_weights, write_atomically
from ndae.methods import Method
from ndae.models.saved_values import NotSaved, Reader, Writer
from ndae.symbolic.ground.arguments import arguments_of
from ndae.symbolic.ground.extras import needing

FORMAT = 1
_WEIGHT = "weight."
_PLAIN = (bool, int, float, str, type(None))


class SavedModelError(ValueError):
    """A file that is no saved model, is damaged, or does not fit what it is loaded with; the text says which."""


def save(model: nn.Module, path: str | Path) -> Path:
    """Write a model of ndae to one file, to be read by `ndae.load`: its equations, what it was made with, its weights.

    Models are `NeuralSystem`, `NeuralDAE`, `NeuralMotion`, `MolecularDAE` and the fields and forces they are made of.
    The file is in the safetensors format, whose header holds the rest as JSON; nothing is pickled, and reading runs no
    code of the file's. Modules and functions that are not ndae's are left out under the name of their argument or
    unknown function, and given to `load` again; their weights are in the file. It is written whole or not at all, and
    is read back and compared before that.

    Raises ValueError, naming it, for what can't be written down, and where the model was changed since it was made in
    a way that its file could not tell.
    """
    with needing("ndae.save"):
        from safetensors.torch import save as to_bytes

    if not isinstance(model, nn.Module):
        raise ValueError(f"save: {model!r} is no model: give a NeuralSystem, NeuralDAE or NeuralMotion")
    writer = Writer()
    made = writer.value(model, "")
    if "made" not in made:
        raise NotSaved(
            f"a {type(model).__name__} is no model of ndae's, which alone are saved: save its weights by "
            "safetensors.torch.save_model"
        )
    weights = model.state_dict()
    content = {
        "format": FORMAT, "made": made, "nodes": writer.nodes, "given": {k: _kind(v) for k, v in writer.given.items()},
        "fixed": [name for name, p in model.named_parameters() if not p.requires_grad], "training": model.training,
    }  # fmt: skip
    tensors = {f"{_WEIGHT}{name}": w.detach().cpu().contiguous().clone() for name, w in weights.items()}
    tensors |= writer.arrays
    text = json.dumps(content, allow_nan=False)
    data = to_bytes(tensors, metadata={"ndae": text, "sha256": _digest(text, tensors)})
    _check_same(model, _read(data, str(path), writer.given))
    path = Path(path)
    write_atomically(path, lambda file: file.write(data))
    return path


def load(path: str | Path, modules: Mapping[str, Any] | None = None) -> Any:
    """The model that `ndae.save` wrote, with its weights, on the CPU.

    `modules`: by name, the modules and functions that are not ndae's, made anew; their weights are put in. Raises
    SavedModelError, a ValueError, for a file that is damaged or no saved model, for modules that are missing or not
    asked for, and for weights that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise SavedModelError(f"there is no file {path}")
    return _read(path.read_bytes(), str(path), dict(modules or {}))


def asked(path: str | Path) -> dict[str, str]:
    """Names of the modules and functions that `load` has to be given, with what they were."""
    return dict(_content(Path(path).read_bytes(), str(path))[0]["given"])


def _read(data: bytes, name: str, given: Mapping[str, Any]) -> nn.Module:
    content, tensors = _content(data, name)
    if content["format"] != FORMAT:
        raise SavedModelError(f"{name} is of format {content['format']!r}; this version of ndae reads {FORMAT}")
    asked = content["given"]
    missing, strange = [k for k in asked if k not in given], [k for k in given if k not in asked]
    if missing:
        listing = ", ".join(f"{k!r} (a {asked[k]})" for k in missing)
        raise SavedModelError(
            f"{name} holds no {listing}, which are not ndae's: give load(path, {{{missing[0]!r}: ...}})"
        )
    if strange:
        raise SavedModelError(
            f"{name} asks for no {', '.join(map(repr, strange))}; it asks for {list(asked) or 'none'}"
        )
    arrays = {key: value for key, value in tensors.items() if not key.startswith(_WEIGHT)}
    weights = {key.removeprefix(_WEIGHT): value for key, value in tensors.items() if key.startswith(_WEIGHT)}
    with torch.random.fork_rng(devices=[]):
        model = Reader(content["nodes"], arrays, given).value(content["made"])
    _put(model, weights, name)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key not in content["fixed"])
    return model.train(content["training"])


def _content(data: bytes, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with needing("ndae.load"):
        from safetensors import SafetensorError
        from safetensors.torch import load as of_bytes

    try:
        tensors = of_bytes(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        text, digest = metadata["ndae"], metadata["sha256"]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise SavedModelError(f"{name} is no model that ndae.save wrote, or is damaged: {error!r}") from error
    if _digest(text, tensors) != digest:
        raise SavedModelError(f"{name} is damaged: its digest is not that of its content; restore it from a copy")
    return json.loads(text), tensors


def _put(model: nn.Module, weights: Mapping[str, torch.Tensor], name: str) -> None:
    differing = differing_weights(model.state_dict(), weights)
    if differing:
        raise SavedModelError(
            f"{name}: {len(differing)} of {len(weights)} weights differ in name or shape, first {differing[0]!r}: give "
            "modules made as those that were saved"
        )
    floating = next((w.dtype for w in weights.values() if w.is_floating_point()), None)
    if floating is not None:
        model.to(floating)
    both = model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    held = {key: tensor for pairs in both for key, tensor in pairs}
    for key, weight in weights.items():
        held[key].data = held[key].data.to(weight.dtype)
    model.load_state_dict(dict(weights))


def _check_same(model: nn.Module, read: nn.Module) -> None:
    """Raise NotSaved unless a model that was read back is the one that was written."""
    ours, theirs = dict(model.named_modules()), dict(read.named_modules())
    own, other = model.state_dict(), read.state_dict()
    if ours.keys() != theirs.keys() or own.keys() != other.keys():
        names = sorted((ours.keys() ^ theirs.keys()) | (own.keys() ^ other.keys()))
        raise NotSaved(f"the model has other parts than when it was made, first {names[0]!r}: make it with them")
    for key, weight in own.items():
        if weight.dtype != other[key].dtype or not torch.equal(weight.cpu(), other[key]):
            raise NotSaved(f"the weight {key!r} is not the same when it is read back: its precision is of its own")
    for name, module in ours.items():
        for attribute, value in vars(module).items():
            now = vars(theirs[name]).get(attribute)
            if attribute[:1] != "_" and attribute != "training" and not _equal(value, now):
                where = f"{name}.{attribute}" if name else attribute
                raise NotSaved(
                    f"{where} is {value!r}, and was made as {now!r}: its file could not tell; make the model with it"
                )


def _equal(ours: Any, theirs: Any) -> bool:
    """Whether two attributes are the same, as far as they are plain: what else there is follows from what is."""
    if isinstance(ours, _PLAIN) or isinstance(theirs, _PLAIN):
        return type(ours) is type(theirs) and (ours == theirs or (ours != ours and theirs != theirs))
    if type(ours) in (list, tuple) and type(ours) is type(theirs):
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    if type(ours) is dict and type(theirs) is dict:
        return list(map(str, ours)) == list(map(str, theirs)) and all(map(_equal, ours.values(), theirs.values()))
    if isinstance(ours, np.ndarray | torch.Tensor) and isinstance(theirs, np.ndarray | torch.Tensor):
        return bool(np.array_equal(np.asarray(ours), np.asarray(theirs), equal_nan=True))
    if type(ours) is not type(theirs):
        return False
    return not isinstance(ours, Method) or _equal(vars(ours), vars(theirs))


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _kind(value: Any) -> str:
    made = arguments_of(value)
    return type(value).__name__ if made is None else f"changed {type(value).__name__}"
