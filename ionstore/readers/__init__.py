"""Readers of simulation formats, one module each; `READERS` lists them."""

from ionstore.readers.base import FileReader
from ionstore.readers.formats.c2ray import C2Ray
from ionstore.readers.formats.c2ray_sources import C2RaySources
from ionstore.readers.formats.cbin import PlainMesh
from ionstore.readers.formats.cubep3m import CubeP3M
from ionstore.readers.formats.numpy_set import NumpySet
from ionstore.readers.formats.pickles import Pickle
from ionstore.readers.formats.pinion import Pinion
from ionstore.readers.formats.py21cmfast3 import Py21cmFast3
from ionstore.readers.formats.py21cmfast4 import Py21cmFast4
from ionstore.readers.formats.pyc2ray import PyC2Ray
from ionstore.readers.formats.pyc2ray_sources import PyC2RaySources

# Formats that go by names come before those that take arrays, meshes and lists of any name, which
# would take their files without a field.
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
