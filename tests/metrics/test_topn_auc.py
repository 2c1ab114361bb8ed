"""Top-N accuracy and AUC-FF against the planted truth and scikit-learn."""

import numpy as np
import planted
import pytest
from planted import Truth, value
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, auc, top_k_accuracy_score

from coinbench.metrics.auc_ff import AreaUnderFaithfulness, area
from coinbench.metrics.topn import TopNAccuracy, ladder, top

SETTINGS = {"top_counts": (1, 2, 4), "add_counts": (1, 2, 4), "random_draws": 2}


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


@pytest.fixture(scope="module")
def truth(problem):
    return Truth.of(problem.test)


def only(truth, count):
    """The truth of images with their most active concepts alone."""
    order = np.argsort(-truth.phi.max(2), axis=1, kind="stable")[:, :count]
    kept = np.zeros(truth.phi.shape[:2], dtype=bool)
    np.put_along_axis(kept, order, True, axis=1)
    return truth.without(~kept)


def test_the_most_active_are_those_that_scikit_learn_counts():
    dice = np.random.default_rng(0)
    scores, labels = dice.random((50, 7)), np.arange(50) % 7
    for count in range(1, 7):
        mask = top(scores, count)
        assert (mask.sum(1) == count).all()
        expected = top_k_accuracy_score(labels, scores, k=count, labels=np.arange(7))
        assert mask[np.arange(50), labels].mean() == expected


def test_the_ladder_ends_at_all_concepts():
    assert ladder((4, 8, 16), 8) == [4, 8]
    assert ladder((16, 4), 100) == [4, 16, 100]
    assert ladder((4,), 2) == [2]


def test_top_n_accuracy_is_that_of_the_planted_model(problem, truth):
    coin = planted.Planted(problem.classifier)
    scores = planted.measure(TopNAccuracy, coin, problem, planted.config(**SETTINGS))[1]
    for count in (1, 2, 4, planted.K):
        expected = accuracy_score(truth.labels, only(truth, count).logits.argmax(1))
        assert value(scores, "topn_accuracy", params=f"N={count}") == expected
    everything = accuracy_score(truth.labels, truth.predicted)
    for arm in ("method", "random"):
        assert value(scores, "topn_accuracy", arm, params=f"N={planted.K}") == everything
    assert value(scores, "topn_accuracy", params="N=1") > value(scores, "topn_accuracy", "random", params="N=1") + 0.2


def test_the_area_is_that_of_scikit_learn():
    dice = np.random.default_rng(1)
    counts = [0, 2, 3, 8, 20]
    hits = dice.random((30, 5)) < 0.5
    expected = auc(np.array(counts) / 20, hits.mean(0))
    assert area(hits, counts).mean() == pytest.approx(expected, rel=1e-12)
    assert area(np.ones((1, 5)), counts) == pytest.approx(1.0)


def test_auc_ff_is_that_of_the_planted_model(problem, truth):
    coin = planted.Planted(problem.classifier)
    scores = planted.measure(AreaUnderFaithfulness, coin, problem, planted.config(**SETTINGS))[1]
    counts, curve = (0, 1, 2, 4, planted.K), []
    for count in counts:
        expected = accuracy_score(truth.labels, only(truth, count).logits.argmax(1))
        curve.append(expected)
        assert value(scores, "auc_ff_curve", params=f"N={count}") == expected
    assert value(scores, "auc_ff") == pytest.approx(auc(np.array(counts) / planted.K, curve), rel=1e-9)
    # The ends are the same in any order; between them the most active concepts are ahead.
    for count in (0, planted.K):
        assert value(scores, "auc_ff_curve", "random", params=f"N={count}") == curve[counts.index(count)]
    assert value(scores, "auc_ff") > value(scores, "auc_ff", "random") + 0.1


def test_a_constant_decoder_stays_at_chance(problem, truth):
    coin = planted.Constant(problem.classifier)
    scores = planted.measure(AreaUnderFaithfulness, coin, problem, planted.config(**SETTINGS))[1]
    # A grey image has no concepts: g names class 0.
    share = (truth.labels == 0).mean()
    for arm in ("method", "random"):
        assert value(scores, "auc_ff", arm) == pytest.approx(share)


@pytest.mark.parametrize("hit", [True, False])
def test_where_all_are_right_or_all_wrong_no_share_is_certain(hit):
    records = {"arm": np.repeat(["method", "random"], 120), "n": np.tile(np.repeat([0, 8], 60), 2)}
    records |= {"index": np.tile(np.arange(60), 4), "hit": np.full(240, hit)}
    expected = binomtest(60 * hit, 60).proportion_ci(method="wilson")
    for row in AreaUnderFaithfulness.score(records, planted.config()):
        assert (row.low, row.high) == (pytest.approx(expected.low), pytest.approx(expected.high)), row


class Counting(planted.Planted):
    """Counts the images that it decodes."""

    decoded = 0

    def decode(self, concepts):
        self.decoded += len(concepts)
        return super().decode(concepts)


def test_images_that_are_known_are_not_decoded_again(problem, truth):
    coin = Counting(problem.classifier)
    few = planted.config(**SETTINGS, auc_ff_images=20)
    records, scores = planted.measure(AreaUnderFaithfulness, coin, problem, few)
    assert {s.n for s in scores} == {20}
    chosen = np.isin(problem.test.index, np.unique(records["index"]))
    active = (truth.phi.max(2) > 0)[chosen].sum(1)
    # x̃ of all images, none of nothing, and up to three of each order; where N reaches the active ones nothing.
    own = sum(int(active_n > n) for active_n in active for n in (1, 2, 4))
    assert coin.decoded <= len(problem.test) + 20 + 2 * own + 3 * 20
    assert coin.decoded >= len(problem.test) + 20 + own
