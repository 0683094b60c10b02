"""Plausibility of fields: of simulations as they are and made wrong, and of unrelated ones."""

from collections.abc import Mapping
from functools import cache
from itertools import permutations, product
from pathlib import Path

import h5py
import numpy as np
import pytest

from ionstore.cube.mesh import Array, Corner
from ionstore.ingest.coarse_field import block_means
from ionstore.ingest.plausibility import correlate, find_contradictions

THREE_FILE_SETS = [
    ("dev", "10.110"),
    ("dev", "8.397"),
    ("dev", "7.305"),
    ("dev/pyc2ray_rt", "9.000"),
    ("dev/pyc2ray_rt", "8.700"),
    ("dev/21cmfast_v4_coeval", "8.000"),
    ("cube200", "8.000"),
]
V3_REDSHIFTS = ("8.0", "7.0")
V3_DATASETS = {
    "PerturbedField": "density",
    "IonizedBox": "xH_box",
    "PerturbHaloField": "halo_coords",
}
CASES = [*THREE_FILE_SETS, *(("dev/21cmfast_v3", redshift) for redshift in V3_REDSHIFTS)]


@cache
def simulated(shared_data: Path, folder: str, redshift: str) -> dict[str, Array]:
    """Fields of a simulation, on 64 cells a side at most."""
    place = shared_data / folder
    if folder.endswith("v3"):
        return simulated_by_21cmfast_3(place, redshift)
    prefixes = {"n_igm": "rho", "n_src": "nsrc", "xhii": "xHII", "src_mass": "srcmass"}
    paths = {name: place / f"{prefix}_z{redshift}.npy" for name, prefix in prefixes.items()}
    return {name: block_means(np.load(path), 64) for name, path in paths.items() if path.exists()}


def simulated_by_21cmfast_3(place: Path, redshift: str) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for kind, name in V3_DATASETS.items():
        for path in place.glob(f"{kind}_*.h5"):
            with h5py.File(path) as file:
                if float(file.attrs["redshift"]) == float(redshift):
                    found[kind] = file[kind][name][()].astype("f8")
    n_src = np.zeros((32, 32, 32))
    np.add.at(n_src, tuple(found["PerturbHaloField"].reshape(-1, 3).astype("i8").T), 1)
    density = 3e-28 * (1 + found["PerturbedField"])
    return {"n_igm": density, "n_src": n_src, "xhii": 1 - found["IonizedBox"]}


OTHER_ORDERS = list(permutations(range(3)))[1:]
KINDS = {
    "like a neutral fraction": "neutral_fraction",
    "another axis order": "axis_order",
    "divided by its mean": "relative_density",
    "one octant of the box": "coarser_mesh",
    "like a gas density": "a_density",
    "like an ionized fraction": "an_ionized_fraction",
    "like counts of sources": "counts",
}


def kind(sentence: str) -> str:
    (found,) = (name for words, name in KINDS.items() if words in sentence)
    return found


def kinds(fields: Mapping[str, Array]) -> list[tuple[str, tuple[str, ...]]]:
    return [(kind(found.sentence), found.fields) for found in find_contradictions(fields)]


@pytest.mark.parametrize(("folder", "redshift"), CASES)
def test_simulations_are_taken_as_they_are_and_refused_when_made_wrong(
    shared_data: Path, folder: str, redshift: str
) -> None:
    fields = simulated(shared_data, folder, redshift)
    assert len(fields) >= 3
    assert kinds(fields) == []
    assert kinds({**fields, "xhii": 1 - fields["xhii"]}) == [("neutral_fraction", ("xhii",))]
    for name in fields:
        if name == "src_mass" or (name == "n_src" and "src_mass" in fields):
            continue  # two of four fields: see below
        for axes in OTHER_ORDERS:
            wrong = {**fields, name: fields[name].transpose(axes)}
            assert kinds(wrong) == [("axis_order", (name,))]


@pytest.mark.parametrize(("folder", "redshift"), CASES)
def test_fields_under_each_others_names_are_told(
    shared_data: Path, folder: str, redshift: str
) -> None:
    fields = simulated(shared_data, folder, redshift)
    n_igm, n_src, xhii = (fields[name] for name in ("n_igm", "n_src", "xhii"))
    a_density = ("a_density", ("xhii",))
    assert kinds({"n_igm": xhii, "n_src": n_src, "xhii": n_igm}) == [
        ("an_ionized_fraction", ("n_igm",)),
        a_density,
    ]
    # Means of counts over blocks are no whole numbers, and are 0 in fewer cells.
    counts = [("counts", ("n_igm",))] if folder != "cube200" else []
    swapped = kinds({"n_igm": n_src, "n_src": n_igm, "xhii": xhii})
    assert swapped == [*counts, ("a_density", ("n_src",))]
    assert kinds({"n_igm": n_src, "n_src": xhii, "xhii": n_igm}) == [
        *counts,
        ("an_ionized_fraction", ("n_src",)),
        a_density,
    ]


