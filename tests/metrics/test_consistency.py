import numpy as np
import planted
import pytest
from planted import DEAD, READ, UNUSED, Truth, value
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.svm import SVC

from coinbench.metrics.consistency import Consistency, select
from coinbench.metrics.pair_svm import choose_cost, folds, permuted_labels, probe, true_labels
from coinbench.rng import Rng

COSTS = (0.01, 0.1, 1.0, 5.0)
BLIND = 5
"""Used by g and decoded, but not seen by f."""


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


@pytest.fixture(scope="module")
def measured(problem):
    coin = planted.Planted(problem.classifier)
    return planted.measure(Consistency, coin, problem, planted.config(permutations=20))


def test_classes_are_added_until_there_are_enough_images():
    relevance = np.array([0.1, 0.9, 0.5, 0.0])
    predicted = np.array([0, 1, 1, 2, 2, 3, 3])
    pooled = np.array([9.0, 1.0, 2.0, 5.0, 4.0, 9.0, 9.0])
    assert select(relevance, predicted, pooled, 2).tolist() == [2, 1]
    assert select(relevance, predicted, pooled, 3).tolist() == [3, 4, 2]
    assert select(relevance, predicted, pooled, 5).tolist() == [0, 3, 4, 2, 1]


def test_only_positive_relevance_counts_and_ties_go_by_index():
    predicted = np.array([0, 1, 1, 1])
    assert select(np.array([-0.1, 0.0]), predicted, np.ones(4), 1).tolist() == []
    assert select(np.array([-0.1, 0.2]), predicted, np.ones(4), 9).tolist() == [1, 2, 3]
    assert select(np.array([-0.1, 0.2]), predicted, np.ones(4), 2).tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["pairs", "paper"])
@pytest.mark.parametrize("shift", [0.05, 0.2, 0.5])
def test_the_svm_agrees_with_a_grid_search(kind, shift):
    dice = np.random.default_rng(int(100 * shift))
    n, direction = 30, dice.normal(size=16)
    base, fresh = dice.normal(size=(2, n, 16)) + 1
    train = np.concatenate([base + shift * direction, base + 0.1 * dice.normal(size=base.shape)])
    test = np.concatenate([fresh + shift * direction, fresh])
    fold, labels = folds(n, kind, Rng(1)), true_labels(n)
    search = GridSearchCV(SVC(kernel="linear"), {"C": COSTS}, cv=PredefinedSplit(fold))
    search.fit(train, labels)
    gram = train @ train.T
    cost = choose_cost(gram, labels, fold, COSTS)
    assert cost == search.best_params_["C"]
    assert probe(gram, test @ train.T, labels, cost) == search.score(test, labels)


def test_folds_keep_pairs_together_or_do_not():
    pairs, paper = (folds(23, kind, Rng(0)).reshape(2, 23) for kind in ("pairs", "paper"))
    assert (pairs[0] == pairs[1]).all()
    assert (paper[0] != paper[1]).any()
    for fold in (*pairs, *paper):
        assert np.ptp(np.bincount(fold, minlength=5)) <= 1


def test_a_permutation_favours_neither_side():
    draws = np.array([permuted_labels(11, Rng(0).child(d)) for d in range(400)])
    assert (draws.sum(1) == 11).all()
    np.testing.assert_allclose(draws.mean(0), 0.5, atol=0.12)
    # Plain permutations: the share of x⁺ called positive varies from draw to draw.
    assert len(set(draws[:, :11].sum(1))) > 4


def test_the_planted_model_scores_what_it_must(measured):
    records, scores = measured
    for lam in ("lambda=2", "lambda=3"):
        found = {k: value(scores, "consistency", params=lam, subject=f"concept:{k}") for k in range(planted.K)}
        assert found == {**dict.fromkeys(READ, 1.0), BLIND: 0.5, UNUSED: 0.5, DEAD: 0.5}
        assert value(scores, "consistency", params=lam) == np.mean(list(found.values()))
    assert set(records["concept"][records["dead"]]) == {UNUSED, DEAD}
    assert value(scores, "dead_concepts") == 2 / planted.K


