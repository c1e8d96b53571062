"""Whether an error is what an interrupt became on its way out."""


def was_interrupted(error: BaseException | None) -> bool:
    """Whether a KeyboardInterrupt is among the causes of `error`, however often a library wrapped it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
