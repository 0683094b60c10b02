"""Normalization: box means of densities, else statistics of the training cells, in float64."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numcodecs import blosc

from ionstore.cube.mesh import Region
from ionstore.store.conversion import ValueMap
from ionstore.store.cube_store import CubeStore
from ionstore.store.normalization import (
    FieldNormalization,
    Normalization,
    Transform,
    fit_normalization,
)
from tests.support.stores import cubes_at, write_store

SLAB = Region((3, 0, 0), (7, 12, 12))


def slab(store: CubeStore, name: str) -> list[np.ndarray]:
    return [store.read_field(name, z)[3:10].astype(np.float64) for z in store.redshifts]


def box_mean(store: CubeStore, redshift: float) -> float:
    return float(store.read_field("n_igm", redshift).mean(dtype=np.float64))


def test_density_becomes_overdensity_of_each_redshift(small_store: CubeStore) -> None:
    fitted = fit_normalization([small_store], ["n_igm"], [SLAB])
    overdensity = np.stack(
        [
            rho / box_mean(small_store, z) - 1
            for rho, z in zip(slab(small_store, "n_igm"), small_store.redshifts, strict=True)
        ]
    )
    entry = fitted.fields["n_igm"]
    assert entry.mean == pytest.approx(overdensity.mean(), rel=1e-9)
    assert entry.std == pytest.approx(overdensity.std(), rel=1e-12)
    rho = small_store.read_field("n_igm", 7.5)
    expected = (rho / box_mean(small_store, 7.5) - 1 - overdensity.mean()) / overdensity.std()
    np.testing.assert_allclose(
        fitted.apply(small_store, "n_igm", 7.5, rho), expected, rtol=1e-5, atol=1e-6
    )


def test_sources_become_log1p_of_the_ratio_to_their_training_mean(small_store: CubeStore) -> None:
    fitted = fit_normalization([small_store], ["n_src"], [SLAB])
    sources = np.stack(slab(small_store, "n_src"))
    transformed = np.log1p(sources / sources.mean())
    entry = fitted.fields["n_src"]
    assert entry.reference == pytest.approx(sources.mean(), rel=1e-12)
    assert (entry.mean, entry.std) == pytest.approx((transformed.mean(), transformed.std()))


def test_listed_cells_give_the_statistics_of_a_region_with_the_same_cells(
    small_store: CubeStore,
) -> None:
    cells = SLAB.cells(np.arange(SLAB.n_cells))
    listed = fit_normalization([small_store], ["n_igm", "n_src"], [cells + 12])
    region = fit_normalization([small_store], ["n_igm", "n_src"], [SLAB])
    for name in ("n_igm", "n_src"):
        assert listed.fields[name].mean == pytest.approx(region.fields[name].mean, abs=1e-12)
        assert listed.fields[name].std == pytest.approx(region.fields[name].std)


def test_a_redshift_matched_nearby_is_the_same_cube(small_store: CubeStore) -> None:
    exact = fit_normalization([small_store], ["n_igm"], [SLAB], redshifts=[9.0])
    nearby = fit_normalization([small_store], ["n_igm"], [SLAB], redshifts=[9.0004])
    assert nearby == exact


def test_other_cells_change_nothing_but_the_mean_of_the_box(tmp_path: Path) -> None:
    cubes = cubes_at(12, (8.0,))
    changed = {name: values.copy() for name, values in cubes.items()}
    changed["n_src"][:, :3] = changed["n_src"][:, :3] * 7 % 200
    changed["n_src"][:, 10:] = 1
    changed["n_igm"][:, [0, 2, 10, 11]] = changed["n_igm"][:, [11, 10, 2, 0]]
    fits = [
        fit_normalization(
            [write_store(tmp_path / f"{index}.zarr", one, (8.0,))], ["n_igm", "n_src"], [SLAB]
        )
        for index, one in enumerate((cubes, changed))
    ]
    assert fits[0].fields["n_src"] == fits[1].fields["n_src"]
    assert asdict(fits[0].fields["n_igm"]) == pytest.approx(asdict(fits[1].fields["n_igm"]))


def test_an_unseen_box_takes_its_own_mean_density(small_store: CubeStore, tmp_path: Path) -> None:
    fitted = fit_normalization([small_store], ["n_igm"], [SLAB])
    cubes = cubes_at(8, (5.0,), seed=9)
    cubes["n_igm"] *= 100
    other = write_store(tmp_path / "other.zarr", cubes, (5.0,))
    normalized = fitted.apply(other, "n_igm", 5.0, other.read_field("n_igm", 5.0))
    entry = fitted.fields["n_igm"]
    assert abs(float(normalized.mean(dtype=np.float64)) * entry.std + entry.mean) < 1e-6


def test_densities_in_grams_do_not_underflow(small_store: CubeStore) -> None:
    assert fit_normalization([small_store], ["n_igm"], [SLAB]).fields["n_igm"].std > 0.1


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0, 1e12])
def test_a_constant_field_becomes_zero(tmp_path: Path, value: float) -> None:
    cubes = cubes_at(12, (8.0,))
    cubes["n_src"] = np.full((1, 12, 12, 12), value, np.float32)
    store = write_store(tmp_path / "cubes.zarr", cubes, (8.0,))
    fitted = fit_normalization([store], ["n_src"], [SLAB])
    normalized = fitted.apply(store, "n_src", 8.0, store.read_field("n_src", 8.0))
    np.testing.assert_allclose(normalized, 0, atol=1e-12)


def test_reading_normalizes_as_the_formulas_say(small_store: CubeStore) -> None:
    transforms: dict[str, Transform] = {"xhii": "identity"}
    names = ["n_igm", "n_src", "xhii"]
    fitted = fit_normalization([small_store], names, [SLAB], transforms=transforms)
    for redshift in small_store.redshifts:
        for name in names:
            values, entry = small_store.read_field(name, redshift), fitted.fields[name]
            wide = values.astype(np.float64)
            if name == "n_igm":
                wide = wide / box_mean(small_store, redshift) - 1
            elif name == "n_src":
                wide = np.log1p(wide / entry.reference)
            expected = (wide - entry.mean) / entry.std
            conversion = fitted.conversion(small_store, name, redshift)
            out = np.empty((12, 12, 12), np.float32)
            small_store.read_into(name, redshift, (0, 0, 0), out, conversion=conversion)
            np.testing.assert_allclose(out, expected, rtol=2.0**-22, atol=1e-12)
            applied = fitted.apply(small_store, name, redshift, values)
            np.testing.assert_array_equal(applied, out)


def test_no_sources_at_all_are_taken_as_they_are() -> None:
    entry = FieldNormalization("log1p", reference=0.0, mean=0.0, std=1.0)
    assert entry.conversion(1.0) == ValueMap(1.0, 0.0, 1.0)
    np.testing.assert_allclose(entry.apply(np.array([0, 3], "u1"), 0.0), np.log1p([0, 3]))


def test_an_empty_cube_has_no_overdensity() -> None:
    entry = FieldNormalization("overdensity", reference=1.0, mean=0.0, std=1.0)
    with pytest.raises(ValueError, match="empty cube"):
        entry.conversion(0.0)


def test_statistics_decode_each_chunk_once(
    small_store: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    decompress, n_decoded = blosc.decompress, []

    def counted(frame: bytes, chunk: object) -> object:
        n_decoded.append(1)
        return decompress(frame, chunk)

    monkeypatch.setattr(blosc, "decompress", counted)
    fit_normalization([small_store], ["n_src"], [SLAB], redshifts=[9.0])
    assert len(n_decoded) == 2 * 2 * 3 * 3  # two passes over two layers of chunks 5 cells wide
    cells = np.array([[11, 0, 0], [0, 0, 0]])
    n_decoded.clear()
    fit_normalization([small_store], ["n_src"], [cells], redshifts=[9.0])
    assert len(n_decoded) == 2 * 2 * 3 * 3  # no cell in the middle layer


def test_plain_dicts_describe_it_wholly(small_store: CubeStore) -> None:
    fitted = fit_normalization([small_store], ["n_igm", "n_src"], [SLAB])
    assert Normalization.from_dict(fitted.to_dict()) == fitted


def test_unknown_names_are_refused(small_store: CubeStore) -> None:
    with pytest.raises(ValueError, match="transforms must be among"):
        fit_normalization([small_store], ["n_igm"], [SLAB], transforms={"n_igm": "log"})  # type: ignore[dict-item]
    fitted = fit_normalization([small_store], ["n_igm"], [SLAB])
    with pytest.raises(ValueError, match="'xhii' is not among"):
        fitted.apply(small_store, "xhii", 9.0, np.zeros(1))
