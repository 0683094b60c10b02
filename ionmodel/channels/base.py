"""The contract of derived channels, and the channels of a configuration."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ionmodel.channels import CHANNELS
from ionmodel.errors import ConfigError
from ionstore.cube.cosmology import Cosmology
from ionstore.cube.mesh import Fields, Mesh
from ionstore.store.cube_store import CubeStore

if TYPE_CHECKING:  # it needs torch, which configurations must not wait for
    from ionmodel.channels.periodic_field import PeriodicField

LARGEST_SHARE = 0.25
"""Largest radius of a ball relative to the box, which holds too few larger ones."""


@dataclass(frozen=True, slots=True)
class Box:
    """A coeval cube without its fields; redshift and cosmology are None where unknown."""

    mesh: Mesh
    redshift: float | None = None
    cosmology: Cosmology | None = None


@dataclass(frozen=True, slots=True)
class DerivedChannel(ABC):
    """A field that is computed from another one, the whole periodic box at once.

    Parameters
    ----------
    parent : str
        Field that it is computed from, with the same unit and normalization.
    """

    parent: str

    @classmethod
    @abstractmethod
    def asked_for(cls, keys: Mapping[str, Any]) -> Iterator[Self]:
        """Yield the channels of this kind that the keys of a configuration ask for."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the field in a store."""

    @abstractmethod
    def long_name(self, mesh: Mesh) -> str:
        """Return its CF ``long_name``."""

    @abstractmethod
    def radius_cells(self, box: Box) -> float:
        """Return the radius of its ball in cells of a box, which decides all of its values.

        Raises
        ------
        ConfigError
            If the box is too small, or lacks a length, redshift or cosmology that this needs.
        """

    def compute(self, field: "PeriodicField", box: Box) -> Fields:
        """Return the channel of a box.

        Parameters
        ----------
        field : PeriodicField
            The parent.
        box : Box
            The box of that field.

        Returns
        -------
        ndarray of float32, shape (n, n, n)
            In the unit of the parent: its mean within a ball around each cell.

        Raises
        ------
        ConfigError
            As `radius_cells`.
        """
        return field.smoothed(self.radius_cells(box))


def channels_asked_for(keys: Mapping[str, Any]) -> tuple[DerivedChannel, ...]:
    """Return the derived channels of a configuration, in the order of its channels."""
    found: list[DerivedChannel] = []
    for place in CHANNELS.values():
        # Imported here, because every kind of channel imports this module.
        module, _, attribute = place.partition(":")
        kind = getattr(importlib.import_module(module), attribute)
        found += kind.asked_for(keys)
    return tuple(found)


def check_channels(channels: Sequence[DerivedChannel], boxes: Sequence[Box]) -> None:
    """Check that channels can be computed for all boxes, and mean the same in all of them."""
    if not channels:
        return
    # Without a length, a radius given in cMpc counts in cells. One network must not see both.
    known = {box.mesh.box_length_cmpc is not None for box in boxes}
    if len(known) > 1:
        raise ConfigError(
            f"{channels[0].name} must mean the same in all boxes, but the length of some is known "
            "and that of others is not; supply it with `ionstore edit STORE --box-length`"
        )
    for channel in channels:
        for box in boxes:
            channel.radius_cells(box)  # raises where the channel cannot be computed


def fits(radius: float, length: float) -> bool:
    """Tell if a box has room for a ball, with radius and length in the same unit."""
    # The tolerance lets a radius of exactly a quarter pass after conversions to cells.
    return radius <= LARGEST_SHARE * length * (1 + 1e-9)


def within_box(radius_cells: float, what: str, mesh: Mesh) -> float:
    """Return a radius in cells; refuse one that the box has no room for."""
    if fits(radius_cells, mesh.cells_per_side):
        return radius_cells
    largest = LARGEST_SHARE * mesh.cells_per_side
    cell, unit = mesh.cell_size_cmpc or 1.0, "cells" if mesh.cell_size_cmpc is None else "cMpc"
    raise ConfigError(
        f"{what} must be at most a quarter of the box, {largest * cell:.4g} {unit}, got "
        f"{radius_cells * cell:.4g} {unit}; choose a smaller one or a larger box"
    )


def boxes_of(store: CubeStore, redshifts: Sequence[float] | None = None) -> list[Box]:
    """Return the cubes of a store as channels see them."""
    # In one order, because the name of a cache depends on it.
    taken = sorted({*store.chosen_redshifts(redshifts)}, reverse=True)
    return [Box(store.mesh, redshift, store.cosmology) for redshift in taken]
