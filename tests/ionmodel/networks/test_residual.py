"""Tiles and the neighborhoods in them give the same numbers."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from ionmodel.networks.base import build_network
from ionmodel.networks.residual import Residual, dilations_of


def trained(radius: int, dtype: torch.dtype, **options: object) -> Residual:
    """A network whose weights are all random, as if it had been trained."""
    network = Residual(radius, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(radius)
    for weights in network.parameters():
        weights.data = 0.2 * torch.randn(weights.shape, generator=generator)
    return network.to(dtype)


@pytest.mark.parametrize(
    ("radius", "dilations"), [(0, None), (1, None), (3, (1, 2)), (4, None), (5, (3, 1, 1))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_a_tile_is_as_good_as_its_neighborhoods(
    radius: int, dilations: tuple[int, ...] | None, dtype: torch.dtype, training: bool
) -> None:
    network = trained(radius, dtype, width=5, dilations=dilations, head_widths=(4,))
    network.train(training)
    width, tile = network.receptive_field, 3
    assert width == 2 * radius + 1
    x = torch.randn((2, 2, *(tile + 2 * radius,) * 3), dtype=dtype)
    dense = network(x)
    assert dense.shape == (2, tile, tile, tile)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for i, j, k in np.ndindex(tile, tile, tile):
        patch = x[:, :, i : i + width, j : j + width, k : k + width]
        alone = network(patch).flatten()
        torch.testing.assert_close(alone, dense[:, i, j, k], rtol=tolerance, atol=tolerance)


def test_an_output_depends_on_its_whole_neighborhood_and_nothing_else() -> None:
    for radius in (0, 1, 4, 7, 9):
        network = trained(radius, torch.float64, width=3)
        x = torch.randn((1, 2, *(2 * radius + 4,) * 3), dtype=torch.float64, requires_grad=True)
        network.logits(x)[0, 1, 2, 0].backward()
        assert x.grad is not None
        seen = torch.nonzero(x.grad.abs().sum((0, 1)))
        assert seen.min(0).values.tolist() == [1, 2, 0]
        assert seen.max(0).values.tolist() == [1 + 2 * radius, 2 + 2 * radius, 2 * radius]
        assert len(seen) == (2 * radius + 1) ** 3  # no gaps between dilated kernels


def test_connections_add_to_the_same_cells() -> None:
    network = trained(3, torch.float64, width=2, dilations=(1, 2), head_widths=())
    x = torch.randn(1, 2, 9, 9, 9, dtype=torch.float64)
    stem, (layer,), (head,) = network.stem, network.layers, network.head

    def activate(values: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(values, 0.01)

    first = functional.conv3d(x, stem.weight, stem.bias)
    added = functional.conv3d(activate(first), layer.weight, layer.bias, dilation=2)
    second = first[:, :, 2:-2, 2:-2, 2:-2] + added
    expected = functional.conv3d(activate(second), head.weight, head.bias)[:, 0]
    torch.testing.assert_close(network.logits(x), expected)


@pytest.mark.parametrize("radius", range(30))
def test_default_dilations_reach_the_radius_without_gaps(radius: int) -> None:
    steps = dilations_of(radius)
    assert sum(steps) == radius
    reach = 0
    for step in steps:
        assert 1 <= step <= 2 * reach + 1
        reach += step


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"radius": -1}, "radius must be at least 0, got -1"),
        ({"radius": 4, "dilations": [1, 2]}, r"add up to radius 4, got \[1, 2\]"),
        ({"radius": 1, "dilations": [2, -1]}, "must be positive"),
        ({"radius": 1, "width": 0}, "width and head_widths must be positive"),
        ({"radius": 1, "head_widths": [0]}, "width and head_widths must be positive"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_network("residual", channels=2, seed=0, **options)  # type: ignore[arg-type]


def test_input_that_does_not_fit_is_refused() -> None:
    network = Residual(2, width=2)
    for shape in ((1, 2, 4, 5, 5), (1, 1, 5, 5, 5), (2, 5, 5, 5)):
        with pytest.raises(ValueError, match="its width at least 5, got"):
            network(torch.zeros(shape))
