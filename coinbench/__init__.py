"""coinbench: evaluate and benchmark concept-based interpretable networks.

The public names below are imported when they are first used, so that `coinbench --help` stays free of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coinbench.artefact import Artefact as Artefact
    from coinbench.coin import CoIN as CoIN
    from coinbench.coin import normalise as normalise
    from coinbench.coin import relevance as relevance
    from coinbench.concepts import Concepts as Concepts
    from coinbench.config import DataConfig as DataConfig
    from coinbench.config import EvaluationConfig as EvaluationConfig
    from coinbench.config import MethodConfig as MethodConfig
    from coinbench.config import TrainConfig as TrainConfig
    from coinbench.data.source import Card as Card
    from coinbench.data.source import Source as Source
    from coinbench.log import Log as Log
    from coinbench.metric import Evaluation as Evaluation
    from coinbench.metric import Metric as Metric
    from coinbench.metric import MetricSpec as MetricSpec
    from coinbench.metric import collect as collect
    from coinbench.models import Classifier as Classifier
    from coinbench.models import Features as Features
    from coinbench.models import ImageGenerator as ImageGenerator
    from coinbench.problem import Batch as Batch
    from coinbench.problem import Problem as Problem
    from coinbench.problem import Split as Split
    from coinbench.results import Score as Score
    from coinbench.rng import Rng as Rng
    from coinbench.rng import seeded as seeded
    from coinbench.specs import DatasetSpec as DatasetSpec
    from coinbench.specs import GeneratorSpec as GeneratorSpec
    from coinbench.specs import MethodSpec as MethodSpec
    from coinbench.statistics import summarise as summarise
    from coinbench.trace import Trace as Trace
    from coinbench.training import train as train

_HOME = {
    "artefact": ("Artefact",),
    "coin": ("CoIN", "normalise", "relevance"),
    "concepts": ("Concepts",),
    "config": ("DataConfig", "EvaluationConfig", "MethodConfig", "TrainConfig"),
    "data.source": ("Card", "Source"),
    "log": ("Log",),
    "metric": ("Evaluation", "Metric", "MetricSpec", "collect"),
    "models": ("Classifier", "Features", "ImageGenerator"),
    "problem": ("Batch", "Problem", "Split"),
    "results": ("Score",),
    "rng": ("Rng", "seeded"),
    "specs": ("DatasetSpec", "GeneratorSpec", "MethodSpec"),
    "statistics": ("summarise",),
    "trace": ("Trace",),
    "training": ("train",),
}
_MODULE = {name: f"coinbench.{module}" for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULE:
        raise AttributeError(f"module 'coinbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *_MODULE])
