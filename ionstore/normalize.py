"""Fields as a network sees them: named transforms with statistics of the training cells."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np

from ionstore.cube import Array, Cells, Fields
from ionstore.split import Region
from ionstore.statistics import FieldStatistics
from ionstore.store import CubeStore

Transform = Literal["overdensity", "log1p", "identity"]

DEFAULT_TRANSFORMS: dict[str, Transform] = {
    "n_igm": "overdensity",
    "n_src": "log1p",
    "src_mass": "log1p",
}
"""Transform of a field by its name; any other field is "identity"."""

_ROUNDING = 1e-12  # of float64 statistics, relative to the mean
_PLANES = 32  # of a region read at a time: bounds memory, whole chunks at the default layout


@dataclass(frozen=True, slots=True)
class FieldNormalization:
    """One field's transform, and what standardizes its result.

    Parameters
    ----------
    transform : {"overdensity", "log1p", "identity"}
        ``x / box_mean - 1``, ``log(1 + x / reference)`` or ``x``.
    reference : float
        Mean of the field over the training cells of all cubes, in its own unit.
    mean, std : float
        Mean and standard deviation of the transformed field over the training cells.
    """

    transform: Transform
    reference: float
    mean: float
    std: float

    def apply(self, values: Array, cube_mean: float) -> Fields:
        """Return normalized values.

        Parameters
        ----------
        values : ndarray
            Values of the field in its own unit.
        cube_mean : float
            Mean density of the cube that they come from, in the unit of the field; used by
            "overdensity" only.

        Returns
        -------
        ndarray of float32
            Same shape, dimensionless, about zero mean and unit variance.
        """
        transformed = _transform(values, self.transform, self.reference, cube_mean)
        return ((transformed - self.mean) / self.std).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Normalization:
    """The normalization of every input field.

    Parameters
    ----------
    fields : mapping of str to FieldNormalization
        By the name of the field.
    cube_means : mapping of str to float
        Mean of a field over the training cells of one cube, by `cube_key`.
    """

    fields: Mapping[str, FieldNormalization]
    cube_means: Mapping[str, float] = field(default_factory=dict)

    def apply(self, store: CubeStore, name: str, redshift: float, values: Array) -> Fields:
        """Return normalized values of a field of a store.

        The mean density of a cube is that of its training cells where the cube was trained on,
        that of the whole box elsewhere.

        Raises
        ------
        ValueError
            If no field of that name is normalized here.
        NotInStoreError
            If the store does not hold the field or the redshift.
        """
        if name not in self.fields:
            raise ValueError(f"field {name!r} is not among the normalized {sorted(self.fields)}")
        key = cube_key(store, name, redshift)
        cube_mean = self.cube_means.get(key)
        if cube_mean is None:
            cube_mean = store.statistics(name, redshift).mean
        return self.fields[name].apply(values, cube_mean)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, strings and numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the normalization that `to_dict` described."""
        fields = {name: FieldNormalization(**entry) for name, entry in plain["fields"].items()}
        return cls(fields, dict(plain["cube_means"]))


def cube_key(store: CubeStore, name: str, redshift: float) -> str:
    """Return the key of one field of one cube in `Normalization.cube_means`."""
    return f"{store.uuid} {name} {redshift:.6f}"


def fit_normalization(
    stores: Sequence[CubeStore],
    inputs: Sequence[str],
    centers: Sequence[Region | Cells],
    *,
    redshifts: Sequence[float] | None = None,
    transforms: Mapping[str, Transform] | None = None,
) -> Normalization:
    """Find the normalization of the input fields from the training cells alone.

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
        (store, region, store.redshifts[store.redshift_index(redshift)])
        for store, region in zip(stores, centers, strict=True)
        for redshift in (store.redshifts if redshifts is None else redshifts)
    ]
    fields, cube_means = {}, {}
    for name in inputs:
        transform = named.get(name, "identity")
        raw = {}
        for store, region, redshift in cubes:
            blocks = _values(store, name, redshift, region)
            raw[cube_key(store, name, redshift)] = _statistics(blocks)
        reference = _merged(list(raw.values())).mean
        transformed = []
        for store, region, redshift in cubes:
            cube_mean = raw[cube_key(store, name, redshift)].mean
            blocks = _values(store, name, redshift, region)
            transformed.append(
                _statistics(_transform(block, transform, reference, cube_mean) for block in blocks)
            )
        total = _merged(transformed)
        std = float(np.sqrt(total.variance))
        if std <= _ROUNDING * max(1.0, abs(total.mean)):
            std = 1.0  # a constant field carries no information: it becomes zero, not noise
        fields[name] = FieldNormalization(transform, reference, total.mean, std)
        if transform == "overdensity":
            cube_means.update({key: statistics.mean for key, statistics in raw.items()})
    return Normalization(fields, cube_means)


def _transform(values: Array, transform: Transform, reference: float, cube_mean: float) -> Array:
    wide = values.astype(np.float64)
    if transform == "overdensity":
        wide /= cube_mean
        wide -= 1
    elif transform == "log1p":
        wide /= reference or 1.0  # no sources at all in the training cells
        np.log1p(wide, out=wide)
    return wide


def _values(
    store: CubeStore, name: str, redshift: float, centers: Region | Cells
) -> Iterator[Array]:
    if isinstance(centers, Region):
        (x, y, z), (length, *face) = centers.start, centers.shape
        for first in range(0, length, _PLANES):
            planes = min(_PLANES, length - first)
            yield store.read_block(name, redshift, (x + first, y, z), (planes, face[0], face[1]))
        return
    cells = centers % store.mesh.cells_per_side
    for first in range(0, store.mesh.cells_per_side, _PLANES):
        planes = min(_PLANES, store.mesh.cells_per_side - first)
        here = cells[(cells[:, 0] >= first) & (cells[:, 0] < first + planes)]
        if len(here):
            shape = (planes, *store.mesh.shape[1:])
            block = store.read_block(name, redshift, (first, 0, 0), shape)
            yield block[here[:, 0] - first, here[:, 1], here[:, 2]]


def _statistics(blocks: Iterator[Array]) -> FieldStatistics:
    return _merged([FieldStatistics.of(block) for block in blocks])


def _merged(parts: Sequence[FieldStatistics]) -> FieldStatistics:
    total, *rest = parts
    for part in rest:
        total = total.merge(part)
    return total
