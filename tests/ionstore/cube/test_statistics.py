"""Statistics that merge."""

import numpy as np
import pytest

from ionstore.cube.statistics import FieldStatistics


@pytest.mark.parametrize("scale", [1.0, 1e-28, 1e30])
def test_merged_parts_equal_the_whole(scale: float) -> None:
    values = (np.random.default_rng(0).lognormal(size=1001) * scale).astype(np.float32)
    whole = FieldStatistics.of(values)
    parts = FieldStatistics.of(values[:3]).merge(FieldStatistics.of(values[3:]))
    wide = values.astype(np.float64)
    for statistics in (whole, parts):
        assert statistics.count == 1001
        assert statistics.mean == pytest.approx(wide.mean(), rel=1e-14)
        assert statistics.variance == pytest.approx(wide.var(), rel=1e-12)
        assert (statistics.min, statistics.max) == (wide.min(), wide.max())


def test_densities_whose_squares_underflow_float32_have_a_variance() -> None:
    density = np.array([1e-28, 3e-28], dtype=np.float32)
    assert float(density.var()) == 0  # what would happen in float32
    assert FieldStatistics.of(density).variance == pytest.approx(1e-56, rel=1e-6)
