"""The use of parts on a planted f whose log-odds are written down, independently of how the metric redraws parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from coinbench.audit.measure import Bench
from coinbench.cache import Cache
from coinbench.coin import CoIN
from coinbench.concepts import Concepts
from coinbench.config import EvaluationConfig
from coinbench.conformance.tiny import make_problem
from coinbench.metrics.part_use import part_effects
from coinbench.models import Classifier, Features
from coinbench.problem import Split

VALUES, SIZE, N = (2, 3, 2, 4), 8, 40
ODDS = ([-1.0, 1.0], [2.0, -3.0, 1.0], [0.25, -0.25], [0.0, 0.5, 1.5, -2.0])
"""What each value of each part adds to f's log-odds of class 0 against class 1; each part has mean 0."""


class Drawn:
    """Part p is the pixel (0, p), whose grey level is 60 times its value; 250: none."""

    part_names = tuple("abcd")
    part_values = tuple(tuple(map(str, range(n))) for n in VALUES)

    def __init__(self):
        dice = np.random.default_rng(0)
        self.factors = np.stack([dice.integers(0, n, 2 * N) for n in VALUES], 1)

    def images(self, index, size, factors=None):
        own = self.factors[index] if factors is None else factors
        pixels = np.zeros((len(index), size, size, 1), dtype=np.uint8)
        pixels[:, 0, :4, 0] = np.where(own < 0, 250, 60 * own)
        return pixels

    def coverage(self, index, size, factors=None):
        shown = np.zeros((len(index), len(VALUES), size, size), dtype=np.float32)
        shown[:, np.arange(4), 0, np.arange(4)] = 1
        return shown


def values_of(images):
    """Read the parts from pixels."""
    return ((images[:, 0, 0, :4] + 1) * 127.5 / 60).round().long()


class PlantedF(Classifier):
    """f: log-odds of class 0 are the sum of what the parts' values add."""

    n_classes, channels, tap_names = 2, 1, ("pixels",)

    def forward(self, images):
        parts = values_of(images)
        odds = sum(torch.tensor(own)[parts[:, p].clamp(max=len(own) - 1)] for p, own in enumerate(ODDS))
        embedding = torch.as_tensor(odds)[:, None].float()
        return Features(self.head(embedding), embedding, (images,))

    def head(self, embedding):
        return torch.cat([embedding, torch.zeros_like(embedding)], 1)


class Reader(CoIN):
    """Concepts are the values of the parts; g weighs them with a table of its own."""

    def __init__(self, f, table):
        super().__init__()
        self.classifier, self.n_concepts = f, sum(VALUES)
        self.theta = torch.tensor([w for part in table for w in part])

    def encode(self, images):
        parts = values_of(images)
        found = torch.cat([parts[:, p, None] == torch.arange(n) for p, n in enumerate(VALUES)], 1).float()
        return Concepts(found[:, :, None], found)

    def predict(self, concepts):
        odds = concepts.pooled @ self.theta
        return torch.stack([odds, torch.zeros_like(odds)], 1)

    def decode(self, concepts):
        return torch.zeros(len(concepts.pooled), 1, SIZE, SIZE)


@pytest.fixture(scope="module")
def problem():
    truth, f = Drawn(), PlantedF()
    labels = np.arange(N, dtype=np.int64) % 2

    def split(name, index):
        pixels = truth.images(index, SIZE)
        return Split(name, pixels, labels, index, pixels)

    given = make_problem(SIZE, 1, f, classes=2)
    splits = {"train": split("train", np.arange(N)), "test": split("test", np.arange(N, 2 * N))}
    return replace(given, truth=truth, **splits)


def scored(problem, table):
    config = EvaluationConfig.model_validate(
        {"part_images": 200, "use_images": N, "permutations": 20, "bootstrap": 100}
    )
    coin = Reader(problem.classifier, table)
    found = Bench(problem, ("part_use",), config, lambda: coin, Cache(Path("unused"))).scores(coin)
    assert not found.failures
    return found.values()["part_use"], found.nulls()["part_use"]["permuted"]


def test_effects_are_the_planted_log_odds(problem):
    index = problem.test.index[:6]
    found = part_effects(problem, index, problem.truth.factors[index], batch=4)
    for own, effects in zip(ODDS, found, strict=True):
        np.testing.assert_allclose(effects[:, :, 0], np.tile(own, (6, 1)), atol=1e-5)
        np.testing.assert_allclose(effects[:, :, 1], np.tile(np.negative(own), (6, 1)), atol=1e-5)


def expected(problem, table):
    """Return the correlation by definition, from the tables alone."""
    own = problem.truth.factors[problem.test.index]
    relevance, use = (np.stack([np.array(of)[own[:, p]] for p, of in enumerate(t)], 1) for t in (table, ODDS))
    predicted = np.where(relevance.sum(1) >= 0, 0, 1)
    sign = np.where(predicted == 0, 1.0, 0.0)[:, None]
    rows = []
    for c in (0, 1):
        here = predicted == c
        # The head's row of class 1 is 0: no concept is relevant to it.
        r, u = (relevance * sign)[here], (use * (1 if c == 0 else -1))[here]
        r, u = (v / np.maximum(np.abs(v).max(1, keepdims=True), 1e-12) for v in (r, u))
        a, b = r.mean(0), u.mean(0)
        rows.append(0.0 if a.std() < 1e-9 else np.corrcoef(a, b)[0, 1])
    return np.mean(rows)


WRONG = ([3.0, -3.0], [2.0, -3.0, 1.0], [2.0, -1.0], [0.1, 0.0, -0.1, 0.2])


@pytest.mark.parametrize("table", [ODDS, WRONG], ids=["f's own table", "another table"])
def test_it_is_the_correlation_with_the_planted_use(problem, table):
    value, chance = scored(problem, table)
    assert value == pytest.approx(expected(problem, table), abs=1e-5)
    assert chance != 0
    assert abs(chance) < 0.35
