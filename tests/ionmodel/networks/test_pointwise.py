"""A network on single cells."""

import pytest
import torch

from ionmodel.networks.pointwise import Pointwise


def test_each_cell_is_predicted_from_itself() -> None:
    network = Pointwise(channels=3, widths=(4, 5))
    x = torch.randn(2, 3, 4, 4, 4)
    cells = x.permute(0, 2, 3, 4, 1).reshape(-1, 3, 1, 1, 1)
    torch.testing.assert_close(network(x).flatten(), network(cells).flatten())
    assert network.receptive_field == 1


def test_no_hidden_layer_is_logistic_regression() -> None:
    network = Pointwise(channels=2, widths=())
    x = torch.randn(7, 2, 1, 1, 1)
    (linear,) = network.layers
    expected = torch.sigmoid(x.flatten(1) @ linear.weight.flatten() + linear.bias)
    torch.testing.assert_close(network(x).flatten(), expected)


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="radius must be 0"):
        Pointwise(1)
    with pytest.raises(ValueError, match="widths must be positive"):
        Pointwise(widths=(0,))
