"""What the terminal shows: consoles, and errors in one line."""

import os
import sys


class UserError(Exception):
    """An error the user can mend; its text is the line they see."""


def console(*, stderr: bool = False):
    """A rich console that does not cut lines at 80 columns when the output goes to a file or a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 140
    return Console(stderr=stderr, width=width, highlight=False)


def note(text: str) -> None:
    """Say on stderr what is going on; results alone go to stdout."""
    console(stderr=True).print(text, soft_wrap=True, markup=False)


def is_users(error: BaseException) -> bool:
    """Whether `error` is one that a user can cause and mend, as against a mistake in the program."""
    # Exceptions of the package's own are written for users to read.
    ours = type(error).__module__.split(".")[0] == "ndae"
    return ours or isinstance(error, ValueError | OSError)


def one_line(error: BaseException) -> str:
    """Say `error` in one line, a file's error with the file's name first."""
    if isinstance(error, OSError) and error.strerror:
        # Where a file is put into another's place, the second is the one the user knows of.
        name = error.filename if error.filename2 is None else error.filename2
        text = error.strerror if name is None else f"{name}: {error.strerror}"
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__
