import numpy as np
import planted
import pytest
from planted import Truth, value

from coinbench.metrics.sparsity import Sparsity


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


@pytest.fixture(scope="module")
def measured(problem):
    coin = planted.Planted(problem.classifier)
    return planted.measure(Sparsity, coin, problem, planted.config(permutations=40))


def test_the_planted_model_scores_what_it_must(problem, measured):
    truth, (records, scores) = Truth.of(problem.train), measured
    table = np.array([truth.relevance[truth.predicted == c].mean(0) for c in range(planted.Y)])
    found = records["relevance"][records["arm"] == "method"]
    np.testing.assert_allclose(found, table, atol=1e-6)
    for t in (0.7, 0.5, 0.2):
        expected = (table > t).sum() / planted.Y
        assert value(scores, "sparsity", params=f"t={t:g}") == expected
    assert value(scores, "sparsity", params="t=0.7") >= 1


def test_the_null_counts_what_is_relevant_whatever_the_class(problem, measured):
    truth, (records, scores) = Truth.of(problem.train), measured
    overall = truth.relevance.mean(0)
    null = records["relevance"][records["arm"] == "permuted"].reshape(-1, planted.Y, planted.K)
    # Classes keep their sizes, so each draw has the overall mean exactly.
    sizes = np.bincount(truth.predicted, minlength=planted.Y) / len(truth.predicted)
    np.testing.assert_allclose(np.einsum("c,dck->dk", sizes, null), np.tile(overall, (40, 1)), atol=1e-6)
    np.testing.assert_allclose(null.mean((0, 1)), overall, atol=0.03)
    assert value(scores, "sparsity", "permuted", params="t=0.7") == (overall > 0.7).sum()


def test_a_class_never_predicted_counts_with_no_concept(problem):
    class Blind(planted.Planted):
        def predict(self, concepts):
            logits = super().predict(concepts)
            logits[:, 3] = -100 - logits[:, 3].detach()
            return logits

    records, scores = planted.measure(Sparsity, Blind(problem.classifier), problem, planted.config())
    method = records["relevance"][records["arm"] == "method"]
    assert (method[3] == 0).all()
    assert value(scores, "sparsity", params="t=0.2") == (method[:3] > 0.2).sum() / 4
