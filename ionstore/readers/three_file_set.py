"""The three-file set: ``rho_z8.397.npy``, ``nsrc_z8.397.npy``, ``xHII_z8.397.npy`` in a folder."""

import difflib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from ionstore.cosmology import Cosmology
from ionstore.cube import REDSHIFT_TOLERANCE
from ionstore.description import FILE_NAME, SimulationDescription, read_description
from ionstore.errors import SourceDataError
from ionstore.fields import EXTRA, FIELDS, REQUIRED, Field
from ionstore.readers.base import FieldSource, Simulation, SimulationReader
from ionstore.readers.numpy_file import open_numpy_file

_SUFFIXES = (".npy", ".npz")
_FILE_NAME = re.compile(r"(?P<prefix>.+)_z(?P<redshift>\d+(\.\d+)?)\.np[yz]")
_DATA_SUFFIXES = (*_SUFFIXES, ".h5", ".hdf5", ".bin", ".dat")
_STORE_SUFFIXES = (".zarr", ".zarr.partial")
_NAMES_SHOWN = 6
_LIKENESS = 0.75  # of rho_z8.40.npy and rho_z8.397.npy: 0.81


class ThreeFileSet(SimulationReader):
    """Reads one file per field and redshift, ``<prefix>_z<redshift>.npy`` or ``.npz``."""

    name = "three-file set"

    def recognizes(self, folder: Path) -> bool:
        """Tell whether a file of a known field lies in the folder."""
        return bool(_files_of_fields(folder)[0])

    def find(self, folder: Path) -> Simulation:
        """Return the cubes directly in a folder; subfolders are not read.

        Parameters
        ----------
        folder : Path
            Folder with the files, and perhaps a ``simulation.json``.

        Raises
        ------
        SourceDataError
            If a required field is missing at a redshift, a field is there twice, redshifts
            cannot be told apart, or a file is no array of real numbers.
        """
        files, ignored = _files_of_fields(folder)
        redshifts = sorted({redshift for of_field in files.values() for redshift in of_field})
        _check_redshifts(folder, redshifts)
        notes = []
        for field in REQUIRED:
            for redshift in redshifts:
                if redshift not in files[field.name]:
                    raise SourceDataError(_missing(folder, field, redshift, files, ignored))
        for field in EXTRA:
            lacking = [redshift for redshift in redshifts if redshift not in files[field.name]]
            if files[field.name] and lacking:
                del files[field.name]
                notes.append(
                    f"{field.name} is left out: {field.file_prefix} is missing at redshift "
                    + ", ".join(f"{redshift:g}" for redshift in lacking)
                )
        if ignored:
            notes.append(f"ignored files: {_listed(ignored)}")
        if subfolders := _subfolders_with_data(folder):
            notes.append(f"subfolders are not read: {_listed(subfolders)}")
        description = read_description(folder)
        notes += _unknown_keys(folder)
        cubes: dict[str, dict[float, FieldSource]] = {
            name: {
                redshift: open_numpy_file(files[name][redshift], field.file_prefix)
                for redshift in reversed(redshifts)
            }
            for name, field in FIELDS.items()
            if files.get(name)
        }
        return Simulation(
            cubes,
            box_length_cmpc=description.box_length_cmpc,
            cosmology=description.cosmology,
            density_frame=description.density_frame,
            n_src_units=description.n_src_units,
            notes=tuple(notes),
        )


def _files_of_fields(folder: Path) -> tuple[dict[str, dict[float, Path]], list[str]]:
    """Return the file of every field and redshift, and the names of other arrays."""
    by_prefix = {field.file_prefix: field.name for field in FIELDS.values()}
    files: dict[str, dict[float, Path]] = defaultdict(dict)
    ignored = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in _SUFFIXES or not path.is_file():
            continue
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or match["prefix"] not in by_prefix:
            ignored.append(path.name)
            continue
        name, redshift = by_prefix[match["prefix"]], float(match["redshift"])
        if redshift in files[name]:
            raise SourceDataError(
                f"{folder}: {name} at redshift {redshift:g} is there twice, "
                f"{files[name][redshift].name} and {path.name}; remove one"
            )
        files[name][redshift] = path
    return files, ignored


def _check_redshifts(folder: Path, redshifts: list[float]) -> None:
    for lower, upper in pairwise(redshifts):
        if upper - lower <= 2 * REDSHIFT_TOLERANCE:
            raise SourceDataError(
                f"{folder}: redshifts must differ by more than {2 * REDSHIFT_TOLERANCE:g}, "
                f"got {lower} and {upper}; rename the files of one of them"
            )


def _missing(
    folder: Path,
    field: Field,
    redshift: float,
    files: Mapping[str, Mapping[float, Path]],
    ignored: Iterable[str],
) -> str:
    name = f"{field.file_prefix}_z{redshift:.3f}.npy"
    others = [files[other.name] for other in REQUIRED if other is not field]
    alone = [
        path.name
        for there, path in files[field.name].items()
        if any(there not in other for other in others)
    ]
    near = difflib.get_close_matches(name, [*alone, *ignored], n=1, cutoff=_LIKENESS)
    way_on = (
        f"{near[0]} is there: rename it if it is the one"
        if near
        else "add it, or move the other files of this redshift away"
    )
    return f"{folder}: {name} is missing: {field.name} is required at every redshift; {way_on}"


def _unknown_keys(folder: Path) -> Iterator[str]:
    """Yield a note for every key of the description that nobody reads."""
    path = folder / FILE_NAME
    told = json.loads(path.read_text()) if path.exists() else {}
    for where, keys, known in (
        ("", told, SimulationDescription.model_fields),
        ("cosmology.", told.get("cosmology") or {}, Cosmology.__dataclass_fields__),
    ):
        for key in sorted(set(keys) - set(known)):
            (nearest,) = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0)
            yield (
                f"{FILE_NAME}: {where}{key} is no key that is known, so it is ignored; "
                f"the nearest is {where}{nearest}"
            )


def _subfolders_with_data(folder: Path) -> list[str]:
    return [
        path.name
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.endswith(_STORE_SUFFIXES) and _holds_data(path)
    ]


def _holds_data(folder: Path) -> bool:
    return any(name.endswith(_DATA_SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
