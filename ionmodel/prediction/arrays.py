"""Check arrays that a user gives, by their names, to predict from."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ionmodel.errors import ConfigError
from ionstore.cube.mesh import Array


def given_cubes(fields: Mapping[str, ArrayLike], inputs: Sequence[str]) -> dict[str, Array]:
    """Return the inputs of a network as finite cubes of one mesh; ignore other fields."""
    if not isinstance(fields, Mapping):
        raise ConfigError(
            f"fields must be cubes by their names, got {type(fields).__name__}; give "
            f"{{{', '.join(f'{name!r}: ...' for name in inputs)}}}"
        )
    missing = [name for name in inputs if name not in fields]
    if missing:
        raise ConfigError(
            f"the network needs the fields {', '.join(inputs)}, got {', '.join(fields) or 'none'}; "
            f"add {', '.join(missing)}"
        )
    cubes = {name: _as_array(name, fields[name]) for name in inputs}
    shapes = {name: cube.shape for name, cube in cubes.items()}
    n = max((0, *shapes[inputs[0]]))
    if not n or set(shapes.values()) != {(n, n, n)}:
        raise ConfigError(f"fields must be cubes of one mesh, got the shapes {shapes}")
    for name, cube in cubes.items():
        n_wrong = cube.size - np.count_nonzero(np.isfinite(cube))
        if n_wrong:
            raise ConfigError(
                f"{name} must be finite everywhere, got {n_wrong:,} of {cube.size:,} cells "
                "that are not; fill them first"
            )
    return cubes


def _as_array(name: str, values: ArrayLike) -> Array:
    """Return real numbers in the byte order of this machine."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors with gradients
        raise ConfigError(f"{name} must be an array of numbers: {error}") from error
    if array.dtype.kind not in "iuf":
        raise ConfigError(f"{name} must hold real numbers, got {array.dtype}; convert it")
    # np.asarray drops masks silently.
    if np.ma.is_masked(values):
        raise ConfigError(
            f"{name} must be given everywhere, got an array with masked cells; fill them first"
        )
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        return array.astype(np.float64)  # torch has no longdouble
    # torch accepts only the byte order of this machine.
    native: Array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native
