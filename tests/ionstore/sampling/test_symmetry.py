"""The 48 symmetries of the cube."""

import numpy as np
import pytest

from ionstore.sampling.symmetry import N_SYMMETRIES, draw_symmetries, transformed


def test_they_are_48_different_images_with_the_same_neighbors() -> None:
    cube = np.arange(27).reshape(3, 3, 3)
    images = [transformed(cube, symmetry) for symmetry in range(N_SYMMETRIES)]
    assert len({image.tobytes() for image in images}) == 48
    neighbors = {1, 3, 9}  # differences of numbers of cells that share a face
    for image in images:
        assert image[1, 1, 1] == 13
        for axis in range(3):
            assert set(np.abs(np.diff(image, axis=axis)).ravel().tolist()) <= neighbors


def test_they_are_a_group() -> None:
    cube = np.arange(27).reshape(3, 3, 3)
    images = {transformed(cube, symmetry).tobytes() for symmetry in range(48)}
    for first in range(48):
        for second in (5, 17, 40):
            assert transformed(transformed(cube, first), second).tobytes() in images


def test_number_zero_changes_nothing_and_fields_keep_their_place() -> None:
    stack = np.arange(2 * 4 * 27).reshape(2, 4, 3, 3, 3)
    np.testing.assert_array_equal(transformed(stack, 0), stack)
    np.testing.assert_array_equal(transformed(stack, 31)[1, 2], transformed(stack[1, 2], 31))


@pytest.mark.parametrize("symmetry", [-1, 48])
def test_others_are_refused(symmetry: int) -> None:
    with pytest.raises(ValueError, match="0 to 47"):
        transformed(np.zeros((2, 2, 2)), symmetry)


def test_draws_depend_on_seed_epoch_and_sample_alone() -> None:
    draws = draw_symmetries(np.arange(1000), "all", seed=1, epoch=2)
    assert set(draws.tolist()) == set(range(48))
    np.testing.assert_array_equal(
        draw_symmetries(np.array([999, 3]), "all", seed=1, epoch=2), draws[[999, 3]]
    )
    assert (draw_symmetries(np.arange(1000), "all", seed=1, epoch=3) != draws).any()


def test_permutations_reverse_nothing_and_none_changes_nothing() -> None:
    distances = np.add.outer(np.add.outer(np.arange(3), np.arange(3)), np.arange(3))
    draws = set(draw_symmetries(np.arange(200), "permutations", seed=1, epoch=0).tolist())
    assert len(draws) == 6
    cube = np.arange(27).reshape(3, 3, 3)
    assert len({transformed(cube, symmetry).tobytes() for symmetry in draws}) == 6
    for symmetry in draws:  # the distance from the first corner is that of its image
        np.testing.assert_array_equal(transformed(distances, symmetry), distances)
    assert not draw_symmetries(np.arange(200), "none", seed=1, epoch=0).any()
