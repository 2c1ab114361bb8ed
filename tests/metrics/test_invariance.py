"""No number depends on the size or order of batches or on loader workers; scores are functions of stored records."""

from functools import cache

import numpy as np
import planted
import pytest
import torch

from coinbench.problem import Batch
from coinbench.registry import METRICS

SETTINGS = {"lambdas": (2.0,), "permutations": 2}
NAMES = [name for name in METRICS.names() if not (METRICS.load(name).needs or METRICS.load(name).truth)]
"""Those with published weights are in test_published.py, those on true parts in test_parts.py."""


def shuffled(batches):
    """Deal the images into batches of the same sizes in random order."""
    images, labels, index = (torch.cat([getattr(b, name) for b in batches]) for name in ("images", "labels", "index"))
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(len(batches)))
    hands = order.split([len(b.index) for b in batches])
    return [Batch(images[h], labels[h], index[h]) for h in hands]


def run(name, batch, arrange=list, workers=0):
    given = planted.problem(train=80, test=70)
    settings = planted.config(batch=batch, workers=workers, **SETTINGS)
    return planted.measure(METRICS.load(name), planted.Planted(given.classifier), given, settings, arrange)


@cache
def plain(name):
    return run(name, 64)


def numbers(scores):
    labels = [(s.metric, s.params, s.arm, s.subject, s.n) for s in scores]
    return labels, np.array([(s.value, s.low, s.high) for s in scores])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("batch", "arrange", "workers"),
    [(1, shuffled, 0), (7, list, 0), (64, shuffled, 0), (1, list, 2), (7, shuffled, 2), (64, shuffled, 2)],
)
def test_batches_and_workers_do_not_show(name, batch, arrange, workers):
    labels, expected = numbers(plain(name)[1])
    found_labels, found = numbers(run(name, batch, arrange, workers)[1])
    assert found_labels == labels
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_a_function_of_stored_records(name):
    records, scores = plain(name)
    lengths = {len(column) for column in records.values()}
    assert len(lengths) == 1
    # Strings come back from disk as objects.
    stored = {k: v.astype(object) if v.dtype.kind == "U" else v.copy() for k, v in records.items()}
    again = METRICS.load(name).score(stored, planted.config(**SETTINGS))
    np.testing.assert_array_equal(numbers(again)[1], numbers(scores)[1])
    assert numbers(again)[0] == numbers(scores)[0]


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_what_their_specs_say(name):
    specs = {spec.name: spec for spec in METRICS.load(name).specs}
    scores = plain(name)[1]
    # The planted model explains the shared f: what is said of a classifier of its own has no row; nor has what needs
    # several seeds.
    silent = {name for name in specs if name.endswith("_own_f") or name == "concept_stability"}
    assert {s.metric for s in scores} == specs.keys() - silent
    for spec in specs.values():
        assert spec.source
        assert spec.protocol
        assert spec.null
        assert spec.formula
        assert spec.oracle
    assert METRICS.load(name).cost
    for s in scores:
        low, high = specs[s.metric].bounds
        assert low <= s.value <= high
        assert np.isnan(s.low) or s.low <= s.value <= s.high
    rows = [(s.metric, s.params, s.arm, s.subject) for s in scores]
    assert len(set(rows)) == len(rows)
