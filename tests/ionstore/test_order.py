"""The order of samples: a permutation that needs no memory, the same from any place."""

from collections import Counter

import numpy as np
import pytest

from ionstore.order import CubeSamples, SamplePlan, shuffled
from ionstore.split import Region


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097])
def test_every_member_comes_once(n: int) -> None:
    assert sorted(shuffled(np.arange(n), n, seed=7, epoch=2).tolist()) == list(range(n))


def test_parts_of_the_order_are_those_of_the_whole() -> None:
    whole = shuffled(np.arange(1000), 1000, seed=1, epoch=3)
    np.testing.assert_array_equal(
        shuffled(np.arange(250, 300), 1000, seed=1, epoch=3), whole[250:300]
    )


def test_epochs_and_seeds_give_other_orders() -> None:
    orders = {
        tuple(shuffled(np.arange(50), 50, seed=seed, epoch=epoch).tolist())
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_all_permutations_of_four_are_equally_likely() -> None:
    draws = 4800
    counts = Counter(
        tuple(shuffled(np.arange(4), 4, seed=seed, epoch=0).tolist()) for seed in range(draws)
    )
    expected = draws / 24
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert len(counts) == 24
    assert chi_squared < 49.7  # 0.1 % of fair shuffles exceed it at 23 degrees of freedom


def test_neighbors_in_the_order_are_unrelated() -> None:
    order = shuffled(np.arange(20_000), 20_000, seed=0, epoch=0)
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 0.03


def test_a_range_larger_than_memory_costs_nothing() -> None:
    n = 2048**3 * 10
    some = shuffled(np.arange(n - 1000, n), n, seed=0, epoch=0)
    assert len(np.unique(some)) == 1000
    assert some.min() >= 0
    assert some.max() < n


def test_nothing_to_order_is_refused() -> None:
    with pytest.raises(ValueError, match="n must be at least 1"):
        shuffled(np.arange(0), 0, seed=0, epoch=0)


def two_cubes(*, shuffle: bool) -> SamplePlan:
    cells = np.array([[9, 9, 9], [1, 2, 3]])
    cubes = [CubeSamples(0, 8.0, Region((1, 0, 0), (1, 2, 2))), CubeSamples(1, 7.0, cells)]
    return SamplePlan(cubes, seed=0, shuffle=shuffle)


def test_without_shuffling_samples_come_cube_after_cube() -> None:
    parts = two_cubes(shuffle=False).batch(0, 1, 6)
    assert [index for index, _ in parts] == [0, 1]
    assert parts[0][1].tolist() == [[1, 0, 1], [1, 1, 0], [1, 1, 1]]
    assert parts[1][1].tolist() == [[9, 9, 9], [1, 2, 3]]


def test_batches_of_an_epoch_hold_every_sample_once() -> None:
    plan = two_cubes(shuffle=True)
    seen = [
        (index, *cell)
        for start in (0, 4)
        for index, cells in plan.batch(5, start, min(start + 4, 6))
        for cell in cells.tolist()
    ]
    assert len(seen) == len(set(seen)) == plan.n_samples == 6


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        SamplePlan([CubeSamples(0, 8.0, np.empty((0, 3), np.int64))], seed=0, shuffle=True)
