"""What every registered method must satisfy; a new method is tested by being registered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from coinbench import registry, weights
from coinbench.coin import CoIN, relevance
from coinbench.config import MethodConfig
from coinbench.errors import DataError, Interrupted
from coinbench.log import Log
from coinbench.models import channels_last
from coinbench.problem import Problem
from coinbench.rng import Rng
from coinbench.specs import MethodSpec

RNG = Rng(3).child("fit")


@pytest.fixture(scope="module", params=["vae", "styles", "grey 28"])
def problem(request: pytest.FixtureRequest) -> Problem:
    if request.param == "styles":
        return tiny.make_problem(generator=tiny.StyleGenerator())
    if request.param == "grey 28":
        return tiny.make_problem(28, 1)
    return tiny.make_problem()


@pytest.fixture(scope="module", params=registry.METHODS.names())
def spec(request: pytest.FixtureRequest) -> MethodSpec:
    return registry.METHODS.load(request.param)


@pytest.fixture(scope="module")
def config(spec: MethodSpec) -> MethodConfig:
    return tiny.method_config(spec.config.model_fields["name"].default)


@pytest.fixture(scope="module")
def coin(spec: MethodSpec, config: MethodConfig, problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> CoIN:
    with torch.no_grad():
        before = [p.clone() for net in shared(problem) for p in net.state_dict().values()]
    fitted = spec.fit(config, problem, RNG, Log(tmp_path_factory.mktemp("fit")))
    after = [p for net in shared(problem) for p in net.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "fit changed f, G or p"
    return fitted


@pytest.fixture
def images(problem: Problem) -> torch.Tensor:
    return problem.test.take(np.arange(7)).images


def shared(problem: Problem) -> tuple[torch.nn.Module, ...]:
    return problem.classifier, problem.generator, problem.perceptual


@torch.no_grad()
def test_shapes_and_ranges(coin: CoIN, images: torch.Tensor) -> None:
    concepts = coin.encode(images)
    assert concepts.phi.shape[:2] == (7, coin.n_concepts) == concepts.pooled.shape
    assert concepts.phi.min() >= 0
    assert concepts.pooled.min() >= 0
    assert coin.predict(concepts).shape == (7, tiny.Y)
    x_tilde = coin.decode(concepts)
    assert x_tilde.shape == images.shape
    assert x_tilde.dtype == torch.float32
    assert x_tilde.abs().max() <= 1
    assert torch.equal(coin(images), coin.predict(concepts))
    assert not any(part.training for part in coin.modules())


@torch.no_grad()
def test_an_image_is_seen_alike_in_every_batch(coin: CoIN, images: torch.Tensor) -> None:
    together = coin.encode(images)
    for row in range(7):
        alone = coin.encode(images[row : row + 1])
        torch.testing.assert_close(alone.phi, together.phi[row : row + 1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.pooled, together.pooled[row : row + 1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(coin.predict(alone), coin(images)[row : row + 1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(coin.decode(alone), coin.decode(together)[row : row + 1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_decoding_is_deterministic(coin: CoIN, images: torch.Tensor) -> None:
    concepts = coin.encode(images)
    first = coin.decode(concepts)
    torch.rand(3)
    assert torch.equal(coin.decode(concepts), first)


@torch.no_grad()
def test_the_concepts_matter_to_prediction_and_image(coin: CoIN, images: torch.Tensor) -> None:
    concepts = coin.encode(images)
    assert concepts.pooled.any()
    gone = concepts.scale(0.0)
    assert not torch.allclose(coin.predict(gone), coin.predict(concepts))
    assert not torch.allclose(coin.decode(gone), coin.decode(concepts))


@torch.no_grad()
def test_pooled_is_a_pooling_that_commutes_with_edits(coin: CoIN, images: torch.Tensor) -> None:
    concepts = coin.encode(images)
    # All built-in methods pool by the maximum; the law of scaling is what the metrics rely on.
    factor = torch.linspace(0, 2, coin.n_concepts)[None]
    edited = concepts.scale(factor)
    torch.testing.assert_close(edited.pooled, edited.phi.amax(2))
    assert torch.equal(coin.decode(concepts.scale(1.0)), coin.decode(concepts))
    mask = torch.arange(coin.n_concepts)[None] % 2 == 0
    assert torch.equal(coin.decode(concepts.swap(mask, concepts)), coin.decode(concepts))
    donor = concepts.rows(torch.arange(6, -1, -1))
    swapped = concepts.swap(mask, donor)
    torch.testing.assert_close(swapped.pooled, swapped.phi.amax(2))


@torch.no_grad()
def test_relevance_is_pooled_times_the_weight_of_the_linear_head(coin: CoIN, images: torch.Tensor) -> None:
    theta = coin.theta
    assert isinstance(theta, torch.nn.Linear)
    concepts = coin.encode(images)
    target = coin.predict(concepts).argmax(1)
    alpha = relevance(coin, concepts, target)
    torch.testing.assert_close(alpha, concepts.pooled * theta.weight[target])


def test_training_changes_every_weight_that_is_not_frozen(
    spec: MethodSpec, config: MethodConfig, problem: Problem, coin: CoIN
) -> None:
    start = weights.own_state(spec.build(config, problem, RNG), shared(problem))
    frozen = {id(p) for net in shared(problem) for p in net.parameters()}
    trained = {name: p for name, p in coin.named_parameters() if id(p) not in frozen and p.requires_grad}
    assert trained
    for name, parameter in trained.items():
        assert not torch.equal(parameter, start[name]), f"{name} was not trained"


def test_the_seed_decides_all(
    spec: MethodSpec, config: MethodConfig, problem: Problem, coin: CoIN, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    assert tiny.same_state(spec.fit(config, problem, RNG, Log(tmp_path / "same")), coin)
    assert not tiny.same_state(spec.fit(config, problem, Rng(4), Log(tmp_path / "other")), coin)


def test_a_cut_fit_resumes_to_the_same_weights(
    spec: MethodSpec, config: MethodConfig, problem: Problem, coin: CoIN, tmp_path: Path
) -> None:
    log = Log(tmp_path)
    log.stop.set()
    with pytest.raises(Interrupted):
        spec.fit(config, problem, RNG, log)
    log = Log(tmp_path, lambda event: log.stop.set())
    with pytest.raises(Interrupted):
        spec.fit(config, problem, RNG, log)
    assert tiny.same_state(spec.fit(config, problem, RNG, Log(tmp_path)), coin)


@torch.no_grad()
def test_weights_round_trip_without_f_and_g(
    spec: MethodSpec, config: MethodConfig, problem: Problem, coin: CoIN, images: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    digest = weights.save(coin, path, shared(problem))
    again = spec.build(config, problem, Rng(77)).eval()
    assert weights.digest(again, shared(problem)) != digest
    weights.load(again, path, shared(problem))
    # As after training and in `load_coin`: another layout sums in another order.
    channels_last(again)
    assert weights.digest(again, shared(problem)) == digest
    a, b = coin.encode(images), again.encode(images)
    assert torch.equal(a.phi, b.phi)
    assert torch.equal(coin.predict(a), again.predict(b))
    assert torch.equal(coin.decode(a), again.decode(b))
    own = {id(v) for v in weights.own_state(coin, shared(problem)).values()}
    assert not own & {id(v) for net in shared(problem) for v in net.state_dict(keep_vars=True).values()}
    with pytest.raises(DataError):
        weights.load(spec.build(config.model_copy(update={"K": 6}), problem, RNG), path, shared(problem))


def test_a_diverging_fit_ends_in_the_guard_and_not_in_a_traceback(
    spec: MethodSpec, config: MethodConfig, problem: Problem, tmp_path: Path
) -> None:
    from coinbench.errors import CoinbenchError

    wild = config.model_copy(update={"train": config.train.model_copy(update={"lr": 1e30, "steps": 20})})
    with pytest.raises(CoinbenchError, match=r"not finite at step \d+ \("):
        spec.fit(wild, problem, RNG, Log(tmp_path, stage="fit"))
