"""`draw_slice`: a picture of one plane of a field."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ionstore.cube.fields import IONIZED_FRACTIONS
from ionstore.cube.mesh import Array
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import FigureFormatError, NotInStoreError
from ionstore.store.cube_store import CubeStore
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
    """One plane of a field.

    Parameters
    ----------
    values : ndarray, shape (n, n)
        Indexed by the two other axes in alphabetical order.
    axis : {"x", "y", "z"}
        Axis across the plane.
    index : int
        Cell along that axis.
    """

    values: Array
    axis: Axis
    index: int


def read_slice(
    store: CubeStore, field: str, redshift: float, *, axis: Axis = "z", index: int | None = None
) -> Slice:
    """Read one plane of a field; only the chunks it cuts are read.

    Parameters
    ----------
    store : CubeStore
        The store.
    field : str
        Name of the field.
    redshift : float
        Redshift, matched within 0.0005.
    axis : {"x", "y", "z"}
        Axis across the plane.
    index : int, optional
        Cell along that axis; the middle one by default.

    Raises
    ------
    NotInStoreError
        If the field, the redshift or the cell is not there.
    StoreDamageError
        If the store is damaged.
    """
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
    store: CubeStore,
    field: str,
    redshift: float,
    path: Path,
    *,
    axis: Axis = "z",
    index: int | None = None,
) -> None:
    """Draw one plane of a field into an image file.

    Parameters
    ----------
    store, field, redshift, axis, index
        As in `read_slice`.
    path : Path
        Image file; its suffix names the format (png, pdf, svg, ...).

    Raises
    ------
    NotInStoreError, StoreDamageError
        As in `read_slice`.
    FigureFormatError
        If images of this suffix cannot be made.
    StoreExistsError
        If the file would lie in a store.
    OSError
        If the file cannot be written.
    """
    check_is_outside_stores(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatterSciNotation

    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in known:
        raise FigureFormatError(f"{path}: the suffix must be one of {', '.join(known)}")
    plane = read_slice(store, field, redshift, axis=axis, index=index)
    exact = store.redshifts[store.redshift_index(redshift)]
    figure = Figure(figsize=(6.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
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
        interpolation="nearest",
    )
    units = "cells" if store.mesh.box_length_cmpc is None else "cMpc"
    horizontal, vertical = (name for name in _AXES if name != axis)
    axes.set_xlabel(f"{horizontal} [{units}]")
    axes.set_ylabel(f"{vertical} [{units}]")
    position = (plane.index + 0.5) * side / cells
    where = f"cell {plane.index}" if units == "cells" else f"{position:.4g} cMpc"
    axes.set_title(f"redshift {exact:g}, slice at {axis} = {where}", fontsize="medium")
    assert scale.vmin is not None  # every scale is made with limits
    assert scale.vmax is not None
    beyond = (plane.values.min() < scale.vmin, plane.values.max() > scale.vmax)
    ticks = _ticks(scale)
    # Of few ticks each has a label, also 2 × 10⁹.
    label = None if ticks is None else LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf))
    bar = figure.colorbar(
        image,
        cax=axes.inset_axes((1.03, 0, 0.05, 1)),
        extend={(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[beyond],
        extendfrac=0.03,
        ticks=ticks,
        format="%g" if store.dtype(field).kind == "u" else label,
    )
    if ticks is not None:
        bar.minorticks_off()  # one at every power of ten, those of the linear part too
    bar.set_label(_label(store, field))
    figure.savefig(path, dpi=200, bbox_inches="tight")


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
    positive = values[values > 0]
    smallest = float(positive.min()) if positive.size else high
    return SymLogNorm(max(smallest, high * 1e-4), linscale=0.3, vmin=0, vmax=high)


def _ticks(scale: "Normalize") -> list[float] | None:
    """Return zero and round values above the linear part, whose labels would touch that of zero.

    None where there are none, and for other scales: matplotlib chooses.
    """
    from matplotlib.colors import SymLogNorm

    if not isinstance(scale, SymLogNorm):
        return None
    least, most = scale.linthresh, scale.vmax
    assert most is not None  # every scale is made with limits
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
