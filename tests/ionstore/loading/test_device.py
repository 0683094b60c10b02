"""Cuts of fields on a device: the same numbers as indexing a periodic box with NumPy."""

import numpy as np
import pytest
import torch

from ionstore.loading.cubes import CubeToDecode, FieldToDecode
from ionstore.loading.device import DeviceFields, available_device
from ionstore.sampling.batches import Picked
from ionstore.sampling.order import Places
from ionstore.sampling.regions import Reach
from ionstore.sampling.symmetry import N_SYMMETRIES, transformed
from ionstore.store.cube_store import CubeStore

DEVICES = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
REDSHIFTS = (9.0, 7.5)


def picked_at(cells: np.ndarray, cube: np.ndarray, symmetry: np.ndarray) -> Picked:
    """Samples in shuffled rows, as a plan picks them."""
    none = np.zeros(len(cells), np.int64)
    rows = np.random.default_rng(0).permutation(len(cells))
    return Picked(rows, Places(*[none] * 5), cube, cells, symmetry)


@DEVICES
@pytest.mark.parametrize("reach", [Reach(0), Reach(5), Reach(2, 3), Reach(4, 9)])
def test_cuts_are_periodic_and_turned(small_store: CubeStore, device: str, reach: Reach) -> None:
    rng = np.random.default_rng(1)
    corners = np.array([[0, 0, 0], [11, 11, 11], [-3, 12, 25]])
    cells = np.concatenate([corners, rng.integers(0, 12, (45, 3))])
    cube, symmetry = rng.integers(0, 2, 48), np.arange(N_SYMMETRIES)
    picked = picked_at(cells, cube, symmetry)
    cubes = [
        CubeToDecode(
            (FieldToDecode(small_store, "n_igm", z), FieldToDecode(small_store, "n_src", z)),
            FieldToDecode(small_store, "xhii", z),
        )
        for z in REDSHIFTS
    ]
    fields = DeviceFields(cubes, available_device(device))
    inputs, target = fields.cut(picked, np.array([12, 12]), reach)
    assert inputs.device.type == target.device.type == device
    axis = np.arange(-reach.radius, reach.tile + reach.radius)
    for place, row in enumerate(picked.row):
        z, cell = REDSHIFTS[cube[place]], cells[place]
        around = np.ix_(*((cell[a] + axis) % 12 for a in range(3)))
        within = np.ix_(*((cell[a] + np.arange(reach.tile)) % 12 for a in range(3)))
        for channel, name in enumerate(("n_igm", "n_src")):
            box = small_store.read_field(name, z).astype("f4")[around]
            np.testing.assert_array_equal(
                inputs[row, channel].cpu(), transformed(box, int(symmetry[place]))
            )
        box = small_store.read_field("xhii", z)[within]
        np.testing.assert_array_equal(target[row, 0].cpu(), transformed(box, int(symmetry[place])))


def test_a_device_that_is_not_there_is_refused_with_its_name() -> None:
    with pytest.raises(ValueError, match="got 'banana'"):
        available_device("banana")