@pytest.mark.parametrize(("folder", "redshift"), CASES)
def test_two_fields_are_enough(shared_data: Path, folder: str, redshift: str) -> None:
    fields = simulated(shared_data, folder, redshift)
    two = {name: fields[name] for name in ("n_igm", "xhii")}
    assert kinds(two) == []
    assert kinds({**two, "xhii": 1 - two["xhii"]}) == [("neutral_fraction", ("xhii",))]
    for name, values in two.items():
        for axes in OTHER_ORDERS:
            wrong = {**two, name: values.transpose(axes)}
            assert kinds(wrong) == [("axis_order", ("n_igm", "xhii"))]


def test_all_fields_in_one_order_do_not_contradict_each_other(shared_data: Path) -> None:
    fields = simulated(shared_data, "dev", "8.397")
    assert kinds({name: values.transpose() for name, values in fields.items()}) == []


def test_the_field_that_the_others_speak_against_is_named(shared_data: Path) -> None:
    fields = simulated(shared_data, "dev", "8.397")
    for name in fields:
        wrong = {**fields, name: fields[name].transpose()}
        assert kinds(wrong) == [("axis_order", (name,))]
    two_wrong = {name: fields[name].transpose() for name in ("n_src", "src_mass")}
    found = find_contradictions({**fields, **two_wrong})
    assert {kind(pair.sentence) for pair in found} == {"axis_order"}
    assert {name for pair in found for name in pair.fields} == set(fields)


def test_the_numbers_and_the_way_on_are_said(shared_data: Path) -> None:
    fields = simulated(shared_data, "dev", "8.397")
    (neutral,) = find_contradictions({**fields, "xhii": 1 - fields["xhii"]})
    given = correlate(fields["n_src"], 1 - fields["xhii"])
    assert given is not None
    assert neutral.sentence == (
        "xhii falls where n_src rises, like a neutral fraction: their correlation is "
        f"{given.r:.2f}, {-given.significance:.0f} times its scatter among shifted copies of the "
        "fields; give the ionized fraction, or --trust xhii if it is one"
    )
    (order,) = find_contradictions({**fields, "xhii": fields["xhii"].transpose()})
    assert "n_igm and xhii hardly correlate (0.08) until the axes of one are" in order.sentence
    assert "reversed (0.80, 52 times its scatter" in order.sentence
    assert order.sentence.endswith("write it as [x, y, z], or --trust xhii to take it as it is")
    two = {"n_igm": fields["n_igm"], "xhii": fields["xhii"].transpose()}
    (order,) = find_contradictions(two)
    assert "one of them is in another axis order" in order.sentence
    assert "--trust n_igm or --trust xhii" in order.sentence
    two["xhii"] = fields["xhii"].transpose(1, 2, 0)
    (order,) = find_contradictions(two)
    assert "until the axes of xhii are permuted by transpose(2, 0, 1)" in order.sentence
    (order,) = find_contradictions({**fields, "n_igm": fields["n_igm"].transpose(1, 2, 0)})
    assert "until the axes of n_igm are permuted by transpose(2, 0, 1)" in order.sentence
    (density,) = find_contradictions({"xhii": fields["n_igm"]})
    assert density.sentence == (
        "xhii is nowhere above 1.2e-27, like a gas density in g/cm3; give the ionized fraction, "
        "or --trust xhii to take it as it is"
    )


def test_a_density_relative_to_its_mean_is_told(shared_data: Path) -> None:
    fields = simulated(shared_data, "dev", "8.397")
    relative = fields["n_igm"] / fields["n_igm"].mean()
    for factor in (1e-28, 100.0, 97844.7):
        assert kinds({**fields, "n_igm": relative * factor}) == []
    assert kinds({**fields, "n_igm": relative}) == [("relative_density", ("n_igm",))]


