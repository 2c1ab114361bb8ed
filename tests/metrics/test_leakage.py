"""Leakage: nothing leaks from a Φ′ that g cannot read, everything from one that holds the image."""

from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from planted import Truth, value
from scipy.special import softmax

from coinbench.concepts import Concepts
from coinbench.metrics.leakage import Leakage, partners, share, total_variation
from coinbench.rng import Rng


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


def measure(coin, problem, **changes):
    return planted.measure(Leakage, coin, problem, planted.config(**changes))


def test_total_variation_is_that_of_the_probabilities():
    a, b = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0))
    p, q = softmax(a.double().numpy(), 1), softmax(b.double().numpy(), 1)
    # Another form of the same distance.
    np.testing.assert_allclose(total_variation(a, b).numpy(), 1 - np.minimum(p, q).sum(1), rtol=1e-10)


def test_partners_are_of_another_class_and_evenly_drawn():
    others = np.array([0, 0, 1, 2])
    chosen = partners(Rng(0).uniform(np.arange(9000), 1)[:, 0], np.zeros(9000, dtype=int), others)
    # Binomial error of 9000 draws: 0.005.
    np.testing.assert_allclose(np.bincount(chosen, minlength=4) / 9000, [0, 0, 0.5, 0.5], atol=0.02)
    assert partners(np.array([0.9]), np.array([0]), np.array([0, 0])).tolist() == [1]


def test_a_support_that_g_cannot_read_moves_the_picture_alone(problem):
    coin = planted.Planted(problem.classifier)
    records, scores = measure(coin, problem)
    assert value(scores, "leakage") == pytest.approx(0, abs=1e-6)
    assert value(scores, "leakage_class") == value(scores, "leakage_class", "unswapped") == 0
    test, train = Truth.of(problem.test), Truth.of(problem.train)
    dice = Rng(0).child("evaluation", "leakage", "partners").uniform(problem.test.index, 1)[:, 0]
    donor = partners(dice, test.predicted, train.predicted)
    # u has length 1: the picture moves by the difference of the supports.
    moved = np.square(train.support[donor] - test.support)[:, 0] / planted.SIZE**2
    np.testing.assert_allclose(records["changed"][records["arm"] == "method"], moved, rtol=1e-4, atol=1e-9)
    assert value(scores, "leakage_image") == pytest.approx(moved.mean(), rel=1e-5)
    phi = np.square(train.phi[donor] - test.phi).sum((1, 2)) / planted.SIZE**2
    assert value(scores, "leakage_image", "concepts") == pytest.approx(phi.mean(), rel=1e-5)
    assert value(scores, "leakage_share") == pytest.approx(moved.mean() / (moved.mean() + phi.mean()), rel=1e-5)
    # What the concepts say is read from the swapped concepts.
    assert value(scores, "leakage_class", "concepts") == 1


class Smuggler(planted.Planted):
    """Puts the image into Φ′ and decodes nothing else."""

    def encode(self, images):
        return replace(super().encode(images), support=images.double().flatten(1))

    def decode(self, concepts):
        assert concepts.support is not None
        return concepts.support.float().view(-1, 1, planted.SIZE, planted.SIZE)


def test_a_decoder_that_returns_the_image_from_the_support_is_caught(problem):
    scores = measure(Smuggler(problem.classifier), problem)[1]
    assert value(scores, "leakage_share") == 1
    assert value(scores, "leakage_class") == 1
    assert value(scores, "leakage") > 0.3
    for number in ("leakage", "leakage_image", "leakage_class"):
        assert value(scores, number, "concepts") == pytest.approx(0, abs=1e-9)


class Bare(planted.Planted):
    """Without Φ′."""

    def encode(self, images):
        return replace(super().encode(images), support=None)

    def decode(self, concepts):
        return super().decode(Concepts(concepts.phi, concepts.pooled, torch.zeros(len(concepts), 1).double()))


def test_without_a_support_nothing_leaks_and_the_row_says_why(problem):
    scores = measure(Bare(problem.classifier), problem)[1]
    for number in ("leakage", "leakage_image", "leakage_share"):
        assert value(scores, number) == 0
    # How often g errs towards the other class is no leakage: the number does not apply.
    assert {s.arm for s in scores if s.metric == "leakage_class"} == {"concepts", "unswapped"}
    said = {s.protocol.rpartition("; ")[2] for s in scores if s.arm == "method"}
    assert said == {"the method has no Φ′: nothing is swapped"}
    assert value(scores, "leakage_image", "concepts") > 0


def test_nothing_that_changes_has_no_share():
    assert share(np.zeros((2, 3, 2))).tolist() == [0, 0]


def test_only_the_images_chosen_by_index_count(problem):
    records, scores = measure(planted.Planted(problem.classifier), problem, leakage_images=11, batch=4)
    assert len(np.unique(records["index"])) == 11
    assert {s.n for s in scores} == {11}
