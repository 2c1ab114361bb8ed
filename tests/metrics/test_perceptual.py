import copy

import numpy as np
import planted
import pytest
import torch
from planted import Truth, value

from coinbench.metrics.mse import mean_image
from coinbench.metrics.perceptual import PerceptualDistance
from coinbench.networks.perceptual import perceptual_distance


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


def cosines(a, b):
    """Return the distance as 2 Σ_layers mean over space of (1 − cos), the same number by another road."""
    total = 0.0
    for x, y in zip(a, b, strict=True):
        x, y = x.numpy(), y.numpy()
        cos = (x * y).sum(1) / np.sqrt(np.square(x).sum(1) * np.square(y).sum(1))
        total = total + (2 - 2 * cos).mean((1, 2))
    return total


def test_it_agrees_with_cosines():
    dice = torch.Generator().manual_seed(0)
    a, b = ([torch.rand(6, c, s, s, generator=dice).double() for c, s in ((4, 8), (9, 4))] for _ in range(2))
    np.testing.assert_allclose(perceptual_distance(tuple(a), tuple(b)).numpy(), cosines(a, b), rtol=1e-6)


def test_the_planted_model_scores_what_it_must(problem):
    records, scores = planted.measure(
        PerceptualDistance, planted.Planted(problem.classifier), problem, planted.config()
    )
    truth, net = Truth.of(problem.test), copy.deepcopy(problem.perceptual).double()
    images = [torch.from_numpy(x).view(-1, 1, 8, 8) for x in (truth.x, truth.reconstruction)]
    expected = perceptual_distance(net(images[0]), net(images[1])).numpy()
    # p works in float32: 1e-5 is its error.
    assert value(scores, "pd_p") == pytest.approx(expected.mean(), rel=1e-5)
    found = records["value"][records["arm"] == "method"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_null_is_a_decoder_that_shows_the_mean_image(problem):
    class Mean(planted.Planted):
        def decode(self, concepts):
            return mean_image(problem.train).expand(len(concepts), 1, 8, 8)

    good, bad = (
        planted.measure(PerceptualDistance, kind(problem.classifier), problem, planted.config())[1]
        for kind in (planted.Planted, Mean)
    )
    assert value(bad, "pd_p") == pytest.approx(value(good, "pd_p", "mean image"), rel=1e-6)
    assert value(good, "pd_p") < 0.5 * value(bad, "pd_p")