def shown(truth, relevance, k, count):
    """Return the images that show concept k, written out from design 8.3."""
    rows, seen = [], 0
    for c in sorted(range(planted.Y), key=lambda c: -relevance[c]):
        if relevance[c] > 0 and seen < count:
            rows += list(np.flatnonzero(truth.predicted == c))
            seen = len(rows)
    pooled = truth.phi[:, k].max(1)
    return sorted(rows, key=lambda row: -pooled[row])[:count]


def test_the_shift_is_that_of_the_edit(problem, measured):
    _, scores = measured
    train, test = Truth.of(problem.train), Truth.of(problem.test)
    relevance = np.array([train.relevance[train.predicted == c].mean(0) for c in range(planted.Y)])
    for lam in (2, 3):
        shifts = []
        for k in range(planted.K):
            rows = shown(test, relevance[:, k], k, 12)
            if len(rows) < 10 or k == DEAD:
                shifts.append(0.0)
                continue
            peak = test.phi[rows, k].max()
            ends = []
            for level in (lam * peak, 0.0):
                phi = test.phi[rows].copy()
                phi[:, k] = level
                flat = phi.reshape(len(rows), -1) @ planted.basis().reshape(64, -1).T
                images = flat + test.support[rows] * planted.support_direction()
                ends.append(test.embedding(images).mean(0))
            shifts.append(np.linalg.norm(ends[0] - ends[1]) / np.linalg.norm((ends[0] + ends[1]) / 2))
        found = value(scores, "consistency_shift", params=f"lambda={lam}")
        assert found == pytest.approx(np.mean(shifts), abs=1e-6)
        assert found > 0.1


def test_permuted_labels_give_chance(measured):
    _, scores = measured
    for lam in ("lambda=2", "lambda=3"):
        assert value(scores, "consistency", "permuted", params=lam) == pytest.approx(0.5, abs=0.05)


def test_the_untrained_control_passes_with_a_shift_that_gives_it_away(measured):
    _, scores = measured
    params = {"params": "lambda=2"}
    assert value(scores, "consistency", "untrained", **params) == value(scores, "consistency", **params)
    ratio = value(scores, "consistency_shift", "untrained", **params)
    assert 0 < ratio < 0.01 * value(scores, "consistency_shift", **params)


def test_a_constant_decoder_is_at_chance(problem):
    coin = planted.Constant(problem.classifier)
    records, scores = planted.measure(Consistency, coin, problem, planted.config(lambdas=(2.0,)))
    assert (records["score"][records["arm"] != "untrained"] == 0.5).all()
    assert value(scores, "consistency_shift") == 0
    assert value(scores, "consistency", "untrained") > 0.5


def test_fewer_than_ten_images_make_a_concept_dead():
    given = planted.problem(test=9)
    coin = planted.Planted(given.classifier)
    records, scores = planted.measure(Consistency, coin, given, planted.config())
    assert records["dead"].all()
    assert value(scores, "dead_concepts") == 1
    assert value(scores, "consistency", params="lambda=2") == 0.5


def test_the_limit_of_the_test_split_holds_for_the_control_too(problem):
    coin = planted.Planted(problem.classifier)
    few = planted.config(lambdas=(2.0,), batch=30)
    kept, _ = planted.measure(
        Consistency,
        coin,
        problem,
        few,
        arrange=lambda batches: [b for b in batches if b.index[0] < 4000 or b.index[-1] < 5060],
        untrained=lambda: planted.Planted(problem.classifier),
    )
    score = {arm: kept["shift"][kept["arm"] == arm] for arm in ("method", "untrained")}
    np.testing.assert_array_equal(score["method"], score["untrained"])
