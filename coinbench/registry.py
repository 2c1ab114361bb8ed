"""What can be named on the command line: built-ins, installed entry points, and plug-in files.

A registry is a dict of names to "module:attribute"; nothing is imported before it is asked for, so that
`coinbench --help` stays free of torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from coinbench import plugins
from coinbench.errors import UsageError, unknown


@dataclass(frozen=True)
class Registry:
    """Names of one kind of thing."""

    kind: str
    group: str
    """Entry-point group of installed plug-ins."""
    built_in: dict[str, str] = field(default_factory=dict)

    @cached_property
    def installed(self) -> dict[str, list[EntryPoint]]:
        """Name -> entry points of installed packages; more than one is an error for whoever asks for it."""
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            found.setdefault(point.name, []).append(point)
        return found

    @property
    def targets(self) -> dict[str, str]:
        """Name -> where it comes from: "" for a built-in, package and version, or the plug-in file.

        Raises:
            UsageError: a plug-in file cannot be used, or has a name that is taken.
        """
        found = dict.fromkeys(self.built_in, "")
        found |= {name: _packages(points) for name, points in self.installed.items() if name not in found}
        for name, (path, _) in plugins.declared(self.entries).items():
            if name in found:
                owner = found[name] or "coinbench"
                raise UsageError(f"--plugin {path}: {owner} has a {self.kind} {name!r} already; rename yours")
            found[name] = str(path)
        return found

    @property
    def entries(self) -> str:
        """What plug-ins call the kind: methods, metrics, problems, generators."""
        return self.group.rpartition(".")[2]

    def names(self) -> list[str]:
        """Return all names, in order of definition."""
        return list(self.targets)

    def check(self, name: str) -> str:
        """Return `name` if it is known.

        Raises:
            UsageError: it is not; lists the near ones.
        """
        if name not in self.targets:
            raise unknown(self.kind, name, self.names())
        return name

    def stored(self, name: str) -> str:
        """Return `name`, which a stored configuration holds, if it is known.

        Raises:
            UsageError: it is not: the configuration was written where a plug-in was present.
        """
        if name not in self.targets:
            raise UsageError(
                f"{self.kind} {name!r} is not known here; if it is a plug-in's, give --plugin FILE.py or install its "
                f"package (known: {', '.join(sorted(self.names()))})"
            )
        return name

    def load(self, name: str) -> Any:
        """Import what `name` stands for.

        Raises:
            UsageError: the name is unknown, or its plug-in cannot be imported or holds something else.
        """
        self.check(name)
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            try:
                return getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise UsageError(f"{self.kind} {name!r}: cannot be imported ({error})") from error
        file = plugins.declared(self.entries).get(name)
        if file is not None:
            return file[1]
        points = self.installed[name]
        where = f"{self.kind} {name!r} of {_packages(points)}"
        if len(points) > 1:
            raise UsageError(f"{where}: two packages have that name; uninstall one")
        try:
            value = points[0].load()
        except Exception as error:
            raise UsageError(f"{where}: cannot be imported ({plugins.told(error)}); mend or uninstall it") from error
        return plugins.checked(self.entries, value, f"{where}: {points[0].value}")

    def ignored(self) -> list[str]:
        """Return a line for each installed plug-in whose name is a built-in's, which stays the built-in's."""
        return [
            f"{self.kind} {name!r} of {_packages(points)} is not used: coinbench has that name"
            for name, points in self.installed.items()
            if name in self.built_in
        ]


def _packages(points: list[EntryPoint]) -> str:
    return " and ".join(plugins.origin(point) for point in points)


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
        "topn_accuracy": "coinbench.metrics.topn:TopNAccuracy",
        "auc_ff": "coinbench.metrics.auc_ff:AreaUnderFaithfulness",
        "leakage": "coinbench.metrics.leakage:Leakage",
        "concept_flags": "coinbench.metrics.concept_flags:ConceptFlags",
        "part_consistency": "coinbench.metrics.part_consistency:PartConsistency",
        "visualisation": "coinbench.metrics.visualisation:Visualisation",
        "visualisation_fid": "coinbench.metrics.visualisation:VisualisationFid",
        "part_alignment": "coinbench.metrics.part_alignment:PartAlignment",
        "part_locality": "coinbench.metrics.part_locality:PartLocality",
        "part_use": "coinbench.metrics.part_use:PartUse",
        "lpips_vgg": "coinbench.metrics.lpips:LpipsVgg",
        "lpips_alex": "coinbench.metrics.lpips:LpipsAlex",
        "lpips_squeeze": "coinbench.metrics.lpips:LpipsSqueeze",
        "inception": "coinbench.metrics.inception:InceptionDistances",
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
        "celebahq": "coinbench.data.celebahq:DATASET",
        "cub200": "coinbench.data.cub200:DATASET",
        "stanfordcars": "coinbench.data.stanfordcars:DATASET",
    },
)
CLASSIFIERS = Registry(
    "classifier",
    "coinbench.classifiers",
    {
        "resnet": "coinbench.classifiers.small:RESNET",
        "lenet": "coinbench.classifiers.small:LENET",
        "resnet50": "coinbench.classifiers.torchvision_nets:RESNET50",
        "resnet101": "coinbench.classifiers.torchvision_nets:RESNET101",
        "squeezenet1_1": "coinbench.classifiers.torchvision_nets:SQUEEZENET",
        "vit_b_16": "coinbench.classifiers.torchvision_nets:VIT",
    },
)
GENERATORS = Registry(
    "generator",
    "coinbench.generators",
    {
        "beta_vae": "coinbench.generators.beta_vae:GENERATOR",
        "stylegan2": "coinbench.generators.stylegan2:GENERATOR",
    },
)


def typed(registry: Registry, value: Any, key: str = "name") -> Any:
    """Turn a mapping with a name, under `key`, into the configuration type registered under that name.

    Raises:
        UsageError: there is no name, or nothing here has it: the mapping was written where a plug-in was present.
    """
    if not isinstance(value, dict):
        return value
    name = value.get(key)
    if not isinstance(name, str):
        raise UsageError(f"{registry.kind}: {key!r} is missing in {value}")
    return registry.load(registry.stored(name)).config.model_validate(value)
