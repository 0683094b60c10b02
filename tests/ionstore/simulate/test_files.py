import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ionstore.cube.cosmology import PLANCK18
from ionstore.cube.description import SimulationDescription, read_description
from ionstore.cube.mesh import Mesh
from ionstore.errors import DiskSpaceError, SimulationRequestError, StoreExistsError
from ionstore.simulate.cubes import simulate_cubes
from ionstore.simulate.files import write_simulation
from tests.support.reporters import ProgressTo

MESH = Mesh(8, 20.0)
NAMES = {"rho_z8.397.npy", "nsrc_z8.397.npy", "xHII_z8.397.npy", "simulation.json"}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_files_hold_the_cubes_and_their_description(tmp_path: Path) -> None:
    out = tmp_path / "new" / "sim"
    (written,) = write_simulation(str(out), MESH, [8.397], seed=3)
    assert _names(out) == NAMES
    cube = next(simulate_cubes(MESH, [8.397], seed=3))
    for path, field in zip(written.paths, (cube.rho, cube.n_src, cube.xhii), strict=True):
        loaded = np.load(path)
        assert loaded.dtype == np.float32
        assert loaded.flags.c_contiguous
        assert np.array_equal(loaded, field)
    assert written.paths[1] == out / "nsrc_z8.397.npy"
    assert written.mean_xhii_volume == pytest.approx(cube.xhii.mean(), abs=1e-6)
    assert written.n_sources == cube.n_src.sum()
    assert written.share_without_source == (cube.n_src == 0).mean()
    assert read_description(out) == SimulationDescription(
        box_length_cmpc=20.0,
        cosmology=PLANCK18,
        density_frame="proper",
        n_src_units="1",
        seed=3,
    )


def test_redshifts_come_in_the_order_of_cosmic_time(tmp_path: Path) -> None:
    written = write_simulation(tmp_path, MESH, [7.0, 9.0, 8.0])
    assert [cube.redshift for cube in written] == [9.0, 8.0, 7.0]
    assert len(_names(tmp_path)) == 10


def test_redshifts_of_one_file_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SimulationRequestError, match=r"8\.397 would both be written as rho_z8\.397\.npy"
    ):
        write_simulation(tmp_path / "sim", MESH, [8.397, 7.0, 8.3971])
    assert not (tmp_path / "sim").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreExistsError, match="not empty"):
        write_simulation(tmp_path, MESH, [8.397])
    assert _names(tmp_path) == {"notes.txt"}


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sim").write_text("mine")
    with pytest.raises(StoreExistsError, match="got a file"):
        write_simulation(tmp_path / "sim", MESH, [8.397], overwrite=True)


def test_overwriting_replaces_the_cubes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_simulation(tmp_path, MESH, [8.397], seed=1, overwrite=True)
    before = (tmp_path / "rho_z8.397.npy").read_bytes()
    write_simulation(tmp_path, MESH, [8.397], seed=2, overwrite=True)
    assert (tmp_path / "rho_z8.397.npy").read_bytes() != before
    assert read_description(tmp_path).seed == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert _names(tmp_path) == NAMES | {"notes.txt"}


def test_overwriting_does_not_mix_two_simulations(tmp_path: Path) -> None:
    write_simulation(tmp_path, MESH, [9.0, 8.397], seed=1)
    with pytest.raises(StoreExistsError, match=r"nsrc_z9\.000\.npy would stay"):
        write_simulation(tmp_path, MESH, [8.397], seed=2, overwrite=True)
    assert read_description(tmp_path).seed == 1


def test_overwriting_spares_the_cubes_of_other_codes(tmp_path: Path) -> None:
    np.save(tmp_path / "rho_z8.397.npy", np.ones((4, 4, 4)))
    with pytest.raises(StoreExistsError, match="did not write"):
        write_simulation(tmp_path, MESH, [8.397], overwrite=True)
    assert np.load(tmp_path / "rho_z8.397.npy").shape == (4, 4, 4)


def test_a_run_that_stops_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_simulation(tmp_path, MESH, [9.0, 8.397], reporter=ProgressTo(interrupt))
    assert _names(tmp_path) == set()


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".simulate-partial").mkdir()
    (tmp_path / ".simulate-partial" / "rho_z9.000.npy").write_bytes(b"half")
    write_simulation(tmp_path, MESH, [8.397])
    assert _names(tmp_path) == NAMES


def test_a_full_disk_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(DiskSpaceError, match="are needed"):
        write_simulation(tmp_path, MESH, [8.397])
    assert _names(tmp_path) == set()
