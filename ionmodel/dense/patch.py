"""`Patch`: the cells of a neighborhood that are left at some depth of a network."""

from dataclasses import dataclass, replace

from ionmodel.dense.layers import cells3
from ionmodel.networks.base import Cells3

ONE: Cells3 = (1, 1, 1)
ZERO: Cells3 = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Patch:
    """Channels and cells of a patch that are left at some depth of the network."""

    channels: int | None  # None until a layer fixes them
    width: Cells3  # cells of this depth along each axis
    spacing: Cells3 = ONE  # cells of the box between neighbors
    reach: Cells3 = ZERO  # cells of the box past its first that a value depends on
    flat: bool = False  # after Flatten, where the patch network has features in its order
    input_channels: int | None = None  # from the first layer that fixes its channels

    def knowing(self, channels: int) -> "Patch":
        """Return the patch with known channels; the first that are known are those of the input."""
        first = self.input_channels if self.channels is not None else channels
        return replace(self, channels=channels, input_channels=first)

    def after_window(self, window: Cells3, stride: Cells3) -> "Patch":
        """Return the patch after a layer that moves a window by a stride."""
        triples = tuple(zip(self.width, window, stride, strict=True))
        return replace(
            self,
            width=cells3((cells - extent) // step + 1 for cells, extent, step in triples),
            spacing=product(self.spacing, stride),
            reach=self._reach_of(window),
        )

    def in_one_cell(self, channels: int) -> "Patch":
        """Return the patch after a layer that combines all of its cells."""
        return replace(self, channels=channels, width=ONE, reach=self._reach_of(self.width))

    def _reach_of(self, window: Cells3) -> Cells3:
        return cells3(
            reach + (extent - 1) * spacing
            for reach, extent, spacing in zip(self.reach, window, self.spacing, strict=True)
        )


def product(a: Cells3, b: Cells3) -> Cells3:
    """Multiply along each axis."""
    return cells3(m * n for m, n in zip(a, b, strict=True))


def extent_of(kernel: Cells3, dilation: Cells3) -> Cells3:
    """Return the cells that a dilated kernel spans along each axis."""
    return cells3((n - 1) * step + 1 for n, step in zip(kernel, dilation, strict=True))


def in_words(cells: Cells3) -> str:
    """Return cells along the axes for a message."""
    return " by ".join(map(str, cells))