@pytest.mark.parametrize("mesh", [17, 32, 128])
def test_sources_of_a_coarser_mesh_are_told(mesh: int) -> None:
    rng = np.random.default_rng(4)
    coarser = np.zeros((mesh, mesh, mesh))
    coarser[tuple(rng.integers(0, mesh // 2, (3, 900)))] = 1e9
    (found,) = find_contradictions({"n_src": coarser})
    assert found.fields == ("n_src",)
    farthest = (np.argwhere(block_means(coarser, 64) > 0).max() + 1) / min(mesh, 64)
    assert f"{farthest:.2f}" in found.sentence
    assert found.sentence.endswith("or --trust n_src to take them as they are")
    for axis in range(3):  # one source beyond the middle along one axis is enough
        beyond = coarser.copy()
        beyond[tuple(mesh - 1 if one == axis else 0 for one in range(3))] = 1e9
        assert kinds({"n_src": beyond}) == []
    few = spots(mesh // 2, 49, 5)
    assert kinds({"n_src": np.pad(few, [(0, mesh - mesh // 2)] * 3)}) == []


def test_a_list_of_half_the_cells_is_told_by_real_sources(shared_data: Path) -> None:
    n_src = simulated(shared_data, "dev/pyc2ray_rt", "8.700")["n_src"]
    (found,) = kinds({"n_src": np.pad(n_src, [(0, 64)] * 3)})
    assert found == ("coarser_mesh", ("n_src",))


def spots(mesh: int, n_spots: int, seed: int) -> Array:
    cells = np.zeros(mesh**3)
    cells[np.random.default_rng(seed).choice(mesh**3, n_spots, replace=False)] = 1
    return cells.reshape(mesh, mesh, mesh)


def smooth(mesh: int, slope: float, seed: int) -> Array:
    """A Gaussian field, periodic, with the power spectrum ``k**slope`` and a variance of 1."""
    step = np.fft.fftfreq(mesh, 1 / mesh)
    squares = step[:, None, None] ** 2 + step[:, None] ** 2 + step**2
    squares[0, 0, 0] = np.inf
    waves = np.fft.fftn(np.random.default_rng(seed).normal(size=(mesh, mesh, mesh)))
    field: Array = np.fft.ifftn(waves * squares ** (slope / 4)).real
    field /= field.std()
    return field


def sphere(mesh: int, radius: float, center: Corner) -> Array:
    axes = np.ogrid[:mesh, :mesh, :mesh]
    near = [
        np.minimum((axis - at) % mesh, (at - axis) % mesh)
        for axis, at in zip(axes, center, strict=True)
    ]
    inside: Array = near[0] ** 2 + near[1] ** 2 + near[2] ** 2 <= radius**2
    return inside.astype(np.float64)


DENSITY = 3e-28 * np.exp(0.3 * smooth(32, -2, 1))
EDGES: dict[str, dict[str, Array]] = {
    "everything constant": {
        "n_igm": np.full((32, 32, 32), 3e-28),
        "n_src": np.zeros((32, 32, 32)),
        "xhii": np.full((32, 32, 32), 0.5),
    },
    "one cell": {name: np.ones((1, 1, 1)) for name in ("n_igm", "n_src", "xhii")},
    "all neutral": {"n_igm": DENSITY, "n_src": spots(32, 50, 2), "xhii": 0 * DENSITY},
    "all neutral but for what collisions ionize": {
        "n_igm": DENSITY,
        "xhii": 2e-4 * (DENSITY / DENSITY.mean()) ** -0.5,
    },
    "all ionized": {"n_igm": DENSITY, "n_src": spots(32, 50, 2), "xhii": 0 * DENSITY + 1},
    "ionized but for recombinations": {
        "n_igm": DENSITY,
        "xhii": 1 - 1e-4 * DENSITY / DENSITY.mean(),
    },
    "ionized but for the densest gas": {
        "n_igm": DENSITY,
        "xhii": (np.quantile(DENSITY, 0.95) > DENSITY).astype(np.float64),
    },
    "neutral but for the voids": {
        "n_igm": DENSITY,
        "xhii": (np.quantile(DENSITY, 0.05) > DENSITY).astype(np.float64),
    },
    "one source": {
        "n_igm": DENSITY,
        "n_src": spots(32, 1, 3),
        "xhii": 1 / (1 + np.exp(-smooth(32, -2, 4))),
    },
    "few sources": {
        "n_igm": DENSITY,
        "n_src": spots(32, 5, 3),
        "xhii": 1 / (1 + np.exp(-smooth(32, -2, 4))),
    },
    "a trace of ionization": {"n_igm": DENSITY, "xhii": 1e-12 * DENSITY / DENSITY.mean()},
    "hardly any gas with many empty cells": {"n_igm": 1e-27 * spots(32, 9000, 2)},
    "a density in units of its largest": {"n_igm": DENSITY / DENSITY.max()},
    "any fraction as often as another": {
        "n_igm": np.random.default_rng(1).random((32, 32, 32)),
        "n_src": np.random.default_rng(2).random((32, 32, 32)),
    },
    "whole numbers, none of them 0": {"n_igm": 1.0 + np.arange(32**3).reshape(32, 32, 32) % 7},
    "sources of tiny rates": {"n_src": 1e-25 * spots(32, 50, 2)},
    "cells with a source": {"n_src": spots(32, 9000, 2)},
    "cells with a source, averaged": {"n_src": spots(32, 9000, 2) * (1 - 0.5 * spots(32, 300, 3))},
    "one neutral cell": {"n_igm": DENSITY, "xhii": 1 - (DENSITY.max() == DENSITY)},
    "a gradient across the box": {
        "n_igm": np.tile(np.arange(32) + 1e-28, (32, 32, 1)),
        "xhii": np.tile(np.arange(32) / 32, (32, 32, 1)).transpose(),
    },
    "waves": {
        "n_igm": np.tile(2 + np.sin(np.arange(32) * np.pi / 16), (32, 32, 1)),
        "xhii": np.tile(0.5 - np.sin(np.arange(32) * np.pi / 16) / 2, (32, 32, 1)),
    },
    "a sphere around a source": {
        "n_igm": np.full((32, 32, 32), 3e-28),
        "n_src": sphere(32, 0, (3, 9, 20)),
        "xhii": sphere(32, 12, (3, 9, 20)),
    },
    "anything but a sphere around a source": {
        "n_igm": np.full((32, 32, 32), 3e-28),
        "n_src": sphere(32, 0, (3, 9, 20)),
        "xhii": 1 - sphere(32, 12, (3, 9, 20)),
    },
    "a sphere elsewhere": {
        "n_src": sphere(32, 0, (3, 9, 20)),
        "xhii": sphere(32, 12, (20, 9, 3)),
    },
}


@pytest.mark.parametrize("name", EDGES)
def test_what_cannot_be_decided_is_left(name: str) -> None:
    assert kinds(EDGES[name]) == []


def test_fewer_than_16_cells_a_side_decide_nothing(shared_data: Path) -> None:
    fields = simulated(shared_data, "dev", "8.397")
    for mesh, expected in [(8, 0), (15, 0), (16, 1)]:
        small = {name: values[:mesh, :mesh, :mesh] for name, values in fields.items()}
        assert kinds(small) == []
        wrong = {**small, "xhii": 1 - small["xhii"]}
        assert len(kinds(wrong)) == expected
        if not expected:
            assert kinds({**small, "xhii": small["xhii"].transpose()}) == []
            assert correlate(small["n_igm"], small["xhii"]) is None


@pytest.mark.parametrize("slope", [-1.0, -2.0, -3.0])
def test_unrelated_fields_prove_nothing(slope: float) -> None:
    largest = 0.0
    for seed in range(40):
        n_igm = 3e-28 * np.exp(0.5 * smooth(20, slope, 2 * seed))
        xhii = (smooth(20, slope, 2 * seed + 1) > 0.2).astype(np.float64)
        assert kinds({"n_igm": n_igm, "xhii": xhii}) == []
        correlation = correlate(n_igm, xhii)
        assert correlation is not None
        largest = max(largest, abs(correlation.significance))
    assert 1.5 < largest < 5.0


def shifted_by_hand(one: Array, other: Array) -> tuple[float, list[float]]:
    mesh, far = len(one), []
    for shift in product(range(mesh), repeat=3):
        distance = np.linalg.norm([min(step, mesh - step) for step in shift])
        if distance >= mesh / 4:
            moved = np.roll(other, shift, axis=(0, 1, 2))
            far.append(float(np.corrcoef(one.ravel(), moved.ravel())[0, 1]))
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1]), far


def test_the_scatter_is_that_of_shifted_copies() -> None:
    one = smooth(16, -2, 1)
    other = 7e-29 * (one + smooth(16, -2, 2) + 5)
    found = correlate(one, other)
    r, far = shifted_by_hand(one, other)
    assert found is not None
    assert found.r == pytest.approx(r, rel=1e-9)
    assert found.scatter == pytest.approx(np.sqrt(np.mean(np.square(far))), rel=1e-9)
    assert found.largest == pytest.approx(np.abs(far).max(), rel=1e-9)
    assert found.significance == pytest.approx(found.r / found.scatter)
    assert found.is_decisive


def test_densities_far_below_one_lose_nothing() -> None:
    one, other = smooth(16, -2, 1) + 9, smooth(16, -2, 1) + smooth(16, -2, 2)
    reference = correlate(one, other)
    tiny = correlate((1e-31 * one).astype("f4"), (1e30 * other).astype("f4"))
    assert reference is not None
    assert tiny is not None
    assert tiny.r == pytest.approx(reference.r, abs=1e-5)


def test_fields_of_other_meshes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"share a mesh, got \(16, 16, 16\) and \(20, 20, 20\)"):
        correlate(smooth(16, -2, 1), smooth(20, -2, 1))


def test_larger_fields_are_coarsened_first(shared_data: Path) -> None:
    fields = simulated(shared_data, "dev", "8.397")
    fine = {name: np.kron(values, np.ones((2, 2, 2))) for name, values in fields.items()}
    assert len(fine["xhii"]) == 128
    assert kinds(fine) == []
    assert kinds({**fine, "xhii": 1 - fine["xhii"]}) == [("neutral_fraction", ("xhii",))]
