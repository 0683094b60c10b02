"""Both versions of 21cmFAST group the same outputs differently, and give the same fields."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.readers.base import FileContents
from ionstore.readers.formats.py21cmfast import Py21cmFast
from ionstore.readers.formats.py21cmfast3 import Py21cmFast3
from ionstore.readers.formats.py21cmfast4 import Py21cmFast4
from tests.support.mesh_files import inspected
from tests.support.py21cmfast_files import (
    COSMOLOGY,
    VERSION_3,
    VERSION_4,
    copied,
    field_of,
    names_in,
    whole,
)


@dataclass(frozen=True)
class Version:
    """Where the files of a version hold the same things."""

    reader: Py21cmFast
    density: Path
    ionized: Path
    halos: Path
    coeval: Path
    other_version: Path
    outputs: str  # group of the datasets of a kind
    options: str  # group of the parameters of the box
    told: str  # group whose attributes tell the redshift
    catalog: str
    neutral_fraction: str
    temperature: str
    box_length_cmpc: float
    other_kinds: tuple[str, ...]

    def inspected(self, path: Path) -> FileContents:
        contents = inspected(self.reader, path)
        assert contents is not None
        return contents

    def group(self, kind: str) -> str:
        return self.outputs.format(kind)


def _only(folder: Path, pattern: str) -> Path:
    (path,) = folder.rglob(pattern)
    return path


VERSIONS = {
    "3": Version(
        Py21cmFast3(),
        density=_only(VERSION_3, "PerturbedField_*"),
        ionized=_only(VERSION_3, "IonizedBox_*"),
        halos=_only(VERSION_3, "PerturbHaloField_*"),
        coeval=VERSION_3 / "coeval_z8.000.h5",
        other_version=VERSION_4 / "coeval_z8.000.h5",
        outputs="{}",
        options="user_params",
        told="/",
        catalog="PerturbHaloField",
        neutral_fraction="xH_box",
        temperature="temp_kinetic_all_gas",
        box_length_cmpc=76.192 * 12 / 32,
        other_kinds=(),
    ),
    "4": Version(
        Py21cmFast4(),
        density=_only(VERSION_4, "PerturbedField.h5"),
        ionized=_only(VERSION_4, "IonizedBox.h5"),
        halos=_only(VERSION_4, "PerturbedHaloCatalog.h5"),
        coeval=VERSION_4 / "coeval_z8.000.h5",
        other_version=VERSION_3 / "coeval_z8.000.h5",
        outputs="{}/OutputFields",
        options="{}/InputParameters/simulation_options",
        told="{}",
        catalog="PerturbedHaloCatalog",
        neutral_fraction="neutral_fraction",
        temperature="kinetic_temperature",
        box_length_cmpc=2.381 * 12,
        other_kinds=("HaloBox",),
    ),
}


def _moved(file: h5py.File, place: str, other: Path) -> None:
    """Move something to the same place in another file, and leave a link to it."""
    with h5py.File(other, "w") as moved:
        file.copy(place, moved, name="moved")
    del file[place]
    file[place] = h5py.ExternalLink(other.name, "/moved")


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Version:
    return VERSIONS[request.param]


@pytest.mark.parametrize("kind", ["density", "ionized", "halos", "coeval"])
def test_box_cosmology_and_redshift_are_told_by_attributes(version: Version, kind: str) -> None:
    contents = version.inspected(getattr(version, kind))
    assert contents.box_length_cmpc == pytest.approx(version.box_length_cmpc)
    assert contents.cosmology == COSMOLOGY
    assert {one.redshift for one in contents.fields} == {8.0}


def test_the_density_is_an_overdensity(version: Version) -> None:
    found = field_of(version.inspected(version.density), "n_igm")
    assert found.quantity == "overdensity"
    with h5py.File(version.density) as file:
        expected = file[version.group("PerturbedField")]["density"][:]
    np.testing.assert_array_equal(whole(found), expected)


def test_the_ionized_box_holds_the_neutral_fraction_and_a_temperature(version: Version) -> None:
    contents = version.inspected(version.ionized)
    assert names_in(contents) == {"xhii", "temperature"}
    with h5py.File(version.ionized) as file:
        outputs = file[version.group("IonizedBox")]
        for field, quantity, dataset in (
            ("xhii", "neutral_fraction", version.neutral_fraction),
            ("temperature", "as_is", version.temperature),
        ):
            found = field_of(contents, field)
            assert found.quantity == quantity
            np.testing.assert_array_equal(whole(found), outputs[dataset][:])


def test_a_coeval_file_yields_all_its_fields(version: Version) -> None:
    contents = version.inspected(version.coeval)
    assert names_in(contents) == {"n_igm", "xhii", "temperature"}
    assert [note.split()[0] for note in contents.notes] == list(version.other_kinds)
    with h5py.File(version.coeval) as file:
        for field, kind, dataset in (
            ("n_igm", "PerturbedField", "density"),
            ("xhii", "IonizedBox", version.neutral_fraction),
            ("temperature", "IonizedBox", version.temperature),
        ):
            expected = file[version.group(kind)][dataset][:]
            np.testing.assert_array_equal(whole(field_of(contents, field)), expected)


def test_kinds_that_hold_no_field_are_passed_over(version: Version, tmp_path: Path) -> None:
    path = copied(version.density, tmp_path / "a.h5", lambda f: f.move("PerturbedField", "TsBox"))
    contents = version.inspected(path)
    assert (contents.fields, contents.notes) == ((), ())
    assert contents.box_length_cmpc == pytest.approx(version.box_length_cmpc)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_temperature_that_was_not_computed_is_left_out(
    version: Version, tmp_path: Path, value: float
) -> None:
    def change(file: h5py.File) -> None:
        file[version.group("IonizedBox")][version.temperature][3, 4, 5] = value

    path = copied(version.ionized, tmp_path / "a.h5", change)
    assert names_in(version.inspected(path)) == {"xhii"}


@pytest.mark.parametrize(
    ("name", "redshift"), [("coeval_z7.900.h5", 7.9), ("PerturbedField_r77.h5", None)]
)
def test_the_name_tells_a_redshift_that_is_no_attribute(
    version: Version, tmp_path: Path, name: str, redshift: float | None
) -> None:
    told = version.told.format("PerturbedField")
    path = copied(version.density, tmp_path / name, lambda f: f[told].attrs.pop("redshift"))
    assert field_of(version.inspected(path), "n_igm").redshift == redshift


@pytest.mark.parametrize("name", ["coeval_z8.290.h5", "8.2899/PerturbedField.h5"])
def test_the_attribute_wins_over_rounded_names(version: Version, tmp_path: Path, name: str) -> None:
    def change(file: h5py.File) -> None:
        file[version.told.format("PerturbedField")].attrs["redshift"] = 8.289925

    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    copied(version.density, path, change)
    assert field_of(version.inspected(path), "n_igm").redshift == 8.289925


def test_boxes_that_are_no_cubes_are_left_out(version: Version, tmp_path: Path) -> None:
    options = version.options.format("PerturbedField")
    path = copied(
        version.density,
        tmp_path / "a.h5",
        lambda f: f[options].attrs.modify("NON_CUBIC_FACTOR", 2.5),
    )
    contents = version.inspected(path)
    assert contents.fields == ()
    assert "a.h5 is left out: the last side of its box is 2.5 times" in contents.notes[0]


def test_lightcones_are_left_out(version: Version, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file.create_group("lightcones")
        file.attrs["lightcone"] = True

    contents = version.inspected(copied(version.coeval, tmp_path / "a.h5", change))
    assert contents.fields == ()
    assert "a.h5 is left out: it is a lightcone" in contents.notes[0]


@pytest.mark.parametrize("is_padded", [True, False])
def test_a_catalog_without_halos_gives_a_note(
    version: Version, tmp_path: Path, is_padded: bool
) -> None:
    def empty(file: h5py.File) -> None:
        group = file[version.group(version.catalog)]
        if not is_padded:
            del group["halo_coords"], group["halo_masses"]
        group.attrs["n_halos"] = 0

    contents = version.inspected(copied(version.halos, tmp_path / "a.h5", empty))
    assert contents.fields == ()
    (note,) = contents.notes
    assert note.startswith(f"{version.catalog} holds no halos")
    assert "--map n_src=" in note


def _without_masses(group: h5py.Group) -> None:
    del group["halo_masses"]


def _too_many(group: h5py.Group) -> None:
    group.attrs["n_halos"] = 1000


def _negative(group: h5py.Group) -> None:
    group.attrs["n_halos"] = -1


def _flat(group: h5py.Group) -> None:
    del group["halo_coords"]
    group["halo_coords"] = np.zeros(30, "i4")


@pytest.mark.parametrize("change", [_without_masses, _too_many, _negative, _flat])
def test_damaged_catalogs_are_refused(
    version: Version, tmp_path: Path, change: Callable[[h5py.Group], Any]
) -> None:
    path = copied(
        version.halos, tmp_path / "a.h5", lambda f: change(f[version.group(version.catalog)])
    )
    with pytest.raises(SourceDataError, match=r"a\.h5: .*copy it again"):
        inspected(version.reader, path)


def test_other_files_are_not_of_this_format(version: Version, tmp_path: Path) -> None:
    assert inspected(version.reader, version.other_version) is None
    for content in (b"\x89PNG\r\n\x1a\n", b"CDF\x01"):
        assert inspected(version.reader, tmp_path / "a.h5", content + bytes(99)) is None
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["density"] = np.zeros((3, 3, 3))
        file["PartType0/Masses"] = np.zeros(3)
        file["elsewhere"] = h5py.ExternalLink("missing.h5", "/")
    assert inspected(version.reader, tmp_path / "b.h5") is None


@pytest.mark.parametrize("part", ["field", "outputs", "kind", "options", "catalog"])
def test_what_lies_in_another_file_is_refused(version: Version, tmp_path: Path, part: str) -> None:
    source = version.halos if part == "catalog" else version.density
    place = {
        "field": f"{version.group('PerturbedField')}/density",
        "outputs": version.group("PerturbedField"),
        "kind": "PerturbedField",
        "options": version.options.format("PerturbedField"),
        "catalog": f"{version.group(version.catalog)}/halo_masses",
    }[part]
    path = copied(source, tmp_path / "a.h5", lambda f: _moved(f, place, tmp_path / "other.h5"))
    with pytest.raises(SourceDataError, match=r"a\.h5: .* got a link into other\.h5; give that"):
        version.inspected(path)


def test_links_that_give_no_field_may_lead_anywhere(version: Version, tmp_path: Path) -> None:
    def link(file: h5py.File) -> None:
        file["InitialConditions"] = h5py.ExternalLink("other.h5", "/InitialConditions")
        file["notes"] = h5py.SoftLink("/InitialConditions/notes")

    path = copied(version.density, tmp_path / "a.h5", link)
    assert version.inspected(path) == replace(
        version.inspected(version.density),
        fields=tuple(
            replace(one, source=replace(one.source, path=path))  # type: ignore[type-var]
            for one in version.inspected(version.density).fields
        ),
    )
