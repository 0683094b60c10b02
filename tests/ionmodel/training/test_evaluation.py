"""Scores over whole sets of cells."""

import math

import numpy as np
import pytest

from ionmodel.training.evaluation import r_squared


def test_r_squared_of_known_cases() -> None:
    target = np.array([0.0, 0.5, 1.0], dtype=np.float32)
    assert r_squared(target, target) == 1
    assert r_squared(target, np.full(3, 0.5, np.float32)) == 0
    assert r_squared(target, 1 - target) == pytest.approx(-3)


def test_r_squared_without_variance_is_undefined() -> None:
    assert math.isnan(r_squared(np.ones(4, np.float32), np.zeros(4, np.float32)))


def test_r_squared_of_a_set_is_not_the_mean_over_batches() -> None:
    rng = np.random.default_rng(0)
    target = np.sort(rng.random(1000)).astype(np.float32)
    prediction = (target + rng.normal(scale=0.1, size=1000)).astype(np.float32)
    batches = [
        r_squared(target[first : first + 25], prediction[first : first + 25])
        for first in range(0, 1000, 25)
    ]
    whole = 1 - np.var(target.astype(float) - prediction) / np.var(target.astype(float))
    assert r_squared(target, prediction) == pytest.approx(whole, abs=1e-3)
    assert abs(np.mean(batches) - whole) > 0.1
