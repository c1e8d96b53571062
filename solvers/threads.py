"""Threads of linear algebra, held to one while a solve runs.

A solve factorises thousands of small matrices. A BLAS with threads, which NumPy and SciPy bring and XLA calls, wakes
them for each, and where other processes use the cores too it waits for them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import Any

_held = Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS takes one thread inside, whatever the environment says, and what it took before outside again.

    Of the whole process: BLAS knows no other. Of solves that are nested, or in threads at once, the first holds them.
    """
    if not _held.acquire(blocking=False):
        yield
        return
    try:
        with _blas(len(sys.modules)).limit(limits=1):
            yield
    finally:
        _held.release()


@lru_cache(maxsize=1)
def _blas(n_modules: int) -> Any:
    """All that there are; looked for again when there are more modules, which may have brought one."""
    del n_modules
    import scipy.linalg  # noqa: F401  # brings its own, which XLA calls
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
