import numpy as np
import planted
import pytest
from planted import Truth, probability, value
from sklearn.metrics import accuracy_score

from coinbench.metrics.accuracy import Accuracy, chance_agreement, hits, majority


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


@pytest.fixture(scope="module")
def scores(problem):
    return planted.measure(Accuracy, planted.Planted(problem.classifier), problem, planted.config())[1]


def test_accuracy_agrees_with_scikit_learn():
    a, b = np.random.default_rng(0).integers(0, 3, (2, 100))
    assert hits(a, b).mean() == accuracy_score(b, a)


def test_chance_agreement_is_the_mean_over_all_pairings():
    a, b = np.random.default_rng(0).integers(0, 3, (2, 40))
    pairings = [accuracy_score(np.roll(a, shift), b) for shift in range(40)]
    assert chance_agreement(a, b) == pytest.approx(np.mean(pairings), rel=1e-12)


def test_majority_is_what_no_constant_prediction_beats():
    labels = np.random.default_rng(0).integers(0, 5, 57)
    best = max(accuracy_score(labels, np.full(57, c)) for c in range(5))
    assert hits(np.full(57, majority(labels)), labels).mean() == best


def test_the_planted_model_scores_what_it_must(problem, scores):
    truth = Truth.of(problem.test)
    f = ((truth.embedding(truth.x) - 1) @ planted.head()[list(planted.READ)]).argmax(1)
    again = truth.without(np.zeros((len(f), planted.K), dtype=bool)).logits
    expected = {
        "accuracy": accuracy_score(truth.labels, truth.predicted),
        "accuracy_f": accuracy_score(truth.labels, f),
        "agreement": accuracy_score(f, truth.predicted),
        "accuracy_reconstruction": accuracy_score(truth.labels, again.argmax(1)),
        "probability_reconstruction": probability(again, truth.predicted).mean(),
    }
    assert {name: value(scores, name) for name in expected} == pytest.approx(expected, abs=1e-6)
    assert 0.5 < expected["accuracy"] < 1
    assert expected["agreement"] < 1


def test_chance_arms(problem, scores):
    labels = problem.test.labels
    assert value(scores, "accuracy", "chance") == np.bincount(labels).max() / len(labels)
    truth = Truth.of(problem.test)
    f = ((truth.embedding(truth.x) - 1) @ planted.head()[list(planted.READ)]).argmax(1)
    expected = sum((f == c).mean() * (truth.predicted == c).mean() for c in range(planted.Y))
    assert value(scores, "agreement", "chance") == pytest.approx(expected, rel=1e-12)
    assert expected < 0.5 * value(scores, "agreement")


def test_nothing_is_read_from_a_constant_decoder(problem):
    coin = planted.Constant(problem.classifier)
    scores = planted.measure(Accuracy, coin, problem, planted.config())[1]
    assert value(scores, "probability_reconstruction") == 1 / planted.Y
    assert value(scores, "accuracy_reconstruction") <= value(scores, "accuracy", "chance")


def test_a_classifier_of_its_own_has_rows_of_its_own(problem, scores):
    assert not {"accuracy_own_f", "agreement_own_f"} & {score.metric for score in scores}
    own = planted.PlantedClassifier()
    own.weights.neg_()
    found = planted.measure(Accuracy, planted.Planted(own), problem, planted.config())[1]
    truth = Truth.of(problem.test)
    f = ((truth.embedding(truth.x) - 1) @ -planted.head()[list(planted.READ)]).argmax(1)
    assert value(found, "accuracy_own_f") == accuracy_score(truth.labels, f)
    assert value(found, "agreement_own_f") == accuracy_score(f, truth.predicted)
    assert value(found, "accuracy_own_f", "chance") == value(found, "accuracy", "chance")
    # The shared f stays what it was.
    assert value(found, "accuracy_f") == value(scores, "accuracy_f") != value(found, "accuracy_own_f")
