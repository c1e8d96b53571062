"""What a Python file of the user's defines: their own program, which is run as `import` would run it."""

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from ndae.experiments.terminal import UserError

# What a file calls the problem that it defines; those of this project write a constant.
_NAMES = ("problem", "PROBLEM")


def problem_of_file(path: Path, advice: str) -> object:
    """What the file `path` calls its problem.

    Raises UserError where there is no such file, where running it fails, by the file's own line, and with `advice`
    where it defines no problem.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    name = f"_ndae_{path.stem}"
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        line = f" line {lines[-1]}," if lines else ""
        raise UserError(f"{path}:{line} {said(error)}") from error
    for called in _NAMES:
        if hasattr(module, called):
            return getattr(module, called)
    raise UserError(f"{path} defines no `{_NAMES[0]}`: {advice}")


def said(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
