"""Readers of simulation formats, one module each; `READERS` lists them."""

from ionstore.readers.base import FileReader
from ionstore.readers.c2ray import C2Ray
from ionstore.readers.cbin import PlainMesh
from ionstore.readers.cubep3m import CubeP3M
from ionstore.readers.numpy_set import NumpySet
from ionstore.readers.pickles import Pickle
from ionstore.readers.pinion import Pinion
from ionstore.readers.py21cmfast3 import Py21cmFast3
from ionstore.readers.py21cmfast4 import Py21cmFast4
from ionstore.readers.pyc2ray import PyC2Ray
from ionstore.readers.pyc2ray_sources import PyC2RaySources
from ionstore.readers.source_list import C2RaySources

# Results by their names come before all arrays and meshes of any name.
READERS: tuple[FileReader, ...] = (
    Py21cmFast4(),
    Py21cmFast3(),
    PyC2RaySources(),
    C2Ray(),
    CubeP3M(),
    PyC2Ray(),
    Pinion(),
    NumpySet(),
    PlainMesh(),
    C2RaySources(),
    Pickle(),
)
"""Formats in the order in which a file is tried: the first that knows it reads it."""
