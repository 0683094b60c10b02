"""Which field a file of C2-Ray or pyC2Ray holds, by its name: ``xfrac3d_8.397.bin``."""

import re
from dataclasses import dataclass
from pathlib import Path

from ionstore.readers.base import FieldSource, FileContents, FoundField, Quantity, redshift_in


@dataclass(frozen=True, slots=True)
class _Content:
    field: str
    quantity: Quantity


_CONTENTS = {
    "xfrac": _Content("xhii", "ionized_fraction"),
    "IonRates": _Content("ionization_rate", "as_is"),
    "Temper": _Content("temperature", "as_is"),
}
_HEATING = "HeatRates"
# xfrac3d_ (older), xfrac3D_ and xfrac_z; not xfrac3dHe1_, which is no hydrogen.
_NAME = re.compile(rf"({'|'.join([*_CONTENTS, _HEATING])})(?:3[dD]?)?_z?\d.*\.(?:bin|dat|npy)")


def is_named_as_results(name: str) -> bool:
    """Tell whether a file is named as the codes name their results."""
    return _NAME.fullmatch(name) is not None


def named_result(name: str) -> tuple[str, float | None] | None:
    """Return field and redshift that the name of a file tells, None where it tells no field."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] == _HEATING:
        return None
    return _CONTENTS[match[1]].field, redshift_in(name)


def results(path: Path, source: FieldSource) -> FileContents:
    """Return what a file with a mesh holds, as far as its name says.

    Parameters
    ----------
    path : Path
        The file.
    source : FieldSource
        Its values.

    Returns
    -------
    FileContents
        The field, None where the name is none of the codes'. Heating rates are left out.
    """
    match = _NAME.fullmatch(path.name)
    if match is not None and match[1] == _HEATING:
        return FileContents((), notes=(f"{path.name} is left out: heating rates are not stored",))
    content = _CONTENTS[match[1]] if match is not None else None
    return FileContents(
        (
            FoundField(
                content.field if content else None,
                redshift_in(path.name),
                source,
                content.quantity if content else "as_is",
            ),
        )
    )
