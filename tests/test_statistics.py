import numpy as np
import planted
import pytest
import scipy.stats

from coinbench.metric import MetricSpec
from coinbench.rng import Rng
from coinbench.statistics import bootstrap, mean, percentiles, resamples, summarise

SPEC = MetricSpec(name="m", version=1, unit="", bounds=(0.0, 1.0), higher_is_better=None, source="s", protocol="p")


def test_the_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(0).exponential(size=200)
    low, high = percentiles(bootstrap(values, mean, Rng(0), 5000))
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    spread = values.std() / len(values) ** 0.5
    assert low == pytest.approx(expected.low, abs=0.1 * spread)
    assert high == pytest.approx(expected.high, abs=0.1 * spread)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    dice = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        draws = bootstrap(dice.normal(size=50), mean, Rng(trial), 200)
        low, high = percentiles(draws)
        covered += low <= 0 <= high
    # Binomial error of 400 trials: 1.1 points; the percentile interval is a little short at n = 50.
    assert 0.90 <= covered / 400 <= 0.98


def test_draws_depend_on_the_source_and_on_n_alone():
    rows = resamples(9, 120, Rng(0).child("a"))
    assert rows.shape == (120, 9)
    assert rows.min() == 0
    assert rows.max() == 8
    np.testing.assert_array_equal(rows[:70], resamples(9, 70, Rng(0).child("a")))
    assert (rows != resamples(9, 120, Rng(0).child("b"))).any()


def test_arms_of_equal_n_are_resampled_alike():
    a, b = np.random.default_rng(0).random((2, 30))
    paired = bootstrap(a, mean, Rng(0), 60) - bootstrap(b, mean, Rng(0), 60)
    np.testing.assert_allclose(paired, bootstrap(a - b, mean, Rng(0), 60), atol=1e-15)


def test_what_belongs_to_a_sample_is_resampled_with_it():
    values = np.arange(12.0)[:, None] + np.array([0.0, 100.0])
    np.testing.assert_allclose(bootstrap(values, mean, Rng(0), 60), bootstrap(np.arange(12.0), mean, Rng(0), 60) + 50)


def test_sums_are_float64():
    values = np.full(20_000, 1.0, dtype=np.float32) * np.float32(0.1)
    assert summarise(SPEC, values, planted.config()).value == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_a_constant_has_an_interval_of_no_width():
    row = summarise(SPEC, np.full(5, 0.5), planted.config(), arm="random", params="tau=0.1")
    assert (row.value, row.low, row.high, row.n) == (0.5, 0.5, 0.5, 5)
    assert (row.metric, row.arm, row.params) == ("m", "random", "tau=0.1")
