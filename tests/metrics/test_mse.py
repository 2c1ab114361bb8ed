import numpy as np
import planted
import pytest
import torch
from planted import Truth, value
from sklearn.metrics import mean_squared_error

from coinbench.metrics.mse import MeanSquaredError, mean_image, squared_error


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


def test_it_agrees_with_scikit_learn():
    a, b = torch.rand(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = mean_squared_error(
        a.flatten(1).double().numpy().T, b.flatten(1).double().numpy().T, multioutput="raw_values"
    )
    np.testing.assert_allclose(squared_error(a, b).numpy(), expected, rtol=1e-12)


def test_the_mean_image_is_that_of_the_floats(problem):
    expected = Truth.of(problem.train).x.mean(0)
    found = mean_image(problem.train).numpy().reshape(-1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_planted_model_scores_what_it_must(problem):
    coin = planted.Planted(problem.classifier)
    records, scores = planted.measure(MeanSquaredError, coin, problem, planted.config())
    truth = Truth.of(problem.test)
    each = np.square(truth.reconstruction - truth.x).mean(1)
    np.testing.assert_allclose(records["value"][records["arm"] == "method"], each, rtol=1e-5)
    assert value(scores, "mse") == pytest.approx(each.mean(), rel=1e-6)
    mean = Truth.of(problem.train).x.mean(0)
    expected = np.square(truth.x - mean).mean()
    assert value(scores, "mse", "mean image") == pytest.approx(expected, rel=1e-6)
    assert value(scores, "mse") < 0.2 * expected


def test_a_constant_decoder_leaves_the_images_themselves(problem):
    coin = planted.Constant(problem.classifier)
    scores = planted.measure(MeanSquaredError, coin, problem, planted.config())[1]
    expected = np.square(Truth.of(problem.test).x).mean()
    assert value(scores, "mse") == pytest.approx(expected, rel=1e-6)
