"""Fields smoothed by a ball of a fixed radius: the surroundings, scale by scale."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ionmodel.channels.base import Box, DerivedChannel, within_box
from ionstore.cube.mesh import Mesh


@dataclass(frozen=True, slots=True)
class TopHat(DerivedChannel):
    """The mean of a field within a ball."""

    radius_cmpc: float

    @classmethod
    def asked_for(cls, keys: Mapping[str, Any]) -> Iterator[Self]:
        """Yield a channel for each of ``inputs`` and each of ``scales``, input by input."""
        for parent in keys["inputs"]:
            for radius in keys["scales"] or ():
                yield cls(parent, radius)

    @property
    def name(self) -> str:
        """Name of the field in a store.

        Examples
        --------
        >>> TopHat("n_src", 4.8).name
        'n_src_top_hat_4.8'
        """
        return f"{self.parent}_top_hat_{self.radius_cmpc:g}"

    def long_name(self, mesh: Mesh) -> str:
        """Return its CF ``long_name``.

        Examples
        --------
        >>> TopHat("n_src", 4.8).long_name(Mesh(64, 100.0))
        'n_src, mean within 4.8 cMpc'
        """
        unit = "cells" if mesh.box_length_cmpc is None else "cMpc"
        return f"{self.parent}, mean within {self.radius_cmpc:g} {unit}"

    def radius_cells(self, box: Box) -> float:
        """Return the radius in cells of a box.

        Examples
        --------
        >>> TopHat("n_src", 5.0).radius_cells(Box(Mesh(64, 128.0)))
        2.5
        """
        # In a box of unknown length the radius counts in cells.
        radius = self.radius_cmpc / (box.mesh.cell_size_cmpc or 1.0)
        return within_box(radius, "scales", box.mesh)
