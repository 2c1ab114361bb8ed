"""Metrics on the true parts: an oracle scores 1, concepts without meaning what chance is said to give."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from scipy.stats import entropy as entropy_of
from scipy.stats import pearsonr
from sklearn.metrics import mutual_info_score

from coinbench import check, registry
from coinbench.audit.entrants import Constant, Shuffled
from coinbench.audit.measure import Bench, Measured
from coinbench.audit.oracle import Oracle
from coinbench.cache import Cache
from coinbench.config import EvaluationConfig
from coinbench.conformance.tiny import make_truth_problem
from coinbench.errors import Unavailable, UsageError
from coinbench.metrics.part_alignment import PartAlignment, follows, importances, information
from coinbench.metrics.part_locality import shares
from coinbench.metrics.part_use import correlation, log_odds, part_effects
from coinbench.plan import Request, cells, resolve
from coinbench.problem import to_float
from coinbench.rng import Rng
from coinbench.truth import GroundTruth, changed, region

METRICS = ("part_alignment", "part_locality", "part_use")
NUMBERS = (
    *("part_information", "parts_followed", "part_disentanglement", "part_completeness", "part_informativeness"),
    *("part_locality", "part_use"),
)
SETTINGS = {"part_images": 160, "locality_images": 4, "use_images": 20, "permutations": 20, "bootstrap": 100}


@cache
def problem():
    return make_truth_problem(train=30, test=20)


@cache
def oracle() -> Oracle:
    return Oracle(problem())


@cache
def measured(kind: type) -> Measured:
    coin = oracle() if kind is Oracle else kind(oracle())
    config = EvaluationConfig.model_validate(SETTINGS)
    return Bench(problem(), METRICS, config, oracle, Cache(Path("unused"))).scores(coin)


def chance(name: str, found: Measured) -> float:
    return found.nulls()[name]["any part" if name == "part_locality" else "permuted"]


@pytest.mark.parametrize("name", NUMBERS)
def test_an_oracle_scores_one_and_no_meaning_scores_chance(name):
    known = measured(Oracle)
    assert not known.failures
    assert known.values()[name] >= 0.99
    assert abs(chance(name, known)) < (0.35 if name == "part_locality" else 0.1)
    for kind in (Shuffled, Constant):
        found = measured(kind)
        assert found.values()[name] == pytest.approx(chance(name, found), abs=0.06), kind.__name__


COUNTS = (3, 4, 3, 4)


def scored(pooled, factors, **settings):
    """Return the numbers about the whole of concepts and parts, by arm and name."""
    columns = {f"part:{p}": column for p, column in enumerate(factors.T)}
    config = EvaluationConfig.model_validate({"bootstrap": 100, "permutations": 20, **settings})
    rows = PartAlignment.score({"index": np.arange(len(pooled)), "pooled": pooled, **columns}, config)
    return {(row.arm, row.metric): row.value for row in rows if row.subject == "all"}


def noise(n, dice):
    return dice.uniform(size=(n, 24)), np.stack([dice.integers(0, count, n) for count in COUNTS], 1)


@pytest.mark.parametrize("dead", [0, 18, 23], ids=["all alive", "most dead", "one alive"])
def test_neither_noise_nor_dead_concepts_earn_anything(dead):
    pooled, factors = noise(200, np.random.default_rng(dead))
    pooled[:, 24 - dead :] = 0
    found = scored(pooled, factors)
    for name in NUMBERS[:5]:
        for arm in ("method", "permuted"):
            assert found[arm, name] == pytest.approx(0, abs=0.1), (arm, name)
    # What is taken off rises with what is dead.
    assert found["subtracted", "part_completeness"] > (0.0, 0.3, 0.99)[(0, 18, 23).index(dead)]


def test_dead_concepts_beside_true_ones_take_nothing_off():
    _, factors = noise(160, np.random.default_rng(0))
    true = np.concatenate([part[:, None] == np.arange(n) for part, n in zip(factors.T, COUNTS, strict=True)], 1)
    for dead in (0, 40):
        found = scored(np.concatenate([true, np.zeros((160, dead))], 1).astype(np.float64), factors)
        for name in NUMBERS[1:5]:
            assert found["method", name] == pytest.approx(1)
        assert found["method", "part_information"] == pytest.approx(14 / (14 + dead))


def test_the_control_of_followed_parts_is_measured():
    # Two permutations make a low bound, which others may well pass.
    loose, strict = (scored(*noise(200, np.random.default_rng(3)), permutations=n) for n in (2, 20))
    assert loose["permuted", "parts_followed"] > 0.05
    assert strict["permuted", "parts_followed"] < 0.02


def test_each_number_says_what_was_resampled():
    dice = np.random.default_rng(2)
    parts = {f"part:{name}": dice.integers(0, 3, 60) for name in "ab"}
    records = {"index": np.arange(60), "pooled": dice.random((60, 5)), **parts}
    scores = PartAlignment.score(records, EvaluationConfig(permutations=20, bootstrap=100))
    assert {score.metric: score.resamples.over for score in scores if score.resamples} == {
        "part_information": "concepts",
        "part_disentanglement": "concepts",
        "part_completeness": "values",
        "part_informativeness": "images",
    }


def test_information_is_that_of_scikit_learn():
    dice = np.random.default_rng(0)
    parts = dice.integers(0, 3, (80, 2))
    bins = np.stack([parts[:, 0], (parts[:, 0] + dice.integers(0, 2, 80)) % 3, dice.integers(0, 2, 80)], 1)
    found = information(bins, parts)

    def entropy(x):
        return mutual_info_score(x, x)

    for k in range(3):
        for p in range(2):
            least = min(entropy(bins[:, k]), entropy(parts[:, p]))
            assert found[k, p] == pytest.approx(mutual_info_score(bins[:, k], parts[:, p]) / least)


def test_importance_goes_to_the_concept_that_says_the_value():
    dice = np.random.default_rng(1)
    parts = dice.integers(0, 3, (300, 1))
    concepts = np.concatenate([parts == value for value in (2, 0, 1)], 1) * dice.uniform(1, 2, (300, 3))
    (found,), hits = importances(np.concatenate([concepts, dice.uniform(size=(300, 2))], 1), parts, seed=0)
    np.testing.assert_allclose(found[:, :3], np.eye(3)[[1, 2, 0]], atol=1e-9)
    assert hits.shape == (150, 1)
    assert hits.all()


def test_dci_is_that_of_its_definition_above_permuted_images():
    pooled, factors = noise(100, np.random.default_rng(5))
    pooled[:, 0] = factors[:, 0] + pooled[:, 0]
    pooled[:, 1] += 0.5 * (factors[:, 1] == 2)
    found = scored(pooled, factors)
    seed = Rng(0).child("forest").key % 2**31
    rows, hits = importances(pooled, factors, seed)
    shares = np.concatenate(rows) / np.concatenate(rows).sum(1, keepdims=True)
    weight = np.concatenate([np.full(n, 1 / n) for n in COUNTS])
    by_part = np.stack([part.sum(0) for part in rows], 1)
    raw = {
        "part_completeness": np.average(np.array([1 - entropy_of(row, base=24) for row in shares]), weights=weight),
        "part_disentanglement": np.average(
            np.array([1.0 - entropy_of(row, base=len(COUNTS)) if row.sum() else 0.0 for row in by_part]),
            weights=by_part.sum(1),
        ),
        "part_informativeness": np.mean(hits),
    }
    for name, v in raw.items():
        s = found["subtracted", name]
        assert found["method", name] == pytest.approx((v - s) / (1 - s)), name


def test_the_parts_followed_are_those_of_a_loop():
    dice = np.random.default_rng(2)
    found, chance = dice.uniform(0.2, 1, (6, 3)), dice.uniform(0, 0.3, (9, 6, 3))
    parts = []
    for k in range(6):
        largest = [max(draw[k]) for draw in chance]
        bound = np.mean(largest) + 6 * np.std(largest)
        parts.append(int(np.argmax(found[k])) if max(found[k]) > bound else -1)
    assert {-1} < {*parts}
    assert follows(found, chance).tolist() == parts


def test_locality_is_the_weighted_mean_of_the_masks():
    dice = np.random.default_rng(0)
    change, inside = dice.uniform(size=(3, 5, 4)), dice.uniform(size=(2, 3, 5, 4)) < 0.4
    for part, found in zip(inside, shares(change, inside), strict=True):
        assert found == pytest.approx(np.average(part, weights=change))


def test_log_odds_and_correlation_are_those_of_their_definitions():
    logits = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(1)
    torch.testing.assert_close(log_odds(logits), p.log() - (1 - p).log())
    a, b = np.random.default_rng(0).normal(size=(2, 3, 7))
    np.testing.assert_allclose(correlation(a, b), [np.asarray(pearsonr(x, y))[0] for x, y in zip(a, b, strict=True)])


def test_effects_are_those_of_the_redrawn_pictures():
    given = problem()
    index, truth = given.test.index[:3], given.truth
    assert truth is not None
    part, own = 6, truth.factors[index]
    found = part_effects(given, index, own, batch=2)
    odds = []
    for value in range(4):
        images = to_float(truth.images(index, given.size, changed(own, part, value)))
        odds.append(log_odds(given.classifier(images).logits.double()).numpy())
    np.testing.assert_allclose(found[part], np.stack(odds, 1) - np.mean(odds, 0)[:, None], atol=1e-5)
    assert [e.shape for e in found] == [(3, len(values), 10) for values in truth.part_values]


def test_a_part_changes_nothing_outside_its_region():
    given = problem()
    truth, index = given.truth, given.test.index[:6]
    assert isinstance(truth, GroundTruth)
    own = truth.factors[index]
    for part, values in enumerate(truth.part_values):
        inside = region(truth, index, given.size, own, part)
        for value in range(-1, len(values)):
            other = truth.images(index, given.size, changed(own, part, value))
            moved = (other != truth.images(index, given.size)).any(3)
            assert not (moved & ~inside).any(), truth.part_names[part]
        assert inside.any((1, 2)).all()
        assert inside.mean() < 0.6


# The oracle


def test_the_oracle_reads_pixels_and_draws_them_again():
    given, coin = problem(), oracle()
    truth = given.truth
    assert truth is not None
    dice = np.random.default_rng(0)
    rows = dice.permutation(len(given.test))[:12]
    index = given.test.index[rows]
    factors = np.stack([dice.integers(-1, len(values), 12) for values in truth.part_values], 1)
    images = to_float(truth.images(index, given.size, factors))
    concepts = coin.encode(images)
    assert np.array_equal(concepts.pooled.numpy(), coin.indicators(factors))
    assert concepts.support is not None
    assert concepts.support[:, 0].tolist() == index.tolist()
    torch.testing.assert_close(coin.decode(concepts), images, rtol=0, atol=0)
    alone = coin.encode(images[3:4])
    assert torch.equal(alone.pooled, concepts.pooled[3:4])


def test_the_oracle_draws_a_neutral_part_at_zero_and_saturates_above_one():
    given, coin = problem(), oracle()
    truth = given.truth
    assert truth is not None
    index = given.test.index[:4]
    concepts = coin.encode(given.test.take(np.arange(4)).images)
    for part, start in ((0, 0), (6, sum(coin.counts[:6]))):
        factor = torch.ones(1, coin.n_concepts)
        factor[:, start : start + coin.counts[part]] = 0
        neutral = to_float(truth.images(index, given.size, changed(truth.factors[index], part, -1)))
        assert torch.equal(coin.decode(concepts.scale(factor)), neutral)
    assert torch.equal(coin.decode(concepts.scale(3.0)), coin.decode(concepts))


# Where there are no parts


def test_where_parts_are_not_known_the_metrics_do_not_apply(tmp_path):
    with pytest.raises(Unavailable, match="does not apply to planted, which cannot draw its images with other parts"):
        planted.measure(
            PartAlignment, planted.Planted(planted.PlantedClassifier()), planted.problem(), planted.config()
        )
    with pytest.raises(UsageError, match="--metrics part_use: does not apply to digits"):
        resolve(Request(methods="flint", datasets="digits", metrics="mse,part_use"))
    assert not {*METRICS} & {*resolve(Request(methods="flint", datasets="digits")).metrics}
    both = resolve(Request(methods="flint", datasets="digits,birds"))
    of = {planned.cell.dataset: planned.cell.metrics for planned in cells(both, Cache(tmp_path), tmp_path)}
    assert {*METRICS} <= {*of["birds"]}
    assert not {*METRICS} & {*of["digits"]}


@pytest.mark.parametrize("name", ["part_locality", "part_use"])
def test_the_laws_hold(name):
    report = check.check(check.find(name), (), None)
    assert report.passed, report.text()


def test_all_that_need_parts_are_tried_here():
    assert {name for name in registry.METRICS.names() if registry.METRICS.load(name).truth} == {*METRICS}
