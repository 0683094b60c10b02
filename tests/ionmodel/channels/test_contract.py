"""The contract that every kind of derived channel passes."""

import importlib
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ionmodel.channels import CHANNELS
from ionmodel.channels.base import Box, DerivedChannel, channels_asked_for
from ionmodel.channels.periodic_field import PeriodicField
from ionmodel.errors import ConfigError
from ionstore.cube.cosmology import PLANCK18
from ionstore.cube.mesh import Mesh

NONE: dict[str, Any] = {
    "inputs": ("n_igm", "n_src"),
    "scales": None,
    "mean_free_path": None,
    "mean_free_path_cmpc": None,
}
KEYS: dict[str, list[dict[str, Any]]] = {
    "top_hat": [{"scales": (2.0, 4.5)}],
    "mean_free_path": [
        {"mean_free_path": "constant", "mean_free_path_cmpc": 15.0},
        {"mean_free_path": "worseck2014"},
        {"mean_free_path": "choudhury2009"},
    ],
}
"""Keys that ask for channels of each kind; a new kind adds its own here."""

BOX = Box(Mesh(16, 200.0), 8.0, PLANCK18)


def of_kind(name: str, keys: dict[str, Any]) -> list[DerivedChannel]:
    module, _, attribute = CHANNELS[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    assert issubclass(kind, DerivedChannel)
    return [*kind.asked_for({**NONE, **keys})]


every_kind = pytest.mark.parametrize(
    ("name", "keys"), [(name, keys) for name, cases in KEYS.items() for keys in cases]
)


def test_every_kind_is_tested() -> None:
    assert set(KEYS) == set(CHANNELS)


@pytest.mark.process
def test_the_contract_needs_no_torch() -> None:
    modules = [place.partition(":")[0] for place in CHANNELS.values()]
    imports = ", ".join(["sys", "ionmodel.channels.base", *modules])
    code = f"import {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@every_kind
def test_a_kind_makes_channels_only_where_it_is_asked_for(name: str, keys: dict[str, Any]) -> None:
    assert of_kind(name, {}) == []
    channels = of_kind(name, keys)
    assert channels
    assert channels_asked_for({**NONE, **keys}) == tuple(channels)
    names = [channel.name for channel in channels]
    assert len({*names}) == len(names)
    for channel in channels:
        assert channel.parent in NONE["inputs"]
        assert channel.name.startswith(f"{channel.parent}_")
        assert channel.parent in channel.long_name(BOX.mesh)
        assert channel == replace(channel)
        assert hash(channel) == hash(replace(channel))  # channels are keys of mappings


@every_kind
def test_a_channel_is_a_mean_that_keeps_to_its_field(name: str, keys: dict[str, Any]) -> None:
    values = np.random.default_rng(0).lognormal(size=BOX.mesh.shape).astype(np.float32)
    for channel in of_kind(name, keys):
        assert 0 < channel.radius_cells(BOX) <= BOX.mesh.cells_per_side / 4
        out = channel.compute(PeriodicField(values), BOX)
        assert out.shape == values.shape
        assert out.dtype == np.float32
        assert values.min() <= out.min()
        assert out.max() <= values.max()
        assert out.mean(dtype="f8") == pytest.approx(values.mean(dtype="f8"), rel=1e-5)
        again = channel.compute(PeriodicField(values), BOX)
        np.testing.assert_array_equal(again, out)
        # Periodic: a box that is shifted gives a channel that is shifted.
        shifted = channel.compute(PeriodicField(np.roll(values, (3, 5, 7), (0, 1, 2))), BOX)
        np.testing.assert_allclose(shifted, np.roll(out, (3, 5, 7), (0, 1, 2)), rtol=1e-4)


@every_kind
def test_a_channel_of_a_uniform_field_is_that_field(name: str, keys: dict[str, Any]) -> None:
    uniform = np.full(BOX.mesh.shape, 3e-28, np.float32)
    for channel in of_kind(name, keys):
        np.testing.assert_allclose(channel.compute(PeriodicField(uniform), BOX), 3e-28, rtol=1e-6)


@every_kind
def test_a_box_that_is_too_small_is_refused(name: str, keys: dict[str, Any]) -> None:
    small = replace(BOX, mesh=Mesh(16, 5.0))
    for channel in of_kind(name, keys):
        with pytest.raises(ConfigError, match="must be at most a quarter of the box"):
            channel.radius_cells(small)
