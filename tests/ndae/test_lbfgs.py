"""L-BFGS on a scaled loss."""

import pytest
import torch

from ndae.training.optimizers import lbfgs


def test_it_goes_on_where_the_plain_one_stops():
    def descended(make):
        x = torch.nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
        optimizer = make([x])

        def closure():
            optimizer.zero_grad()
            loss = 1e-10 * ((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)
            loss.backward()
            return loss

        for _ in range(5):
            optimizer.step(closure)
        return float((x.detach() - 1).abs().max())

    assert descended(lbfgs(1e10)) < 1e-6
    assert descended(lbfgs(1.0)) > 1e-2


def test_a_scale_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="scale is what the loss is multiplied by"):
        lbfgs(0.0)([torch.nn.Parameter(torch.zeros(1))])
