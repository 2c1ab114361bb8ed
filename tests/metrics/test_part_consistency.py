"""Part consistency against the planted truth; f_part against scikit-learn, and where it comes from."""

from dataclasses import replace

import numpy as np
import planted
import pytest
import tiny
import torch
from planted import READ, Truth, value
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from coinbench.cache import Cache
from coinbench.data.source import Attributes
from coinbench.errors import Unavailable, UsageError
from coinbench.log import Log
from coinbench.metrics.part_consistency import PartConsistency, roc_area, swapped
from coinbench.noise import Noise
from coinbench.part_judge import TRAINED_P, Parts, fit_heads, fit_parts_network, regression
from coinbench.pretrain import build_classifier, make
from coinbench.rng import Rng


@pytest.fixture(scope="module")
def problem():
    return planted.problem()


def measure(coin, problem, **changes):
    return planted.measure(PartConsistency, coin, problem, planted.config(**changes))


def relevant(problem):
    truth = Truth.of(problem.train)
    return np.array([truth.relevance[truth.predicted == c].mean(0) for c in range(planted.Y)]) > 0.5


def test_each_planted_concept_adds_its_own_part(problem):
    scores = measure(planted.Planted(problem.classifier), problem)[1]
    predicted = Truth.of(problem.test).predicted
    of_class = relevant(problem)
    covered = [k for k in range(planted.K) if np.isin(predicted, np.flatnonzero(of_class[:, k])).sum() >= 10]
    assert set(covered) <= set(READ)
    assert value(scores, "part_consistency_covered") == len(covered) / planted.K
    for tau in (0.05, 0.1, 0.2):
        assert value(scores, "part_consistency", params=f"tau={tau:g}") == 1
        assert value(scores, "part_consistency_half", params=f"tau={tau:g}") == 1
        assert value(scores, "part_consistency", "swapped", params=f"tau={tau:g}") == pytest.approx(0.5, abs=0.15)
    rows = [s for s in scores if s.subject != "all" and s.arm == "method" and s.params == "tau=0.1"]
    assert [s.subject for s in rows] == [f"concept:{k}" for k in covered]
    for k, row in zip(covered, rows, strict=True):
        # Attribute j is concept READ[j].
        assert row.protocol.endswith(f"attribute {READ.index(k)}")
        assert row.n == np.isin(predicted, np.flatnonzero(of_class[:, k])).sum()
    assert value(scores, "part_consistency_judge") == pytest.approx(1, abs=1e-6)
    assert {s.resamples.over for s in scores if s.resamples} == {"concepts"}


def test_the_rise_is_that_of_the_decoded_images(problem):
    records, _ = measure(planted.Planted(problem.classifier), problem)
    truth = Truth.of(problem.test)
    k = int(records["concept"].max())
    here = records["concept"] == k
    rows = np.searchsorted(problem.test.index, records["index"][here])
    level = 3 * truth.phi[rows, k].max()
    plus, minus = (1 / (1 + np.exp(-40 * (x - 0.1))) for x in (level, 0.0))
    np.testing.assert_allclose(records["value"][here][:, READ.index(k)], plus - minus, atol=1e-4)
    others = np.delete(records["value"][here], READ.index(k), axis=1)
    np.testing.assert_allclose(others, 0, atol=1e-4)


def test_a_constant_decoder_adds_nothing(problem):
    scores = measure(planted.Constant(problem.classifier), problem)[1]
    for arm in ("method", "swapped"):
        assert value(scores, "part_consistency", arm, params="tau=0.05") == 0
        assert value(scores, "part_consistency_half", arm, params="tau=0.05") == 0


def test_images_are_chosen_by_index(problem):
    records, scores = measure(planted.Planted(problem.classifier), problem, part_consistency_images=10, batch=4)
    counts = np.unique(records["concept"][records["concept"] >= 0], return_counts=True)[1]
    assert set(counts) == {10}
    assert {s.n for s in scores if s.subject != "all"} == {10}


def test_swapping_turns_half_of_the_signs():
    found = swapped(np.ones((4000, 1)), np.arange(4000), Rng(0))
    assert set(found[:, 0]) == {-1.0, 1.0}
    # Binomial error of 4000 images: 0.016 of the mean.
    assert abs(found.mean()) < 0.06


def test_the_area_is_that_of_scikit_learn():
    dice = np.random.default_rng(0)
    truth, score = dice.random(50) < 0.3, dice.random(50).round(1)
    assert roc_area(score, truth) == pytest.approx(roc_auc_score(truth, score), rel=1e-12)


