"""Which channels there are, how far they look, and what they refuse."""

from typing import Any

import pytest

from ionmodel.channels.base import Box, channels_asked_for, check_channels
from ionmodel.channels.mean_free_path import Law, MeanFreePath, choudhury2009, worseck2014
from ionmodel.channels.top_hat import TopHat
from ionmodel.errors import ConfigError
from ionstore.cube.cosmology import PLANCK18, Cosmology
from ionstore.cube.mesh import Mesh

NONE: dict[str, Any] = {
    "inputs": ("n_igm", "n_src"),
    "scales": None,
    "mean_free_path": None,
    "mean_free_path_cmpc": None,
}


def test_channels_come_in_the_order_of_inputs_and_scales() -> None:
    assert channels_asked_for(NONE) == ()
    keys = {**NONE, "scales": (4.8, 10.0), "mean_free_path": "worseck2014"}
    assert [channel.name for channel in channels_asked_for(keys)] == [
        "n_igm_top_hat_4.8",
        "n_igm_top_hat_10",
        "n_src_top_hat_4.8",
        "n_src_top_hat_10",
        "n_src_mean_free_path",
    ]


def test_a_radius_is_in_cmpc_or_in_cells_of_a_box_of_unknown_size() -> None:
    channel = TopHat("n_igm", 6.0)
    assert channel.radius_cells(Box(Mesh(32, 64.0))) == 3.0
    assert channel.radius_cells(Box(Mesh(32))) == 6.0
    assert channel.long_name(Mesh(32, 64.0)) == "n_igm, mean within 6 cMpc"
    assert channel.long_name(Mesh(32)) == "n_igm, mean within 6 cells"


def test_nothing_above_a_quarter_of_the_box() -> None:
    TopHat("n_igm", 16.0).radius_cells(Box(Mesh(32, 64.0)))
    with pytest.raises(ConfigError, match=r"scales must be at most .* 16 cMpc, got 16.1 cMpc"):
        TopHat("n_igm", 16.1).radius_cells(Box(Mesh(32, 64.0)))
    with pytest.raises(ConfigError, match="at most a quarter of the box, 8 cells, got 9 cells"):
        TopHat("n_igm", 9.0).radius_cells(Box(Mesh(32)))
    with pytest.raises(ConfigError, match=r"path \(worseck2014\) at redshift 9 must .* 10.57 cMpc"):
        MeanFreePath("n_src", "worseck2014").radius_cells(Box(Mesh(32, 40.0), 9.0))


def test_laws_at_known_redshifts() -> None:
    # The factor in brackets is 2 at redshift 6; the fall ends at 210 (5 / 7)**9.
    assert worseck2014(6.0) == pytest.approx(2 * 210 * (5 / 7) ** 9, rel=1e-12)
    assert worseck2014(1000.0) == pytest.approx(210 * (5 / 7) ** 9, rel=1e-6)
    # Einstein-de Sitter with h = 0.7 at redshift 3: c / H = 2997.92 / 0.7 / 8 proper Mpc.
    flat = Cosmology(h=0.7, omega_m=1.0)
    assert choudhury2009(3.0, flat) == pytest.approx(4 * 0.1 * 2997.92458 / 0.7 / 8, rel=1e-9)
    assert choudhury2009(7.0, flat) == pytest.approx(
        8 * 0.1 * 2997.92458 / 0.7 / 8**1.5 * 2**-2.55, rel=1e-9
    )


@pytest.mark.parametrize(
    ("law", "length", "box", "cells"),
    [
        ("constant", 15.0, Box(Mesh(64, 128.0)), 7.5),
        ("worseck2014", None, Box(Mesh(100, 200.0), 6.0), worseck2014(6.0) / 2),
        (
            "choudhury2009",
            None,
            Box(Mesh(100, 200.0), 9.0, PLANCK18),
            choudhury2009(9, PLANCK18) / 2,
        ),
    ],
)
def test_a_mean_free_path_in_cells(law: Law, length: float | None, box: Box, cells: float) -> None:
    assert MeanFreePath("n_src", law, length).radius_cells(box) == pytest.approx(cells)


@pytest.mark.parametrize(
    ("law", "box", "told"),
    [
        ("worseck2014", Box(Mesh(64), 9.0), "needs the length of the box, which is unknown"),
        ("worseck2014", Box(Mesh(64, 200.0)), "needs a redshift, got none"),
        ("choudhury2009", Box(Mesh(64, 200.0), 9.0), "needs h and omega_m .* got none"),
        ("choudhury2009", Box(Mesh(64, 200.0), 9.0, Cosmology(h=0.7)), "got Cosmology"),
    ],
)
def test_what_a_law_needs_is_said(law: Law, box: Box, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        MeanFreePath("n_src", law).radius_cells(box)


def test_boxes_of_known_and_of_unknown_length_do_not_go_together() -> None:
    boxes = [Box(Mesh(32, 64.0)), Box(Mesh(32))]
    check_channels([], boxes)
    check_channels([TopHat("n_src", 2.0)], boxes[1:])
    with pytest.raises(ConfigError, match="must mean the same in all boxes"):
        check_channels([TopHat("n_src", 2.0)], boxes)
