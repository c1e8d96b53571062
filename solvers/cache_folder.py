"""Where results that take long are kept from one process to the next."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of cached files: the environment variable `NDAE_CACHE`, or the platform's user cache folder."""
    named = os.environ.get("NDAE_CACHE")
    if named:
        return Path(named).expanduser()
    import platformdirs  # beside the environment variable, needed only here

    return platformdirs.user_cache_path("ndae", appauthor=False)
