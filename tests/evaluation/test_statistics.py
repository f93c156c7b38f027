"""Intervals and tests, against SciPy's own bootstrap and against counting by hand."""

import itertools

import numpy as np
import pytest
import scipy.stats

from vitdeblur_jax.evaluation.statistics import mean_interval, paired_difference


@pytest.mark.parametrize("count", [2, 6, 76])
def test_the_interval_is_that_of_scipy(count):
    values = np.random.default_rng(count).normal(25, 3, count)
    low, high = mean_interval(values)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    spread = values.std() / np.sqrt(count)
    np.testing.assert_allclose([low, high], theirs, atol=0.15 * spread)
    assert low <= values.mean() <= high


def test_the_interval_is_the_same_each_time():
    values = np.random.default_rng(0).normal(size=20)
    assert mean_interval(values) == mean_interval(values)
    shifted = mean_interval(values + 100)
    np.testing.assert_allclose(np.subtract(shifted, 100), mean_interval(values), atol=1e-9)


@pytest.mark.parametrize("values", [[], [3.0], [1.0, np.inf], [np.nan, 1.0, 2.0]])
def test_no_interval_can_be_had(values):
    assert mean_interval(np.array(values)) is None


def test_equal_values_have_an_interval_of_no_width():
    np.testing.assert_allclose(mean_interval(np.full(5, 7.25)), 7.25)


def exact_p(differences):
    """Two-sided p of the signed-rank test: of all signs, how many are as extreme."""
    ranks = scipy.stats.rankdata(np.abs(differences))
    signs = np.array(list(itertools.product((0, 1), repeat=len(ranks))))
    sums, observed = signs @ ranks, ranks[differences > 0].sum()
    extreme = min((sums <= observed).mean(), (sums >= observed).mean())
    return min(1, 2 * extreme)


@pytest.mark.parametrize("seed", range(3))
def test_the_test_counts_signs(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0.4, 1, 9), rng.normal(0, 1, 9)
    found = paired_difference(first, second)
    assert found.mean == pytest.approx(first.mean() - second.mean())
    assert found.interval == mean_interval(first - second)
    assert found.p_value == pytest.approx(exact_p(first - second))
    turned = paired_difference(second, first)
    assert turned.mean == pytest.approx(-found.mean)
    assert turned.p_value == pytest.approx(found.p_value)


def test_six_gains_are_the_fewest_that_can_tell():
    gains = np.arange(1.0, 7)
    assert paired_difference(gains, np.zeros(6)).p_value == pytest.approx(2 / 2**6)
    assert paired_difference(gains[:5], np.zeros(5)).p_value is None
    assert paired_difference(np.append(gains[:5], 0), np.zeros(6)).p_value is None


def test_identical_methods_differ_by_nothing():
    values = np.random.default_rng(0).normal(size=8)
    assert paired_difference(values, values) == (0, (0, 0), None)


def test_equal_gains_are_no_trouble():
    found = paired_difference(np.array([1.0, 1, 1, 1, 1, 1, 0, -1]), np.zeros(8))
    assert 0 < found.p_value < 1


def test_what_is_infinite_is_not_compared():
    assert paired_difference(np.array([1.0, np.inf]), np.array([1.0, np.inf])) is None
    assert paired_difference(np.array([]), np.array([])) is None
