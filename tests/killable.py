"""Real processes to kill, forked from one server that has imported what takes seconds to import."""

import multiprocessing

# One server serves the whole session, and only what is preloaded before its first process counts.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "ndae.training._lightning",
        "ndae.training.fit",
        "ndae.models.presets",
        "ndae.symbolic.library",
        "ndae.solvers.manifold.projection",
        "ndae.experiments.runs.run",
    ]
)


def start(target, *args, **kwargs) -> multiprocessing.Process:
    """Start `target` in a process of its own."""
    process = CONTEXT.Process(target=target, args=args, kwargs=kwargs)
    process.start()
    return process
