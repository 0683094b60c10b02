"""Fields as a network sees them: named transforms with statistics of the training cells.

A density is seen relative to the mean of its own box at its redshift, which is what an overdensity
is; everything else that a transform needs comes from the training cells.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np

from ionstore.cube.mesh import Array, Cells, Fields, Region
from ionstore.cube.statistics import FieldStatistics
from ionstore.store.conversion import ValueMap, convert
from ionstore.store.cube_store import CubeStore

Transform = Literal["overdensity", "log1p", "identity"]

DEFAULT_TRANSFORMS: dict[str, Transform] = {
    "n_igm": "overdensity",
    "n_src": "log1p",
    "src_mass": "log1p",
}
"""Transform of a field by its name; any other field is "identity"."""

_ROUNDING = 1e-12  # of float64 statistics, relative to the mean


@dataclass(frozen=True, slots=True)
class FieldNormalization:
    """Transform of one field, and the mean and deviation that standardize its result."""

    transform: Transform  # ``x / box_mean - 1``, ``log(1 + x / reference)`` or ``x``
    reference: float  # mean over the training cells of all cubes, in the unit of the field
    mean: float  # of the transformed field over the training cells
    std: float

    def conversion(self, cube_mean: float) -> ValueMap:
        """Return the map that normalizes values of a box; `cube_mean` is its mean density."""
        scale, offset = 1 / self.std, -self.mean / self.std
        if self.transform == "overdensity":
            if cube_mean == 0:
                raise ValueError("cube_mean must not be 0: an empty cube has no overdensity")
            return ValueMap(1 / (cube_mean * self.std), -(1 + self.mean) / self.std)
        if self.transform == "log1p":
            return ValueMap(scale, offset, 1 / _reference(self.reference))
        return ValueMap(scale, offset)

    def apply(self, values: Array, cube_mean: float) -> Fields:
        """Return normalized values, dimensionless, of about zero mean and unit variance."""
        normalized = np.empty(values.shape, np.float32)
        convert(values.reshape(1, 1, -1), normalized.reshape(1, 1, -1), self.conversion(cube_mean))
        return normalized


@dataclass(frozen=True, slots=True)
class Normalization:
    """The normalization of every input field.

    Parameters
    ----------
    fields : mapping of str to FieldNormalization
        By the name of the field.
    """

    fields: Mapping[str, FieldNormalization]

    def conversion(self, store: CubeStore, name: str, redshift: float) -> ValueMap:
        """Return what normalizes the values of a field of a store, for `CubeStore.read_into`.

        Raises
        ------
        ValueError
            If no field of that name is normalized here, or it is the overdensity of an empty cube.
        NotInStoreError
            If the store does not hold the field or the redshift.
        """
        return self._field(name).conversion(store.statistics(name, redshift).mean)

    def apply(self, store: CubeStore, name: str, redshift: float, values: Array) -> Fields:
        """Return normalized values of a field of a store.

        Raises
        ------
        ValueError
            If no field of that name is normalized here, or it is the overdensity of an empty cube.
        NotInStoreError
            If the store does not hold the field or the redshift.
        """
        return self._field(name).apply(values, store.statistics(name, redshift).mean)

    def _field(self, name: str) -> FieldNormalization:
        if name not in self.fields:
            raise ValueError(f"field {name!r} is not among the normalized {sorted(self.fields)}")
        return self.fields[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, strings and numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the normalization that `to_dict` described."""
        return cls({name: FieldNormalization(**entry) for name, entry in plain["fields"].items()})


def fit_normalization(
    stores: Sequence[CubeStore],
    inputs: Sequence[str],
    centers: Sequence[Region | Cells],
    *,
    redshifts: Sequence[float] | None = None,
    transforms: Mapping[str, Transform] | None = None,
) -> Normalization:
    """Find the normalization of the input fields from the training cells.

    Parameters
    ----------
    stores : sequence of CubeStore
        Stores trained on.
    inputs : sequence of str
        Names of the input fields.
    centers : sequence of Region or ndarray of int64, shape (n, 3)
        Training cells of each store, the same at every redshift.
    redshifts : sequence of float, optional
        Redshifts trained on; all of every store by default.
    transforms : mapping of str to str, optional
        Transform by field; `DEFAULT_TRANSFORMS` where a field is not named.

    Raises
    ------
    ValueError
        If a transform is unknown.
    NotInStoreError
        If a store does not hold a field or a redshift.

    Notes
    -----
    Two passes over the training cells, block by block, in float64.
    """
    named: dict[str, Transform] = {**DEFAULT_TRANSFORMS, **(transforms or {})}
    unknown = sorted(set(named.values()) - set(get_args(Transform)))
    if unknown:
        raise ValueError(f"transforms must be among {get_args(Transform)}, got {unknown}")
    cubes = [
        (store, region, redshift)
        for store, region in zip(stores, centers, strict=True)
        for redshift in store.chosen_redshifts(redshifts)
    ]
    fields = {}
    for name in inputs:
        transform = named.get(name, "identity")
        reference = _merged(
            [
                _statistics(_values(store, name, redshift, region))
                for store, region, redshift in cubes
            ]
        ).mean
        total = _merged(
            [
                _statistics(
                    _transform(block, transform, reference, store.statistics(name, redshift).mean)
                    for block in _values(store, name, redshift, region)
                )
                for store, region, redshift in cubes
            ]
        )
        std = float(np.sqrt(total.variance))
        if std <= _ROUNDING * max(1.0, abs(total.mean)):
            std = 1.0  # a constant field carries no information: it becomes zero, not noise
        fields[name] = FieldNormalization(transform, reference, total.mean, std)
    return Normalization(fields)


def _reference(mean: float) -> float:
    return mean or 1.0  # no sources at all in the training cells


def _transform(values: Array, transform: Transform, reference: float, cube_mean: float) -> Array:
    wide = values.astype(np.float64)
    if transform == "overdensity":
        wide /= cube_mean
        wide -= 1
    elif transform == "log1p":
        wide /= _reference(reference)
        np.log1p(wide, out=wide)
    return wide


def _values(
    store: CubeStore, name: str, redshift: float, centers: Region | Cells
) -> Iterator[Array]:
    if isinstance(centers, Region):
        (x, y, z), (length, *face) = centers.start, centers.shape
        for first, planes in _slabs(x, length, store.layout.chunk_cells):
            yield store.read_block(name, redshift, (first, y, z), (planes, face[0], face[1]))
        return
    cells = centers % store.mesh.cells_per_side
    for first, planes in _slabs(0, store.mesh.cells_per_side, store.layout.chunk_cells):
        here = cells[(cells[:, 0] >= first) & (cells[:, 0] < first + planes)]
        if len(here):
            shape = (planes, *store.mesh.shape[1:])
            block = store.read_block(name, redshift, (first, 0, 0), shape)
            yield block[here[:, 0] - first, here[:, 1], here[:, 2]]


def _slabs(first: int, length: int, chunk_cells: int) -> Iterator[tuple[int, int]]:
    """Yield first plane and planes of slabs one chunk thick at most: each chunk is decoded once."""
    end = first + length
    while first < end:
        planes = min(end, (first // chunk_cells + 1) * chunk_cells) - first
        yield first, planes
        first += planes


def _statistics(blocks: Iterator[Array]) -> FieldStatistics:
    return _merged([FieldStatistics.of(block) for block in blocks])


def _merged(parts: Sequence[FieldStatistics]) -> FieldStatistics:
    total, *rest = parts
    for part in rest:
        total = total.merge(part)
    return total
