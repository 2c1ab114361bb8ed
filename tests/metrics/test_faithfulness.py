import numpy as np
import planted
import pytest
from planted import Truth, probability, value

from coinbench.metrics.faithfulness import Faithfulness, lowest
from coinbench.rng import Rng

TAUS = (0.1, 0.2, 0.4)


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


@pytest.fixture(scope="module")
def measured(problem):
    coin = planted.Planted(problem.classifier)
    return planted.measure(Faithfulness, coin, problem, planted.config(taus=TAUS))


def drop(truth, mask):
    nothing = np.zeros_like(mask)
    before, after = (probability(truth.without(m).logits, truth.predicted) for m in (nothing, mask))
    return np.where(mask.any(1), before - after, 0.0)


def test_the_planted_model_scores_what_it_must(problem, measured):
    truth, (records, scores) = Truth.of(problem.test), measured
    for tau in TAUS:
        mask = truth.relevance > tau
        expected = drop(truth, mask)
        here = (records["tau"] == tau) & (records["arm"] == "method")
        np.testing.assert_array_equal(records["index"][here], problem.test.index)
        np.testing.assert_array_equal(records["removed"][here], mask.sum(1))
        np.testing.assert_allclose(records["drop"][here], expected, atol=1e-6)
        params = f"tau={tau:g}"
        low, high = np.percentile(expected, (25, 75))
        assert value(scores, "faithfulness", params=params) == pytest.approx(np.median(expected), abs=1e-6)
        assert value(scores, "faithfulness_mean", params=params) == pytest.approx(expected.mean(), abs=1e-6)
        assert value(scores, "faithfulness_iqr", params=params) == pytest.approx(high - low, abs=1e-6)
        assert value(scores, "removed", params=params) == pytest.approx(mask.sum(1).mean())
        assert value(scores, "faithfulness", params=params) > 0.3


def chosen_at_random(problem, count, draw):
    order = Rng(0).child("evaluation").child("faithfulness", draw).uniform(problem.test.index, planted.K).argsort(1)
    mask = np.zeros((len(order), planted.K), dtype=bool)
    for row, n in enumerate(count):
        mask[row, order[row, :n]] = True
    return mask


def test_the_random_arm_removes_as_many_drawn_by_index_alone(problem, measured):
    truth, (records, scores) = Truth.of(problem.test), measured
    medians = []
    for draw in range(5):
        count = (truth.relevance > 0.1).sum(1)
        mask = chosen_at_random(problem, count, draw)
        here = (records["tau"] == 0.1) & (records["arm"] == "random") & (records["draw"] == draw)
        np.testing.assert_array_equal(records["removed"][here], count)
        np.testing.assert_allclose(records["drop"][here], drop(truth, mask), atol=1e-6)
        medians.append(np.median(drop(truth, mask)))
    found = value(scores, "faithfulness", "random", params="tau=0.1")
    assert found == pytest.approx(np.mean(medians), abs=1e-6)
    assert abs(found) < 0.01


class Counting(planted.Planted):
    """Counts the images that it decodes."""

    decoded = 0

    def decode(self, concepts):
        self.decoded += len(concepts)
        return super().decode(concepts)


def test_each_different_image_is_decoded_once_and_removing_zeros_is_no_difference(problem):
    coin, truth = Counting(problem.classifier), Truth.of(problem.test)
    planted.measure(Faithfulness, coin, problem, planted.config(taus=TAUS[:1], random_draws=2))
    relevant = truth.relevance > TAUS[0]
    masks = [relevant, *(chosen_at_random(problem, relevant.sum(1), draw) for draw in range(2))]
    edits = [
        {(row & active).tobytes() for row in rows} for *rows, active in zip(*masks, truth.phi.max(2) > 0, strict=True)
    ]
    different = sum(len(each - {bytes(planted.K)}) for each in edits)
    assert coin.decoded == len(edits) + different
    assert different < sum(mask.any(1).sum() for mask in masks) - 20


def test_a_random_choice_takes_every_concept_equally_often():
    index = np.arange(20_000)
    mask = lowest(Rng(0).uniform(index, 5), np.full(len(index), 2))
    assert (mask.sum(1) == 2).all()
    # Binomial error of 20 000 images: 0.0035.
    np.testing.assert_allclose(mask.mean(0), 0.4, atol=0.015)


def test_nothing_removed_is_exactly_nothing_lost(problem):
    coin = planted.Planted(problem.classifier)
    records, scores = planted.measure(Faithfulness, coin, problem, planted.config(taus=(1.0,)))
    assert (records["removed"] == 0).all()
    assert (records["drop"] == 0).all()
    assert value(scores, "faithfulness") == 0


def test_a_constant_decoder_loses_nothing(problem):
    coin = planted.Constant(problem.classifier)
    records, _ = planted.measure(Faithfulness, coin, problem, planted.config())
    assert (records["removed"][records["tau"] == 0.1] > 0).any()
    assert (records["drop"] == 0).all()


def test_only_the_images_chosen_by_index_count(problem):
    coin, few = planted.Planted(problem.classifier), planted.config(faithfulness_images=10, batch=4)
    records, scores = planted.measure(Faithfulness, coin, problem, few, arrange=lambda batches: batches[::-1])
    again, _ = planted.measure(Faithfulness, coin, problem, planted.config(faithfulness_images=10, batch=64))
    chosen = np.unique(records["index"])
    assert len(chosen) == 10
    assert {s.n for s in scores} == {10}
    np.testing.assert_array_equal(chosen, np.unique(again["index"]))
    assert not np.array_equal(chosen, problem.test.index[:10])
