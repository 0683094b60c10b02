"""``simulation.json``: what the files of a three-file set do not say themselves."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ionstore.cosmology import Cosmology
from ionstore.errors import SourceDataError
from ionstore.units import KnownFrame

FILE_NAME = "simulation.json"


class SimulationDescription(BaseModel):
    """What `FILE_NAME` beside a three-file set tells; every entry may be missing.

    Parameters
    ----------
    box_length_cmpc : float, optional
        Comoving side of the box, cMpc.
    cosmology : Cosmology, optional
        Cosmology of the simulation.
    density_frame : {"proper", "comoving"}, optional
        Frame of the gas density in g/cm3.
    n_src_units : str, optional
        Unit of the sources: "1" for counts, "Msun", "grid_mass".
    seed : int, optional
        Seed of the initial conditions.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    box_length_cmpc: float | None = None
    cosmology: Cosmology | None = None
    density_frame: KnownFrame | None = None
    n_src_units: str | None = None
    seed: int | None = None

    def write(self, folder: Path) -> None:
        """Write `FILE_NAME` into a folder."""
        (folder / FILE_NAME).write_text(self.model_dump_json(indent=1) + "\n")


def read_description(folder: Path) -> SimulationDescription:
    """Read `FILE_NAME` in a folder; an empty description where there is none.

    Raises
    ------
    SourceDataError
        If the file is there but is not such a description.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return SimulationDescription()
    try:
        return SimulationDescription.model_validate(json.loads(path.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SourceDataError(f"{path}: expected JSON, {error}; mend or remove the file") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SourceDataError(
            f"{path}: {where}: {first['msg']}; mend or remove the file"
        ) from error
