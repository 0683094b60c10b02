"""The order of an epoch: every sample once, the same for whoever asks, lane by lane."""

import itertools
import pickle

import numpy as np
import pytest

from ionstore.sampling.order import Order

SIZES = [
    pytest.param([10], id="one region"),
    pytest.param([7, 1, 4, 30, 5], id="uneven"),
    pytest.param([0, 3, 0, 2], id="empty regions"),
    pytest.param([64] * 32, id="even"),
]
VISITS = pytest.mark.parametrize("visits", [1, 3, 50])


def walk(order: Order, epoch: int) -> list[tuple[int, int, int, int, int]]:
    """(lane, place, visit, region, member) of the whole epoch, lane by lane."""
    found = []
    for lane in range(order.n_lanes):
        at = order.locate(epoch, [(lane, 0, order.lane_length(lane))])
        columns = (at.lane, at.place, at.visit, at.region, at.member)
        found += list(zip(*(column.tolist() for column in columns), strict=True))
    return found


@VISITS
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("n_lanes", [1, 3, 8])
@pytest.mark.parametrize("sizes", SIZES)
def test_an_epoch_visits_every_sample_once(
    sizes: list[int], n_lanes: int, shuffle: bool, visits: int
) -> None:
    order = Order(sizes, seed=1, shuffle=shuffle, visits=visits, n_lanes=n_lanes)
    seen = [(region, member) for *_, region, member in walk(order, epoch=2)]
    assert sorted(seen) == [(r, m) for r, size in enumerate(sizes) for m in range(size)]


@pytest.mark.parametrize("n_lanes", [1, 3, 8])
def test_lanes_are_equally_long(n_lanes: int) -> None:
    order = Order([7, 1, 4, 30, 5], seed=0, shuffle=True, n_lanes=n_lanes)
    lengths = [order.lane_length(lane) for lane in range(n_lanes)]
    assert sum(lengths) == 47
    assert lengths == [len(range(lane, 47, n_lanes)) for lane in range(n_lanes)]


@VISITS
@pytest.mark.parametrize("sizes", SIZES)
def test_openings_are_the_runs_of_a_visit_in_a_lane(sizes: list[int], visits: int) -> None:
    order = Order(sizes, seed=5, shuffle=True, visits=visits, n_lanes=3)
    expected = []
    runs = itertools.groupby(walk(order, epoch=1), key=lambda row: (row[0], row[2], row[3]))
    for (lane, visit, region), rows in runs:
        places = [row[1] for row in rows]
        expected.append((lane, visit, region, places[0], places[-1] + 1))
    openings = [
        (o.lane, o.visit, o.region, o.start, o.stop)
        for lane in range(3)
        for o in order.openings(1, lane, 0)
    ]
    assert openings == expected
    for lane in range(3):
        middle = order.lane_length(lane) // 2
        from_middle = [o.visit for o in order.openings(1, lane, middle)]
        assert from_middle == [v for k, v, _, _, stop in expected if k == lane and stop > middle]


def test_stretches_are_found_where_the_whole_epoch_has_them() -> None:
    order = Order([7, 1, 4, 30, 5], seed=0, shuffle=True, visits=3, n_lanes=4)
    whole = {row[:2]: row for row in walk(order, epoch=1)}
    walk(order, epoch=0)
    at = order.locate(1, [(2, 3, 9), (0, 10, 10), (3, 0, 1)])
    columns = (at.lane, at.place, at.visit, at.region, at.member)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    assert rows == [whole[2, place] for place in range(3, 9)] + [whole[3, 0]]


@pytest.mark.parametrize("sizes", [[64] * 32, [1, 500, 3, 2, 40], [0, 3, 0, 90]])
def test_consecutive_openings_of_a_lane_have_consecutive_visits(sizes: list[int]) -> None:
    order = Order(sizes, seed=0, shuffle=True, visits=25, n_lanes=8)
    for lane in range(8):
        visits = [opening.visit for opening in order.openings(0, lane, 0)]
        assert visits == list(range(visits[0], visits[0] + len(visits)))
        starts = [opening.start for opening in order.openings(0, lane, 0)]
        assert sorted(set(starts)) == starts


def test_regions_are_visited_as_often_as_each_of_them_needs() -> None:
    sizes, most = np.array([100, 50, 7, 300, 1]), 20
    visits = -(-sizes // most)
    order = Order(sizes, seed=0, shuffle=True, visits=visits, n_lanes=1)
    openings = list(order.openings(0, 0, 0))
    assert np.bincount([o.region for o in openings]).tolist() == visits.tolist()
    assert max(o.stop - o.start for o in openings) == most
    assert [o.visit for o in openings] == list(range(visits.sum()))


def test_visits_of_a_region_have_the_same_share_and_are_spread() -> None:
    order = Order([100, 50], seed=0, shuffle=True, visits=np.array([10, 5]), n_lanes=1)
    openings = list(order.openings(0, 0, 0))
    assert [o.stop - o.start for o in openings] == [10] * 15
    of_second = [number for number, o in enumerate(openings) if o.region == 1]
    assert max(np.diff(of_second)) <= 4


def test_epochs_and_seeds_differ() -> None:
    def members(seed: int, epoch: int) -> tuple[int, ...]:
        order = Order([40, 40], seed=seed, shuffle=True, n_lanes=2)
        return tuple(row[3] * 40 + row[4] for row in walk(order, epoch))

    assert len({members(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_a_shorter_epoch_takes_others_each_time() -> None:
    order = Order([100] * 10, seed=0, shuffle=True, visits=10, n_samples=60, n_lanes=4)
    epochs = [{row[3:] for row in walk(order, epoch)} for epoch in range(50)]
    assert {len(epoch) for epoch in epochs} == {60}
    assert len(set.union(*epochs)) > 900  # 0.94 expected of 50 draws of 60 in 1000


def test_unshuffled_samples_come_by_their_number() -> None:
    order = Order([3, 2], seed=0, shuffle=False, n_lanes=1)
    assert [row[3:] for row in walk(order, 7)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_an_order_travels() -> None:
    order = Order([9, 9], seed=3, shuffle=True, visits=2, n_lanes=2)
    assert walk(pickle.loads(pickle.dumps(order)), 4) == walk(order, 4)


def test_billions_of_samples_cost_nothing() -> None:
    order = Order(np.full(32**3, 64**3), seed=0, shuffle=True, visits=1024)
    at = order.locate(3, [(lane, 10**9, 10**9 + 1) for lane in range(8)])
    assert len(set(at.region.tolist())) > 1
    opening = next(order.openings(3, 2, 10**9))
    assert opening.start <= 10**9 < opening.stop
    assert opening.stop - opening.start <= 256


@pytest.mark.parametrize(
    "change", [{"visits": 0}, {"n_lanes": 0}, {"n_samples": 0}, {"seed": -1}, {"sizes": [0]}]
)
def test_what_cannot_be_ordered_is_refused(change: dict[str, object]) -> None:
    arguments = {"sizes": [4], "seed": 0, "shuffle": True, **change}
    with pytest.raises(ValueError, match="at least"):
        Order(**arguments)  # type: ignore[arg-type]
