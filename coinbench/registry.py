"""What can be named on the command line: built-ins, installed entry points, and nothing else.

A registry is a dict of names to "module:attribute"; nothing is imported before it is asked for, so that
`coinbench --help` stays free of torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from coinbench.errors import UsageError, unknown


@dataclass(frozen=True)
class Registry:
    """Names of one kind of thing."""

    kind: str
    group: str
    """Entry-point group of installed plug-ins."""
    built_in: dict[str, str] = field(default_factory=dict)

    @cached_property
    def targets(self) -> dict[str, str]:
        """Name -> "module:attribute", built-ins first; a plug-in cannot replace a built-in."""
        installed = {point.name: point.value for point in entry_points(group=self.group)}
        return {**installed, **self.built_in}

    def names(self) -> list[str]:
        """Return all names, in order of definition."""
        return [*self.built_in, *(name for name in self.targets if name not in self.built_in)]

    def check(self, name: str) -> str:
        """Return `name` if it is known.

        Raises:
            UsageError: it is not; lists the near ones.
        """
        if name not in self.targets:
            raise unknown(self.kind, name, self.names())
        return name

    def load(self, name: str) -> Any:
        """Import what `name` stands for.

        Raises:
            UsageError: the name is unknown, or its plug-in cannot be imported.
        """
        module, _, attribute = self.targets[self.check(name)].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"{self.kind} {name!r}: cannot be imported ({error})") from error


METHODS = Registry(
    "method",
    "coinbench.methods",
    {
        "viscoin": "coinbench.methods.viscoin:METHOD",
        "flint": "coinbench.methods.flint:METHOD",
        "flaem": "coinbench.methods.flaem:METHOD",
        "random": "coinbench.methods.random_concepts:METHOD",
    },
)
METRICS = Registry(
    "metric",
    "coinbench.metrics",
    {
        "accuracy": "coinbench.metrics.accuracy:Accuracy",
        "mse": "coinbench.metrics.mse:MeanSquaredError",
        "perceptual": "coinbench.metrics.perceptual:PerceptualDistance",
        "frechet": "coinbench.metrics.frechet:FrechetDistance",
        "faithfulness": "coinbench.metrics.faithfulness:Faithfulness",
        "consistency": "coinbench.metrics.consistency:Consistency",
        "sparsity": "coinbench.metrics.sparsity:Sparsity",
    },
)
PROBLEMS = Registry(
    "data set",
    "coinbench.problems",
    {
        "birds": "coinbench.data.birds:DATASET",
        "digits": "coinbench.data.digits:DATASET",
        "fashionmnist": "coinbench.data.torchvision_sets:FASHIONMNIST",
        "cifar10": "coinbench.data.torchvision_sets:CIFAR10",
        "imagefolder": "coinbench.data.imagefolder:DATASET",
    },
)
GENERATORS = Registry("generator", "coinbench.generators", {"beta_vae": "coinbench.generators.beta_vae:GENERATOR"})


def typed(registry: Registry, value: Any) -> Any:
    """Turn a mapping with a "name" into the configuration type registered under that name."""
    if not isinstance(value, dict):
        return value
    if not isinstance(value.get("name"), str):
        raise UsageError(f"{registry.kind}: 'name' is missing in {value}")
    return registry.load(value["name"]).config.model_validate(value)
