"""Permutations and draws that need no memory: the same from any place."""

from collections import Counter

import numpy as np
import pytest

from ionstore.sampling.permutation import drawn, shuffled


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097])
def test_every_member_comes_once(n: int) -> None:
    assert sorted(shuffled(np.arange(n), n, key=(7, 2)).tolist()) == list(range(n))


def test_parts_of_the_order_are_those_of_the_whole() -> None:
    whole = shuffled(np.arange(1000), 1000, key=(1, 3))
    np.testing.assert_array_equal(shuffled(np.arange(250, 300), 1000, key=(1, 3)), whole[250:300])


def test_epochs_and_seeds_give_other_orders() -> None:
    orders = {
        tuple(shuffled(np.arange(50), 50, key=(seed, epoch)).tolist())
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_all_permutations_of_four_are_equally_likely() -> None:
    draws = 4800
    counts = Counter(
        tuple(shuffled(np.arange(4), 4, key=(seed, 0)).tolist()) for seed in range(draws)
    )
    expected = draws / 24
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert len(counts) == 24
    assert chi_squared < 49.7  # 0.1 % of fair shuffles exceed it at 23 degrees of freedom


def test_neighbors_in_the_order_are_unrelated() -> None:
    order = shuffled(np.arange(20_000), 20_000, key=(0, 0))
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 0.03


def test_a_range_larger_than_memory_costs_nothing() -> None:
    n = 2048**3 * 10
    some = shuffled(np.arange(n - 1000, n), n, key=(0, 0))
    assert len(np.unique(some)) == 1000
    assert some.min() >= 0
    assert some.max() < n


def test_nothing_to_order_is_refused() -> None:
    with pytest.raises(ValueError, match="n must be at least 1"):
        shuffled(np.zeros(1, np.int64), 0, key=(0, 0))


def test_streams_and_lengths_differ_place_by_place() -> None:
    lengths = np.array([5, 9, 5, 9, 5, 9, 5, 5])
    streams = np.array([0, 1, 0, 1, 0, 1, 2, 2])
    positions = np.array([0, 0, 1, 1, 2, 2, 0, 1])
    mixed = shuffled(positions, lengths, key=(3, 4), stream=streams)
    for stream, n in ((0, 5), (1, 9), (2, 5)):
        here = streams == stream
        alone = shuffled(positions[here], n, key=(3, 4), stream=stream)
        np.testing.assert_array_equal(mixed[here], alone)
    assert len({tuple(shuffled(np.arange(9), 9, key=(3, 4), stream=k)) for k in range(20)}) == 20


def test_keys_of_other_lengths_are_other_keys() -> None:
    assert shuffled(np.arange(99), 99, key=(1,)).tolist() != (
        shuffled(np.arange(99), 99, key=(1, 0)).tolist()
    )


def test_a_negative_key_is_refused() -> None:
    with pytest.raises(ValueError, match="below 0"):
        shuffled(np.arange(3), 3, key=(-1, 0))


def test_draws_are_even_and_belong_to_their_number() -> None:
    draws = drawn(48, np.arange(48_000), key=(1, 2))
    chi_squared = float(np.square(np.bincount(draws, minlength=48) - 1000).sum() / 1000)
    assert chi_squared < 83.0  # 0.1 % of fair draws exceed it at 47 degrees of freedom
    np.testing.assert_array_equal(drawn(48, np.array([7, 3]), key=(1, 2)), draws[[7, 3]])
    assert (drawn(48, np.arange(480), key=(1, 3)) != draws[:480]).any()
