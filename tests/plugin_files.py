"""Plug-ins that tests write to disk, each a short file as a user would write it."""

from __future__ import annotations

import textwrap
from pathlib import Path

METHOD = """
import torch
from coinbench import CoIN, Concepts, MethodConfig, MethodSpec, TrainConfig, seeded


class Config(MethodConfig):
    name: str = "{name}"
    train: TrainConfig = TrainConfig(steps=1)
    K: int = 6


class Net(CoIN):
    def __init__(self, config, problem):
        super().__init__()
        self.classifier, self.n_concepts = problem.classifier, config.K
        pixels = problem.channels * problem.size**2
        self.into, self.theta = torch.nn.Linear(pixels, config.K), torch.nn.Linear(config.K, problem.n_classes)
        self.out = torch.nn.Linear(config.K, pixels)

    def encode(self, images):
        phi = self.into(images.flatten(1)).relu()
        {encode}
        return Concepts(phi.unsqueeze(2), phi)

    def predict(self, concepts):
        return self.theta(concepts.pooled)

    def decode(self, concepts):
        size = round((self.out.out_features / self.classifier.channels) ** 0.5)
        {decode}
        return self.out(concepts.pooled).unflatten(1, (-1, size, size)).tanh()


def build(config, problem, rng):
    with seeded(rng.child("init")):
        return Net(config, problem).to(problem.device)


def fit(config, problem, rng, log):
    {fit}
    return build(config, problem, rng)


METHOD_{name} = MethodSpec(config=Config, build=build, fit=fit, title="{name}", source="a test", notes="ours")
COINBENCH = {{"methods": {{"{name}": METHOD_{name}}}}}
"""
"""A method of one linear layer each way, with room for one line of misbehaviour in encode, decode and fit."""

METRIC = """
import numpy as np
from coinbench import Metric, MetricSpec, collect, summarise

SPEC = MetricSpec(
    name="{name}",
    version=1,
    unit="brightness",
    bounds=(-1.0, 1.0),
    higher_is_better=None,
    source="a test",
    protocol="mean of x̃ over pixels and channels, then over test images",
    null="0 for a grey image",
)


class Brightness(Metric):
    specs = (SPEC,)

    def __init__(self, evaluation):
        super().__init__(evaluation)
        self.parts = []

    def update(self, trace):
        {update}
        value = trace.reconstruction.double().mean((1, 2, 3))
        self.parts.append({{"index": trace.index.cpu().numpy(), "value": value.cpu().numpy()}})

    def records(self):
        return collect(self.parts)

    @staticmethod
    def score(records, config):
        {score}
        return [summarise(SPEC, records["value"], config)]


COINBENCH = {{"metrics": {{"{name}": Brightness}}}}
"""

DATASET = """
import hashlib
import numpy as np
from typing import Literal
from coinbench import Card, DataConfig, DatasetSpec, Source


class Config(DataConfig):
    name: Literal["{name}"] = "{name}"
    size: int = 16


class Stripes(Source):
    card = Card(
        name="{name}",
        title="Stripes",
        source="drawn",
        licence="CC0",
        class_names=("across", "down"),
    )
    channels = 1

    def __init__(self):
        self.labels = np.arange(120, dtype=np.int64) % 2
        self.is_test = np.arange(120) % 6 < 2
        self.fingerprint = hashlib.sha256(b"stripes 1").hexdigest()

    def images(self, index, size):
        {images}
        rows, columns = np.mgrid[:size, :size]
        drawn = [(columns if self.labels[i] else rows) * 40 * (1 + i % 3) % 256 for i in index]
        return np.array(drawn, dtype=np.uint8).reshape(len(index), size, size, 1)


DATASET = DatasetSpec(config=Config, open=lambda config, cache: Stripes(), summary="stripes, drawn")
COINBENCH = {{"problems": {{"{name}": DATASET}}}}
"""


def write(folder: Path, template: str, name: str, **lines: str) -> Path:
    """Write a plug-in file; each of `lines` is put at the place of that name."""
    places = dict.fromkeys(("encode", "decode", "fit", "update", "score", "images"), "pass") | lines
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(template.format(name=name, **places)).lstrip(), encoding="utf-8")
    return path


def method(folder: Path, name: str = "honest", **lines: str) -> Path:
    """Write a method."""
    return write(folder, METHOD, name, **lines)


def metric(folder: Path, name: str = "brightness", **lines: str) -> Path:
    """Write a metric."""
    return write(folder, METRIC, name, **lines)


def dataset(folder: Path, name: str = "stripes", **lines: str) -> Path:
    """Write a data set."""
    return write(folder, DATASET, name, **lines)
