"""What a registry entry is: a configuration type with the functions that act on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coinbench.config import ClassifierConfig, DataConfig, GeneratorConfig, MethodConfig

if TYPE_CHECKING:
    from coinbench.coin import CoIN
    from coinbench.data.official import Official
    from coinbench.data.source import Source
    from coinbench.log import Log
    from coinbench.models import Classifier, ImageGenerator
    from coinbench.problem import Problem, Split
    from coinbench.rng import Rng


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """An entry of the data-set registry."""

    config: type[DataConfig]
    open: Callable[[Any, Path], Source]
    """(config, cache folder) -> source; raises DataError with the remedy where the data are missing."""
    summary: str
    """One line for `coinbench ls`."""
    truth: bool = False
    """Whether its source is a `GroundTruth`: what metrics with `truth` are measured on."""
    official: Official | None = None
    """What `coinbench data prepare` brings and checks; None where the data need no preparation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """An entry of the method registry."""

    config: type[MethodConfig]
    build: Callable[[Any, Problem, Rng], CoIN]
    """(config, problem, rng) -> the network at initialisation."""
    fit: Callable[[Any, Problem, Rng, Log], CoIN]
    """(config, problem, rng, log) -> the trained network."""
    title: str
    """Name in tables."""
    source: str
    """Paper."""
    notes: str
    """Where architecture, losses and settings are the paper's, the public code's, or ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSpec:
    """An entry of the classifier registry."""

    config: type[ClassifierConfig]
    build: Callable[[Any, int, int, int, Rng], Classifier]
    """(config, classes, channels, image size, rng) -> the network at initialisation."""
    fit: Callable[[Any, Classifier, Split, Rng, Log, Path | None, Split | None], None]
    """(config, network, training split, rng, log, file to start from, validation split where config.select_every > 0):
    trains the network in place."""
    source: str
    """Paper."""
    start: Callable[[Any, Path], Path | None] = lambda config, weights: None
    """(config, folder of published weights) -> file that training starts from, None for none; raises DataError where
    it is not here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSpec:
    """An entry of the generator registry."""

    config: type[GeneratorConfig]
    build: Callable[[Any, int, int, Rng], ImageGenerator]
    """(config, image size, channels, rng) -> the network at initialisation."""
    fit: Callable[[Any, ImageGenerator, Split, Rng, Log], None]
    """(config, network, training split, rng, log): trains the network in place."""
    period: int = 1
    """Steps after which the cost of a step repeats, where some do more than others."""
    alone: Callable[[Any], bool] = lambda config: False
    """(config) -> whether it trains in one process only; else its training shares batches as `train` does."""
    source: str
