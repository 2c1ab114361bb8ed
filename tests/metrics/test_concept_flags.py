"""Flags and stability against scikit-learn, numpy and all matchings; entrants whose concepts are none."""

import itertools
from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from planted import DEAD, Truth, value
from sklearn.metrics import roc_auc_score

from coinbench.concepts import Concepts
from coinbench.metrics.concept_flags import ConceptFlags, dead, duplicates, separability
from coinbench.metrics.stability import correlations, matched


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


def measure(coin, problem):
    return planted.measure(ConceptFlags, coin, problem, planted.config(permutations=4))


def flagged(scores, flag):
    labels = {"metric": "concept_flags", "params": f"flag={flag}", "arm": "method"}
    rows = [s for s in scores if all(getattr(s, name) == wanted for name, wanted in labels.items())]
    return {int(s.subject.removeprefix("concept:")) for s in rows if s.subject != "all" and s.value}


def test_separability_is_the_area_of_scikit_learn():
    dice = np.random.default_rng(0)
    classes, pooled = np.arange(60) % 3, dice.random((60, 4)).round(1)
    pooled[:, 0] += classes == 2
    expected = [max(roc_auc_score(classes == c, column) for c in range(3)) for column in pooled.T]
    np.testing.assert_allclose(separability(pooled, classes), expected, rtol=1e-12)


def test_duplicates_are_those_of_numpys_correlation():
    dice = np.random.default_rng(1)
    pooled = dice.random((40, 5))
    pooled[:, 3] = 2 * pooled[:, 1] + 0.02 * dice.random(40)
    pooled[:, 4] = 7.0
    found = np.asarray(np.corrcoef(pooled[:, :4].T))
    assert duplicates(pooled, 0.95).tolist() == [False, False, False, bool(found[1, 3] >= 0.95), False]
    assert duplicates(pooled, 1.0).tolist() == [False] * 5
    # The first stays, however many repeat it.
    assert duplicates(np.repeat(pooled[:, :1], 4, axis=1), 1.0).tolist() == [False, True, True, True]


def test_the_planted_model_has_one_dead_concept(problem):
    scores = measure(planted.Planted(problem.classifier), problem)[1]
    assert flagged(scores, "dead") == flagged(scores, "any") == {DEAD}
    assert flagged(scores, "duplicate") == flagged(scores, "leaky") == set()
    assert value(scores, "concept_flags", params="flag=dead") == 1 / planted.K
    assert value(scores, "concept_flags_count", params="flag=dead") == 1
    assert value(scores, "concept_flags", "permuted", params="flag=dead") == 1 / planted.K
    assert value(scores, "concept_flags", "permuted", params="flag=leaky") == 0
    assert dead(np.zeros((3, 2))).all()


class Twice(planted.Planted):
    """The same concepts twice, the second time under another scale."""

    n_concepts = 2 * planted.K

    def encode(self, images):
        found = super().encode(images)
        phi, pooled = torch.cat([found.phi, 3 * found.phi], 1), torch.cat([found.pooled, 3 * found.pooled], 1)
        return Concepts(phi, pooled, found.support)

    def predict(self, concepts):
        return super().predict(Concepts(concepts.phi[:, : planted.K], concepts.pooled[:, : planted.K], None))


class Logits(planted.Planted):
    """Its concepts are the probabilities of the classes."""

    def encode(self, images):
        found = super().encode(images)
        told = super().predict(found)
        pooled = torch.cat([100 * (8 * told).softmax(1), torch.zeros_like(told)], 1)
        return replace(found, phi=pooled[:, :, None].expand_as(found.phi), pooled=pooled)

    def predict(self, concepts):
        return concepts.pooled[:, : planted.Y]


def test_duplicated_concepts_and_class_logits_are_flagged(problem):
    scores = measure(Twice(problem.classifier), problem)[1]
    assert flagged(scores, "duplicate") == set(range(planted.K, 2 * planted.K - 1))
    assert value(scores, "concept_flags", "permuted", params="flag=duplicate") == 0
    scores = measure(Logits(problem.classifier), problem)[1]
    assert flagged(scores, "leaky") == set(range(planted.Y))
    assert value(scores, "concept_flags", "permuted", params="flag=leaky") == 0


def test_the_matching_is_the_best_of_all():
    dice = np.random.default_rng(2)
    a, b = dice.random((30, 4)), dice.random((30, 5))
    whole = np.corrcoef(a.T, b.T)[:4, 4:]
    np.testing.assert_allclose(correlations(a, b), whole, atol=1e-12)
    best = max(np.mean([whole[k, m] for k, m in enumerate(to)]) for to in itertools.permutations(range(5), 4))
    assert matched(a, b) == pytest.approx(best, abs=1e-9)


def test_concepts_in_another_order_are_stable_and_those_of_chance_are_not(problem):
    records = measure(planted.Planted(problem.classifier), problem)[0]
    order = np.random.default_rng(3).permutation(planted.K)
    shuffled = records | {"pooled": 2 * records["pooled"][:, order]}
    (first, second) = ConceptFlags.across([records, shuffled], planted.config(permutations=5))
    # One concept of eight is dead, and correlates with nothing.
    for rows in (first, second):
        assert value(rows, "concept_stability") == pytest.approx(7 / 8, abs=1e-6)
        assert 0 < value(rows, "concept_stability", "permuted") < 0.4
        assert {s.n for s in rows} == {len(problem.test)}
    other = records | {"pooled": np.random.default_rng(4).random(records["pooled"].shape)}
    chance = ConceptFlags.across([records, other], planted.config(permutations=5))[0]
    assert value(chance, "concept_stability") == pytest.approx(value(chance, "concept_stability", "permuted"), abs=0.1)


def test_only_shared_images_are_compared_and_a_truth_of_its_own_is_kept(problem):
    truth, records = Truth.of(problem.test), measure(planted.Planted(problem.classifier), problem)[0]
    np.testing.assert_allclose(records["pooled"], truth.phi.max(2), atol=1e-6)
    half = {name: column[::2] for name, column in records.items()}
    rows = ConceptFlags.across([records, half], planted.config(permutations=2))[0]
    assert {s.n for s in rows} == {len(half["index"])}
    assert value(rows, "concept_stability") == pytest.approx(7 / 8, abs=1e-6)
