"""Find the field of a file of C2-Ray or pyC2Ray by its name: ``xfrac3d_8.397.bin``."""

import re
from pathlib import Path

from ionstore.readers.base import FieldSource, FileContents, FoundField, Quantity
from ionstore.readers.file_names import redshift_in

_CONTENTS: dict[str, tuple[str, Quantity]] = {
    "xfrac": ("xhii", "ionized_fraction"),
    "IonRates": ("ionization_rate", "as_is"),
    "Temper": ("temperature", "as_is"),
}
_UNNAMED: tuple[None, Quantity] = (None, "as_is")
_HEATING = "HeatRates"
# Versions write xfrac3d_, xfrac3D_, xfrac_z and xfrac_; not xfrac3dHe1_, which is no hydrogen.
_NAME = re.compile(rf"({'|'.join([*_CONTENTS, _HEATING])})(?:3[dD]?)?_z?\d.*\.(?:bin|dat|npy)")


def is_named_as_results(name: str) -> bool:
    """Tell whether a file is named as the codes name their results."""
    return _NAME.fullmatch(name) is not None


def named_result(name: str) -> tuple[str, float | None] | None:
    """Return field and redshift that the name of a file tells, None where it tells no field."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] == _HEATING:
        return None
    return _CONTENTS[match[1]][0], redshift_in(name)


def results(path: Path, source: FieldSource) -> FileContents:
    """Return the contents of a file with a mesh, without a field where its name tells none."""
    match = _NAME.fullmatch(path.name)
    if match is not None and match[1] == _HEATING:
        return FileContents.left_out(path, "heating rates are not stored")
    field, quantity = _CONTENTS[match[1]] if match is not None else _UNNAMED
    return FileContents((FoundField(field, redshift_in(path.name), source, quantity),))
