"""Tests between methods: their errors against closed forms, and how often they cry wolf on planted random effects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from jaxtyping import Float

from coinbench.inference import Difference, Measured, difference, holm, seed_interval
from coinbench.reports.verdicts import judge
from coinbench.results import Resamples
from coinbench.rng import Rng
from coinbench.statistics import bootstrap, mean, resamples

IMAGES, COUNT = 120, 400


def weights(n: int = IMAGES, count: int = COUNT) -> Float[np.ndarray, "count n"]:
    """The resamples of `bootstrap` as shares of each image: thousands of methods are resampled in one product."""
    rows = resamples(n, count, Rng(0).child("bootstrap"))
    return np.stack([np.bincount(row, minlength=n) for row in rows]) / n


def measured(scores: Float[np.ndarray, "S n"], shares: np.ndarray, over: str = "images") -> list[Measured]:
    """The number of each seed, from its score on each image."""
    draws = scores @ shares.T
    return [
        Measured(value=float(row.mean()), seed=seed, n=len(row), resamples=Resamples(draws[seed], over, 0))
        for seed, row in enumerate(scores)
    ]


def tested(a: Sequence[Measured], b: Sequence[Measured]) -> Difference:
    found = difference(a, b)
    assert isinstance(found, Difference), found
    return found


def test_resampling_in_one_product_is_the_bootstrap():
    scores = np.random.default_rng(0).random(IMAGES)
    np.testing.assert_allclose(weights() @ scores, bootstrap(scores, mean, Rng(0).child("bootstrap"), COUNT))


def test_one_seed_is_the_paired_t_test_over_images():
    dice = np.random.default_rng(0)
    a = dice.normal(size=(1, IMAGES))
    b = a + dice.normal(0.1, 0.3, size=(1, IMAGES))
    found, expected = tested(*(measured(x, weights(count=20_000)) for x in (a, b))), scipy.stats.ttest_rel(b[0], a[0])
    assert found.value == pytest.approx(float((b - a).mean()))
    assert found.p == pytest.approx(expected.pvalue, rel=0.1)
    ends = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=0.05)
    assert (found.over, found.seeds) == ("images", (0,))


def test_five_seeds_without_noise_of_images_are_the_paired_t_test_over_seeds():
    levels = np.random.default_rng(1).normal(size=(2, 5, 1))
    a, b = levels + np.random.default_rng(2).random(IMAGES)
    found, expected = tested(measured(a, weights()), measured(b, weights())), scipy.stats.ttest_rel(b[:, 0], a[:, 0])
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.degrees == pytest.approx(4)
    assert found.over == "images and 5 seeds"


@pytest.mark.parametrize(("of_seeds", "of_images", "of_both"), [(0.1, 0.0, 0.2), (0.03, 0.3, 0.3), (0.0, 0.5, 0.0)])
def test_equal_methods_with_random_seeds_are_called_different_as_rarely_as_stated(of_seeds, of_images, of_both):
    """Issue 6, done when 3: at most 7 % of 500 repetitions, five seeds each."""
    dice, shares = np.random.default_rng(5), weights()
    wrong = 0
    for _ in range(500):
        shape = (2, 5, IMAGES)
        scores = dice.normal(size=IMAGES) + of_seeds * dice.normal(size=(2, 5, 1))
        scores = scores + of_images * dice.normal(size=(2, 1, IMAGES)) + of_both * dice.normal(size=shape)
        wrong += tested(*(measured(one, shares) for one in scores)).p < 0.05
    assert wrong / 500 <= 0.07


def test_a_row_of_four_equal_methods_is_called_different_as_rarely_after_holm():
    dice, shares = np.random.default_rng(6), weights()
    wrong = 0
    for _ in range(200):
        scores = dice.normal(size=IMAGES) + 0.05 * dice.normal(size=(4, 5, 1)) + 0.4 * dice.normal(size=(4, 5, IMAGES))
        rows = [measured(one, shares) for one in scores]
        wrong += min(holm([tested(rows[i], rows[j]).p for i in range(4) for j in range(i)])) < 0.05
    # 200 repetitions: a binomial error of 1.5 points about 5 %.
    assert wrong / 200 <= 0.095


def test_the_smallest_detectable_difference_is_found_four_times_in_five():
    dice, shares = np.random.default_rng(7), weights()
    sizes, found = [], 0
    for _ in range(300):
        scores = 0.05 * dice.normal(size=(2, 5, 1)) + 0.2 * dice.normal(size=(2, 5, IMAGES))
        sizes.append(tested(*(measured(one, shares) for one in scores)).detectable())
    for _ in range(300):
        scores = 0.05 * dice.normal(size=(2, 5, 1)) + 0.2 * dice.normal(size=(2, 5, IMAGES))
        # The variance is estimated without bias, the deviation is not.
        scores[1] += np.mean(np.square(sizes)) ** 0.5
        found += tested(*(measured(one, shares) for one in scores)).p < 0.05
    assert 0.7 <= found / 300 <= 0.9


def test_concepts_of_two_sizes_are_compared_unpaired():
    dice = np.random.default_rng(8)
    a, b = dice.normal(0.9, 0.05, (1, 24)), dice.normal(0.8, 0.1, (1, 32))
    found = tested(*(measured(x, weights(x.shape[1], 20_000), "concepts") for x in (a, b)))
    p = float(np.asarray(scipy.stats.ttest_ind(b[0], a[0], equal_var=False))[1])
    assert found.error == pytest.approx((a.var(ddof=1) / 24 + b.var(ddof=1) / 32) ** 0.5, rel=0.05)
    # Fewer degrees of freedom than Welch's: those of the smaller of the two.
    assert p < found.p < 1e-4


def test_the_numbers_of_concepts_do_not_matter():
    """Concept k of one method is not concept k of another, though both may have K."""
    dice, shares = np.random.default_rng(9), weights(24, 2000)
    a = dice.normal(0.9, 0.05, (1, 24))
    b = a + dice.normal(0.02, 0.01, (1, 24))
    unpaired = (a.var(ddof=1) / 24 + b.var(ddof=1) / 24) ** 0.5
    for number in range(20):
        renumbered = b if number == 0 else dice.permuted(b, axis=1)
        found = tested(measured(a, shares, "concepts"), measured(renumbered, shares, "concepts"))
        # The resamples of the renumbered ones are others: 2,000 tell a deviation to 2 %.
        assert found.error == pytest.approx(unpaired, rel=0.08)
    classes = tested(measured(a, shares, "classes"), measured(b, shares, "classes"))
    assert classes.error == pytest.approx((b - a).std(ddof=1) / 24**0.5, rel=0.05), "classes are shared: pairs"


def test_concepts_are_nested_in_seeds():
    """Their deviation is in that between seeds already, and equal methods are rarely called different."""
    dice, shares = np.random.default_rng(10), weights(24)
    scores = dice.normal(size=(2, 5, 24)) + dice.normal(size=(2, 5, 1))
    found = tested(*(measured(one, shares, "concepts") for one in scores))
    means = scores.mean(2)
    assert found.error == pytest.approx((means[1] - means[0]).std(ddof=1) / 5**0.5, rel=1e-6)
    assert found.p == pytest.approx(scipy.stats.ttest_rel(*means[::-1]).pvalue, rel=1e-6)
    wrong = 0
    for _ in range(500):
        scores = 0.1 * dice.normal(size=(2, 5, 1)) + dice.normal(size=(2, 5, 24))
        wrong += tested(*(measured(one, shares, "concepts") for one in scores)).p < 0.05
    assert wrong / 500 <= 0.07


def test_where_nothing_moves_in_any_resample_no_error_is_known():
    a, b = measured(np.ones((1, 60)), weights(60)), measured(np.ones((1, 60)), weights(60))
    found = tested(a, b)
    assert (found.value, found.error, found.p) == (0, 0, 1)
    assert np.isnan([found.low, found.high, found.detectable(), found.detectable(6)]).all()
    apart = tested(a, measured(np.zeros((1, 60)), weights(60)))
    assert (apart.value, apart.p) == (-1, pytest.approx(2.0**-59))
    assert np.isnan(apart.detectable())


def test_a_row_tells_the_size_of_the_pairs_whose_error_is_known():
    full, other = measured(np.ones((1, 60)), weights(60)), np.random.default_rng(0).random((1, 60))
    assert np.isnan(judge({0: full, 1: full}).detectable or 0.0)
    mixed = judge({0: full, 1: full, 2: measured(other, weights(60))}).detectable
    assert mixed == pytest.approx(tested(full, measured(other, weights(60))).detectable(3))


def test_what_cannot_be_compared_says_why():
    a = measured(np.random.default_rng(0).random((2, IMAGES)), weights())
    fewer = measured(np.random.default_rng(0).random((2, 50)), weights(50))
    assert difference(a, [Measured(value=0.0, seed=7, n=9, resamples=None)]) == "no seed in common"
    assert difference(a, [Measured(value=0.0, seed=1, n=9, resamples=None)]) == "no resamples stored"
    void = Resamples(np.full(COUNT, np.nan), "images", 0)
    assert difference(a, [Measured(value=0.0, seed=1, n=IMAGES, resamples=void)]) == "resamples without a number"
    assert difference(a, fewer) == "other images were drawn"
    assert difference(a, [Measured(value=0.0, seed=1, n=1, resamples=a[1].resamples)]) == "a single sample"


def test_equal_numbers_and_constant_differences():
    a = measured(np.random.default_rng(0).random((1, IMAGES)), weights())
    assert (tested(a, a).p, tested(a, a).value) == (1.0, 0.0)
    few = weights(4)
    scores = np.array([[1.0, 2.0, 3.0, 4.0]])
    # Four classes that all rise by 1: four equal signs have a chance of 1 in 8.
    assert tested(measured(scores, few), measured(scores + 1, few)).p == 0.125
    nearly = tested(measured(scores, few), measured(scores * (1 + 1e-9), few))
    assert nearly.p == 1.0, "rounding is no difference"


def test_holm_is_that_of_the_definition_and_keeps_the_order():
    p = np.random.default_rng(0).random(7) ** 3
    found = np.array(holm(list(p)))
    order = np.argsort(p)
    by_hand = [max((7 - j) * p[order[j]] for j in range(i + 1)) for i in range(7)]
    np.testing.assert_allclose(found[order], np.minimum(by_hand, 1.0))
    assert holm([]) == []


def test_the_interval_over_seeds_is_students():
    values = np.random.default_rng(0).normal(size=6).tolist()
    found = seed_interval(values)
    assert found == pytest.approx(scipy.stats.t.interval(0.95, 5, np.mean(values), scipy.stats.sem(values)))
    assert seed_interval(values[:4]) is None
