"""Ready-made neural DAEs by name, in the sizes of the paper and for two cores."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ndae.fields import MimeticField, MLPField
from ndae.methods import Method
from ndae.neural_dae import NeuralDAE

NETWORKS = ("mimetic", "mimetic-small", "mlp")
_MIMETIC = {"mimetic": {"latent": 128, "hidden": 808}, "mimetic-small": {"latent": 32, "hidden": 200}}
_MLP = {"latent": 16, "hidden": 256}


def build_network(
    name: str,
    constraint: nn.Module,
    method: Method | None = None,
    *,
    edges: Sequence[Sequence[int | None]],
    features: int,
    dim: int,
    n_layers: int = 8,
    shared: bool = False,
    **options: Any,
) -> NeuralDAE:
    """A neural DAE over the nodes of a graph, by name.

    `"mimetic"`: the paper's graph network, 8 layers, 5.8 million parameters for 4 features. `"mimetic-small"`: the same
    with 0.36 million. `"mlp"`: all nodes of a sample at once, told apart by their index and not by their place in the
    graph; 0.86 million for five nodes.

    `edges`: see `MimeticField`; `features`, `dim` and `options`: see `NeuralDAE`; `shared`: one set of weights over
    depth instead of one a layer. Raises a `ValueError` for an unknown name.
    """
    if name in _MIMETIC:
        sizes = _MIMETIC[name]
        fields = [MimeticField(edges, **sizes) for _ in range(1 if shared else n_layers)]
    elif name == "mlp":
        sizes = _MLP
        nodes = 1 + max(end for edge in edges for end in edge if end is not None)
        fields = [MLPField(nodes, **sizes) for _ in range(1 if shared else n_layers)]
    else:
        raise ValueError(f"no network is called {name!r}; there are {', '.join(NETWORKS)}")
    depth = {"n_layers": n_layers} if shared else {}
    return NeuralDAE(
        fields[0] if shared else fields, constraint, method,
        features=features, dim=dim, latent=sizes["latent"], **depth, **options,
    )  # fmt: skip
