import numpy as np
import planted
import pytest
import scipy.linalg
from interval_coverage import coverage, frechet_populations
from planted import Truth, value

from coinbench.metrics.frechet import (
    FrechetDistance,
    Gaussian,
    compact,
    expectation,
    frechet,
    influence,
    statistics,
)
from coinbench.rng import Rng


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


@pytest.fixture(scope="module")
def measured(problem):
    coin = planted.Planted(problem.classifier)
    return planted.measure(FrechetDistance, coin, problem, planted.config())


def reference(a, b):
    """Return the distance by its textbook formula."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(ca @ cb)
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * np.real(root))


def test_it_agrees_with_the_matrix_root_of_scipy():
    dice = np.random.default_rng(0)
    a = dice.normal(size=(300, 20)) @ dice.normal(size=(20, 20))
    b = dice.normal(size=(200, 20)) @ dice.normal(size=(20, 20)) + 0.3
    assert frechet(statistics(a), statistics(b)) == pytest.approx(reference(a, b), rel=1e-9)


def test_it_holds_with_fewer_images_than_features():
    dice = np.random.default_rng(0)
    a, b = dice.normal(size=(30, 64)), dice.normal(size=(25, 64)) * 1.5 + 1
    # tr (C_a C_b)^½ is the nuclear norm of the product of the centred data.
    ca, cb = a - a.mean(0), b - b.mean(0)
    nuclear = np.linalg.svd(ca @ cb.T, compute_uv=False).sum() / (29 * 24) ** 0.5
    expected = np.square(a.mean(0) - b.mean(0)).sum() - 2 * nuclear
    expected += np.square(ca).sum() / 29 + np.square(cb).sum() / 24
    assert frechet(statistics(a), statistics(b)) == pytest.approx(expected, rel=1e-6)


def test_equal_sets_are_nothing_apart_and_a_shift_counts_squared():
    a = np.random.default_rng(0).normal(size=(50, 8))
    assert frechet(statistics(a), statistics(a[::-1])) == pytest.approx(0, abs=1e-9)
    shift = np.arange(8.0)
    assert frechet(statistics(a), statistics(a + shift)) == pytest.approx(140, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, 15), (12, 30)])
def test_the_influence_of_pairs_is_the_derivative_by_their_weights(n, d):
    dice = np.random.default_rng(0)
    a = dice.normal(size=(n, d))
    b = 0.5 * a + 0.3 * dice.normal(size=(n, d)) + 0.2
    a, b = compact(a, b)

    def distance(weights):
        means = [weights @ x / n for x in (a, b)]
        spreads = [((x - m).T * weights) @ (x - m) / n for x, m in zip((a, b), means, strict=True)]
        return frechet(*map(Gaussian, means, spreads))

    way = dice.normal(size=n)
    way -= way.mean()
    slope = (distance(1 + 1e-4 * way) - distance(1 - 1e-4 * way)) / 2e-4
    assert slope == pytest.approx(way @ influence(a, b) / n, rel=1e-4)


@pytest.mark.parametrize("name", ["FD, near", "FD, far"])
def test_the_interval_covers_what_new_samples_of_n_show_on_average(name):
    """Issue 6, done when 3, at n = 60: of that n, not of infinitely many images."""
    pairs = next(one for one in frechet_populations() if one.name.startswith(name))
    assert 0.92 <= coverage(pairs, 60, repetitions=400, resamples=100) <= 0.97


def test_resamples_would_be_biased_and_vary_more_than_new_samples():
    """Why the interval is no bootstrap: half as many images as features."""
    dice = np.random.default_rng(0)
    a = dice.normal(size=(200, 30, 60))
    b = a + 0.3 * dice.normal(size=a.shape)
    fresh = np.array([frechet(statistics(x), statistics(y)) for x, y in zip(a, b, strict=True)])
    rows = dice.integers(0, 30, (200, 30))
    naive = np.array([frechet(statistics(a[0, row]), statistics(b[0, row])) for row in rows])
    assert naive.mean() > fresh.mean() + 3 * fresh.std()
    assert naive.std() > 1.3 * fresh.std()
    told = np.mean([influence(x, y).std(ddof=1) for x, y in zip(a[:30], b[:30], strict=True)]) / 30**0.5
    assert told == pytest.approx(fresh.std(), rel=0.25)


def test_the_draws_of_a_method_have_the_deviation_of_its_interval(measured):
    row = next(s for s in measured[1] if (s.metric, s.arm) == ("fd_f", "method"))
    assert row.resamples is not None
    assert row.low <= row.value <= row.high
    assert row.resamples.draws.std() == pytest.approx((row.high - row.value) / 1.987, rel=0.1), "t of 90 images"


@pytest.mark.parametrize(("n", "d"), [(60, 4), (200, 12)])
def test_the_expectation_is_what_two_fresh_samples_show(n, d):
    dice = np.random.default_rng(n)
    axes = np.eye(d) + 0.3 * dice.normal(size=(d, d))
    fresh = [frechet(*(statistics(dice.normal(size=(n, d)) @ axes) for _ in range(2))) for _ in range(200)]
    told = [expectation(dice.normal(size=(n, d)) @ axes, Rng(i), 20) for i in range(10)]
    # Of a sample the covariance is known to √(2 / n) a feature: 14 % of the level at n = 60, less in the mean of ten.
    assert np.mean([level for level, _ in told]) == pytest.approx(np.mean(fresh), rel=0.2)
    low, high = np.mean([ends for _, ends in told], axis=0)
    assert 0.85 <= np.mean((low <= np.array(fresh)) & (np.array(fresh) <= high)) <= 1.0


def test_the_planted_model_scores_what_it_must(problem, measured):
    truth, (_, scores) = Truth.of(problem.test), measured
    real = truth.embedding(truth.x)
    expected = reference(real, truth.embedding(truth.reconstruction))
    assert value(scores, "fd_f") == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert value(scores, "fd_f") > 0


def test_the_null_is_the_spread_of_the_images_about_the_mean_image(problem, measured):
    truth, (_, scores) = Truth.of(problem.test), measured
    real = truth.embedding(truth.x)
    mean = truth.embedding(Truth.of(problem.train).x.mean(0, keepdims=True))[0]
    expected = np.square(real.mean(0) - mean).sum() + np.trace(np.cov(real, rowvar=False))
    assert value(scores, "fd_f", "mean image") == pytest.approx(expected, rel=1e-6)
    assert value(scores, "fd_f") < value(scores, "fd_f", "mean image")


def test_the_floor_has_as_many_training_images_as_there_are_test_images(problem, measured):
    records, scores = measured
    floor = records["arm"] == "train images"
    assert floor.sum() == len(problem.test)
    index = records["index"][floor]
    assert len(set(index)) == len(index)
    truth = Truth.of(problem.train)
    rows = np.searchsorted(problem.train.index, index)
    np.testing.assert_allclose(records["f"][floor], truth.embedding(truth.x)[rows], atol=1e-6)
    test = Truth.of(problem.test)
    expected = reference(test.embedding(test.x), truth.embedding(truth.x)[rows])
    assert value(scores, "fd_f", "train images") == pytest.approx(expected, rel=1e-5)


def test_fewer_training_images_than_test_images_are_all_used():
    given = planted.problem(train=30)
    records, _ = planted.measure(FrechetDistance, planted.Planted(given.classifier), given, planted.config())
    assert (records["arm"] == "train images").sum() == 30
