"""Numerical failures, raised by default, and from where on a linear solve is one."""

#: So many machine epsilons of what is added up in it may be left of an equation that counts as solved: LU and Cholesky
#: leave a few, times the growth of their pivots.
ROUNDINGS = 2.0**16


class ProjectionError(RuntimeError):
    """A projection left samples off the manifold; `samples` lists their flat batch indices."""

    def __init__(self, message: str, samples: tuple[int, ...]):
        super().__init__(message)
        self.samples = samples

    def __reduce__(self):
        return type(self), (*self.args, self.samples)


class IntegrationError(RuntimeError):
    """An integration met a non-finite state, a step size that underflowed, or its limit of steps."""
