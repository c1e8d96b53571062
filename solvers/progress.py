"""News of long work, for whoever watches: `progress(fraction, text)`, how far it is and at what."""

from collections.abc import Callable

Progress = Callable[[float, str], object]