def test_the_regression_is_that_of_scikit_learn():
    dice = np.random.default_rng(1)
    x = dice.normal(size=(80, 3))
    y = (x @ [[1.0, 0.0], [0.5, -1.0], [0.0, 1.0]] + dice.normal(size=(80, 2)) > 0).astype(np.int64)
    y[:10, 1] = -1
    weight, bias = regression(torch.from_numpy(x), torch.from_numpy(y))
    for j in range(2):
        known = y[:, j] >= 0
        plain = LogisticRegression(C=1 / (2e-3 * known.sum()), tol=1e-10, max_iter=1000).fit(x[known], y[known, j])
        np.testing.assert_allclose(weight[:, j], plain.coef_[0], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(bias[j], plain.intercept_[0], rtol=1e-3, atol=1e-3)


def test_heads_on_p_tell_parts(problem):
    told = problem.parts.attributes()
    judge = fit_heads(problem.perceptual, problem.train, told)
    found = judge(problem.test.take(np.arange(len(problem.test))).images)
    assert found.shape == (len(problem.test), len(READ))
    areas = [roc_area(found[:, j].numpy(), told.values[problem.test.index, j] == 1) for j in range(len(READ))]
    # p is at random weights here, and still linear readers see where a block is bright.
    assert np.mean(areas) > 0.75


def source(parts=(3, 2)):
    return Noise(classes=tiny.Y, channels=tiny.CHANNELS, train=12, test=9, parts=parts)


def test_a_data_set_tells_the_values_of_its_parts():
    told = source().attributes()
    assert told is not None
    assert told.names == ("part 0: 0", "part 0: 1", "part 0: 2", "part 1: 0", "part 1: 1")
    np.testing.assert_array_equal(told.values[:3], [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 1, 0]])
    assert source(parts=()).attributes() is None


def test_without_parts_or_a_network_the_metric_says_what_brings_it(problem, tmp_path):
    coin = planted.Planted(problem.classifier)
    with pytest.raises(Unavailable, match="planted does not tell the parts of its images; birds and cub200 do"):
        measure(coin, replace(problem, parts=None))
    cache, here = Cache(tmp_path), tiny.make_problem()
    parts = Parts(source(), "d1gest", lambda n: pytest.fail("nothing to build"))
    with pytest.raises(Unavailable, match="train one: coinbench pretrain parts --dataset tiny"):
        parts.judge(here, cache)
    with pytest.raises(Unavailable, match="tiny does not tell"):
        replace(parts, source=source(parts=())).judge(here, cache)
    here.perceptual.origin = TRAINED_P
    assert "logistic regressions on p trained on parts" in parts.judge(here, cache).origin


def test_a_trained_network_is_read_from_the_cache_and_learns_only_what_is_told(tmp_path, monkeypatch):
    cell, split = tiny.make_cell(), tiny.make_problem().train
    monkeypatch.setattr("coinbench.pretrain.open_source", lambda *_: source())
    monkeypatch.setattr("coinbench.pretrain.load_split", lambda *_: split)
    stage = make("parts", cell, Cache(tmp_path), torch.device("cpu"), Log(tmp_path))
    assert (tmp_path / "parts" / stage.digest / "weights.safetensors").is_file()
    again = make("parts", cell, Cache(tmp_path), torch.device("cpu"), Log(tmp_path))
    assert tiny.same_state(stage.network, again.network)
    here, config = tiny.make_problem(), cell.problem.classifier
    parts = Parts(source(), stage.digest, lambda n: build_classifier(config, n, tiny.CHANNELS, tiny.SIZE))
    judge, images = parts.judge(here, Cache(tmp_path)), here.test.take(np.arange(4)).images
    torch.testing.assert_close(judge(images), stage.network.eval()(images).logits.sigmoid())
    assert judge.origin == "a network trained on the attributes"
    monkeypatch.setattr("coinbench.pretrain.open_source", lambda *_: source(parts=()))
    with pytest.raises(UsageError, match="does not tell the parts"):
        make("parts", cell, Cache(tmp_path), torch.device("cpu"), Log(tmp_path))


def test_what_is_not_told_moves_no_weight(tmp_path):
    cell, split = tiny.make_cell(), tiny.make_problem().train
    config = cell.problem.classifier
    told = Attributes(("a", "b"), np.stack([np.arange(12) % 2, np.full(12, -1)], 1).astype(np.int8))
    network = build_classifier(config, 2, tiny.CHANNELS, tiny.SIZE)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fit_parts_network(config, network, split, told, Log(tmp_path), None)
    head = [name for name in before if before[name].shape == (2,) and "bias" in name]
    assert len(head) == 1
    moved = (network.state_dict()[head[0]] - before[head[0]]).abs()
    assert moved[0] > 0
    assert moved[1] == 0
