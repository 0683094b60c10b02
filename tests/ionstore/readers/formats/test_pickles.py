import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from ionstore.readers.formats.pickles import Pickle
from tests.support.mesh_files import inspected, plain_mesh

READER = Pickle()


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["xHII_64_model_z07.72", "dens.0", "GS_PS.pkl"])
def test_pickles_are_refused_with_the_reason(tmp_path: Path, name: str, protocol: int) -> None:
    for value in (np.zeros((4, 4, 4)), {"z": 7.72, "M": np.ones(3)}, [1], "text", 1):
        contents = inspected(READER, tmp_path / name, pickle.dumps(value, protocol))
        assert contents is not None
        assert contents.fields == ()
        (note,) = contents.notes
        assert "can run any code" in note
        assert "numpy.save" in note


def test_pickles_are_not_run(tmp_path: Path) -> None:
    written = pickle.dumps(_Trap(tmp_path / "sprung"))
    assert inspected(READER, tmp_path / "a.pkl", written) is not None
    assert not (tmp_path / "sprung").exists()
    pickle.loads(written).close()
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("cells", [640, 896, 1152, 1408])
def test_meshes_whose_size_looks_like_a_pickle_are_none(tmp_path: Path, cells: int) -> None:
    head = struct.pack("<3i", cells, cells, cells) + bytes(52)
    assert head[0] == 0x80
    assert READER.inspect(tmp_path / "xfrac_8.397.dat", head) is None


def test_other_files_are_none(tmp_path: Path) -> None:
    for content in (b"", b"\x80", b"\x80\x04", b"\x80\x01K\x01.", b"\x80\x06K\x01.", b"K\x01."):
        assert inspected(READER, tmp_path / "a", content) is None
    assert inspected(READER, tmp_path / "a", plain_mesh(np.zeros((3, 3, 3)))) is None
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert inspected(READER, tmp_path / "a.npy") is None
