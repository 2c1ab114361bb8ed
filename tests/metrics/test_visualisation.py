"""Visualisation distance: which pictures are compared, that they are what the decoder makes, and maximisation."""

import numpy as np
import planted
import pytest
import torch
from planted import Truth, value
from scipy.linalg import sqrtm

from coinbench.errors import MetricError
from coinbench.metrics.frechet import expectation
from coinbench.metrics.visualisation import Visualisation, chosen_pairs, maximised, total_variation
from coinbench.rng import Rng


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


def relevance(problem):
    truth = Truth.of(problem.train)
    return truth, np.array([truth.relevance[truth.predicted == c].mean(0) for c in range(planted.Y)])


def by_hand(problem):
    """Pairs, rows and concepts in the order of the metric."""
    truth, table = relevance(problem)
    rows, concepts = [], []
    for c, k in zip(*np.nonzero(table > 0.5), strict=True):
        mine = np.flatnonzero(truth.predicted == c)
        mine = mine[np.argsort(-truth.phi.max(2)[mine, k], kind="stable")[:3]]
        rows += mine.tolist()
        concepts += [k] * len(mine)
    return truth, np.array(rows), np.array(concepts)


def shown(truth, rows, concepts, factor):
    """f's embedding of the decoded images."""
    phi = truth.phi[rows].copy()
    phi[np.arange(len(rows)), concepts] *= factor
    images = phi.reshape(len(rows), -1) @ planted.basis().reshape(planted.SIZE**2, -1).T
    return truth.embedding(images + truth.support[rows] * planted.support_direction())


def textbook(a, b):
    """The Fréchet distance with scipy's root of the product."""
    (m, c), (n, d) = ((x.mean(0), np.cov(x.T)) for x in (a, b))
    # Covariances may be singular: a little of the identity has a root.
    root = sqrtm((c + 1e-9 * np.eye(len(c))) @ (d + 1e-9 * np.eye(len(c))))
    return np.square(m - n).sum() + np.trace(c + d - 2 * np.real(root))


def test_the_planted_model_is_shown_as_it_decodes(problem):
    coin = planted.Planted(problem.classifier)
    records, scores = planted.measure(Visualisation, coin, problem, planted.config())
    truth, rows, concepts = by_hand(problem)
    expected = {
        "method": shown(truth, rows, concepts, 4.0),
        "reconstruction": shown(truth, rows, concepts, 1.0),
        "real": truth.embedding(truth.x[rows]),
    }
    for arm, features in expected.items():
        np.testing.assert_allclose(records["features"][records["arm"] == arm], features, atol=1e-4)
        if arm != "real":
            found = value(scores, "visualisation_fd_f", arm)
            assert found == pytest.approx(textbook(expected["real"], features), rel=1e-2, abs=1e-2)
    assert {s.n for s in scores} == {len(rows)}
    assert value(scores, "visualisation_fd_f", "reconstruction") < 0.01 < value(scores, "visualisation_fd_f")
    # The level of two fresh samples of as many images, of the covariance of the sources.
    level = value(scores, "visualisation_fd_f", "same distribution")
    assert level == pytest.approx(expectation(expected["real"], Rng(1), 40)[0], rel=0.3)
    # The floor is of images that are no sources.
    assert (records["arm"] == "train images").sum() == len(rows)


def test_pairs_are_drawn_by_key_and_no_more_than_asked_for(problem):
    table = relevance(problem)[1]
    few = chosen_pairs(table, 2, Rng(0))
    assert len(few) == 2
    assert set(few) <= set(chosen_pairs(table, 400, Rng(0)))
    assert all(table[pair] > 0.5 for pair in few)
    coin = planted.Planted(problem.classifier)
    assert {s.n for s in planted.measure(Visualisation, coin, problem, planted.config(visualisation_pairs=2))[1]} == {6}


class Irrelevant(planted.Planted):
    """All concepts speak against every class."""

    def predict(self, concepts):
        return -concepts.pooled @ self.weights.abs()


def test_where_nothing_is_relevant_nothing_is_shown(problem):
    with pytest.raises(MetricError, match=r"no class-concept pair has r_\{k,c\} > 0.5 \(largest"):
        planted.measure(Visualisation, Irrelevant(problem.classifier), problem, planted.config())


class Maximised(planted.Planted):
    """Shown by what activates it."""

    shown_by = "activation"


def test_maximisation_raises_the_concept_alone_of_each_image(problem):
    coin = Maximised(problem.classifier)
    images = problem.test.take(np.arange(3)).images
    k, peaks = torch.tensor([0, 3, 5]), torch.full((3,), 0.5, dtype=torch.float64)
    found = maximised(coin, images, k, peaks, 25)
    before, after = (coin.encode(x).pooled.gather(1, k[:, None])[:, 0] for x in (images, found))
    # A cell is two times the grey of its four pixels: 25 steps of 0.05 falling to 0 move it by 1.3 at most.
    assert (after > 0.6).all()
    assert (after > before).all()
    assert found.abs().max() <= 1
    assert not found.requires_grad
    alone = torch.cat([maximised(coin, images[i : i + 1], k[i : i + 1], peaks[i : i + 1], 25) for i in range(3)])
    torch.testing.assert_close(alone, found)


def test_a_method_shown_by_activation_is_and_its_decoder_stands_beside(problem):
    settings = planted.config(activation_steps=30)
    records, scores = planted.measure(Visualisation, Maximised(problem.classifier), problem, settings)
    plain = planted.measure(Visualisation, planted.Planted(problem.classifier), problem, settings)[1]
    assert value(scores, "visualisation_fd_f", "decoded") == value(plain, "visualisation_fd_f")
    assert value(scores, "visualisation_fd_f") != value(plain, "visualisation_fd_f")
    assert np.isfinite(records["features"]).all()


def test_total_variation_of_a_step():
    images = torch.zeros(1, 1, 4, 4)
    images[..., 2:] = 1
    # Three differences across in each of four rows, one of them 1.
    assert total_variation(images).item() == pytest.approx(1 / 3)
