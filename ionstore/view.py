"""`draw_slice`: draw one plane of a field."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ionstore.cube.fields import IONIZED_FRACTIONS
from ionstore.cube.mesh import Array
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import FigureFormatError, NotInStoreError
from ionstore.store.cube_store import CubeStore, StoreLike, open_store
from ionstore.store.metadata import check_is_outside_stores

if TYPE_CHECKING:
    from matplotlib.colors import Normalize

Axis = Literal["x", "y", "z"]

_AXES: tuple[Axis, Axis, Axis] = ("x", "y", "z")
_UNITS_IN_PRINT = {"g cm-3": r"g cm$^{-3}$", "s-1": r"s$^{-1}$", "Msun": r"M$_\odot$"}
_COLOR_MAPS = {"n_igm": "magma", **dict.fromkeys(IONIZED_FRACTIONS, "viridis")}
_OTHER_COLORS = "inferno"


@dataclass(frozen=True, slots=True)
class Slice:
    """One plane of a field."""

    values: Array  # (n, n), indexed by the two other axes in alphabetical order
    axis: Axis  # perpendicular to the plane
    index: int  # cell along that axis


def read_slice(
    store: CubeStore, field: str, redshift: float, *, axis: Axis = "z", index: int | None = None
) -> Slice:
    """Read one plane of a field, by default the middle one; only the chunks that it cuts."""
    cells = store.mesh.cells_per_side
    index = cells // 2 if index is None else index
    if not 0 <= index < cells:
        raise NotInStoreError(f"index must be between 0 and {cells - 1}, got {index}")
    across = _AXES.index(axis)
    start, shape = [0, 0, 0], [cells, cells, cells]
    start[across], shape[across] = index, 1
    block = store.read_block(
        field, redshift, (start[0], start[1], start[2]), (shape[0], shape[1], shape[2])
    )
    return Slice(np.squeeze(block, across), axis, index)


def draw_slice(
    store: StoreLike,
    field: str,
    redshift: float,
    path: str | os.PathLike[str],
    *,
    axis: Axis = "z",
    index: int | None = None,
) -> None:
    """Draw one plane of a field into an image file.

    Parameters
    ----------
    store : CubeStore, str or path-like
        The store, or its path.
    field : str
        Name of the field.
    redshift : float
        Redshift, matched within 0.0005.
    path : str or path-like
        Image file; its suffix names the format (png, pdf, svg, ...).
    axis : {"x", "y", "z"}
        Axis perpendicular to the plane.
    index : int, optional
        Cell along that axis; the middle one by default.

    Raises
    ------
    NotInStoreError
        If the store has no such field, redshift or cell.
    StoreDamageError, StoreFormatError
        If the store is damaged, or a path holds no complete store.
    FigureFormatError
        If the suffix names no image format.
    StoreExistsError
        If the file would lie in a store.
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    check_is_outside_stores(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in known:
        raise FigureFormatError(f"{path}: the suffix must be one of {', '.join(known)}")
    store = open_store(store)
    plane = read_slice(store, field, redshift, axis=axis, index=index)
    (exact,) = store.chosen_redshifts([redshift])
    figure = Figure(figsize=(6.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, which keeps figures alive and may want a display
    axes = figure.add_subplot()
    cells = store.mesh.cells_per_side
    side = store.mesh.box_length_cmpc or float(cells)
    scale = _color_scale(store.statistics(field, exact), field, plane.values)
    image = axes.imshow(
        plane.values.T,
        origin="lower",
        extent=(0, side, 0, side),
        cmap=_COLOR_MAPS.get(field, _OTHER_COLORS),
        norm=scale,
        interpolation="nearest",  # one square per cell, without colors that no cell has
    )
    units = "cells" if store.mesh.box_length_cmpc is None else "cMpc"
    horizontal, vertical = (name for name in _AXES if name != axis)
    axes.set_xlabel(f"{horizontal} [{units}]")
    axes.set_ylabel(f"{vertical} [{units}]")
    position = (plane.index + 0.5) * side / cells
    where = f"cell {plane.index}" if units == "cells" else f"{position:.4g} cMpc"
    axes.set_title(f"redshift {exact:g}, slice at {axis} = {where}", fontsize="medium")
    plain = store.dtype(field).kind == "u"
    _add_color_bar(image, plane.values, label=_label(store, field), plain_numbers=plain)
    figure.savefig(path, dpi=200, bbox_inches="tight")


def _add_color_bar(image: Any, values: Array, *, label: str, plain_numbers: bool) -> None:
    """Draw the color scale of an image beside it."""
    from matplotlib.ticker import LogFormatterSciNotation

    scale = image.norm
    beyond = (values.min() < scale.vmin, values.max() > scale.vmax)
    ticks = _ticks(scale)
    # By default only powers of ten get a label; here there are few ticks, and 2 × 10⁹ gets one too.
    every = None if ticks is None else LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf))
    bar = image.figure.colorbar(
        image,
        cax=image.axes.inset_axes((1.03, 0, 0.05, 1)),
        extend={(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[beyond],
        extendfrac=0.03,
        ticks=ticks,
        format="%g" if plain_numbers else every,
    )
    if ticks is not None:
        bar.minorticks_off()  # matplotlib adds one at every power of ten, in the linear part too
    bar.set_label(label)


def _color_scale(statistics: FieldStatistics, field: str, values: Array) -> "Normalize":
    """Return linear colors for fractions, logarithmic ones for densities, both for sources."""
    from matplotlib.colors import LogNorm, Normalize, SymLogNorm

    low, high = statistics.min, statistics.max
    if field in (*IONIZED_FRACTIONS, "mfp_mask"):
        return Normalize(0, max(1.0, high))
    if not high > low >= 0:
        return Normalize(low, high if high > low else low + 1)
    if low > 0:
        # Three sigma of the lognormal distribution with the mean and variance of the whole cube:
        # slices of one redshift can be compared, and a few extreme cells do not set the scale.
        variance = np.log1p(statistics.variance / statistics.mean**2)
        center = np.log(statistics.mean) - variance / 2
        lower, upper = np.exp(center - 3 * variance**0.5), np.exp(center + 3 * variance**0.5)
        return LogNorm(max(low, lower), min(high, upper))
    # Zero is a value of its own: most cells hold no source.
    positive = values[values > 0]
    smallest = float(positive.min()) if positive.size else high
    return SymLogNorm(max(smallest, high * 1e-4), linscale=0.3, vmin=0, vmax=high)


def _ticks(scale: "Normalize") -> list[float] | None:
    """Return ticks of a scale that is linear near zero, None to leave the choice to matplotlib."""
    from matplotlib.colors import SymLogNorm

    if not isinstance(scale, SymLogNorm):
        return None
    least, most = scale.linthresh, scale.vmax
    assert most is not None  # every scale is made with limits
    # Zero and round values, but none in the linear part, whose labels would touch that of zero.
    decades = 10.0 ** np.arange(np.floor(np.log10(least)), np.ceil(np.log10(most)))
    for steps in ([1], [1, 2, 5]):
        ticks = [float(tick) for tick in np.outer(decades, steps).flat if least <= tick <= most]
        if len(ticks) > 1:
            return [0.0, *ticks]
    return None


def _label(store: CubeStore, field: str) -> str:
    units = store.units(field)
    name = store.long_name(field)
    if field == "n_igm" and store.frame != "unknown":
        name = f"{store.frame} {name}"
    if units == "1":
        return f"{name} per cell" if field == "n_src" else name
    return f"{name} [{_UNITS_IN_PRINT.get(units, units)}]"
