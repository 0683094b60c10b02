"""Readers of simulation formats, one module each; `find_simulation` chooses among them."""

from pathlib import Path

from ionstore.errors import SourceDataError
from ionstore.readers.base import Simulation, SimulationReader
from ionstore.readers.three_file_set import ThreeFileSet

READERS: tuple[SimulationReader, ...] = (ThreeFileSet(),)


def find_simulation(folder: Path) -> Simulation:
    """Return the cubes of a folder, read by the first reader that recognizes it.

    Parameters
    ----------
    folder : Path
        Folder of a simulation.

    Raises
    ------
    SourceDataError
        If no reader recognizes the folder, or its files are not in order.
    OSError
        If the folder or a file cannot be read.
    """
    if not folder.is_dir():
        raise SourceDataError(f"{folder}: expected a folder of simulation output; check the path")
    for reader in READERS:
        if reader.recognizes(folder):
            return reader.find(folder)
    raise SourceDataError(
        f"{folder}: expected files such as rho_z8.397.npy, nsrc_z8.397.npy and xHII_z8.397.npy "
        "(or .npz), found none; name the folder that holds them"
    )
