import torch


def rsqrt(s):
    """1/√s, and 1 where s = 0, so that √s = s·rsqrt(s) and its derivatives are finite there."""
    return torch.rsqrt(s + s.logical_not())


def split(x, width):
    """The local coordinates of a coordinate-major array (..., width * n_instances), each (..., n_instances)."""
    return torch.split_with_sizes(x, [x.shape[-1] // width] * width, -1)


def split_rows(w, width):
    """The entries of an instance-major array (..., n_instances * width), each (..., n_instances)."""
    return w.unflatten(-1, (-1, width)).unbind(-1)


def _joinable(entries, x, width):
    """Entries of one shape: numbers and parameters are broadcast against the instances."""
    shape: tuple = getattr(entries[0], "shape", ())
    full = len(shape) >= x.dim() and shape[-1] * width == x.shape[-1]
    if full and all(isinstance(e, torch.Tensor) and e.shape == shape for e in entries):
        return entries
    like = x[..., : x.shape[-1] // width]
    known = {id(e): e if isinstance(e, torch.Tensor) else torch.full_like(like, e) for e in entries}
    shape = torch.broadcast_shapes(like.shape, *[e.shape for e in known.values()])
    known = {i: (e if e.shape == shape else e.expand(shape)).to(x.dtype) for i, e in known.items()}
    return [known[id(e)] for e in entries]


def rows(entries, x, width):
    """Residual-shaped output, instance-major (..., n_instances * n_local)."""
    entries = _joinable(entries, x, width)
    return entries[0] if len(entries) == 1 else torch.stack(entries, -1).flatten(-2)


def columns(entries, x, width):
    """State-shaped output of each instance, coordinate-major (..., width * n_instances)."""
    return torch.cat(_joinable(entries, x, width), -1)


def matrix(entries, x, width):
    """One matrix an instance, (..., n_instances, n_local, width)."""
    return torch.stack(_joinable(entries, x, width), -1).unflatten(-1, (-1, width))
