"""What determines the numbers of each stage, as digests: the keys of the cache and the names of cells.

A key holds data, settings, seed and code; it leaves out where data lie, how often something is logged, and the machine.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coinbench import registry, shipped
from coinbench.config import Cell, digest
from coinbench.published_weights import TRUNKS

EXHIBITS = 2
"""Version of the images that exhibits.py writes beside the numbers; raised when the reports need others."""
INTERVALS = 2
"""Raised whenever intervals change, or what is kept of resamples for tests between methods."""
_TRAINING = (
    *(
        "training.py",
        "guard.py",
        "selection.py",
        "checkpoints.py",
        "problem.py",
        "models.py",
        "pretrain.py",
        "parts.py",
    ),
    "classifiers/labels.py",
    *("networks/*.py", "methods/losses.py", "methods/start.py"),
    *("generators/gan_losses.py", "generators/ada.py", "generators/initial.py"),
    *("generators/stylegan2_config.py", "generators/stylegan2_training.py"),
    "fast.py",
)
"""Source files of this package, besides its version, on which every trained network depends."""

_METHODS = "coinbench.methods."


def classifier_digest(cell: Cell) -> str:
    """Return 16 hex digits of all that determines f."""
    if found := shipped.find("classifier", cell.problem.classifier, cell):
        return digest("shipped", found.sha256)
    spec = registry.CLASSIFIERS.load(cell.problem.classifier.net)
    return digest(_seen(cell), cell.problem.classifier.key(), _core(), _source(spec.build), _source(spec.fit))


def perceptual_digest(cell: Cell) -> str:
    """Return 16 hex digits of all that determines p."""
    config = cell.problem.perceptual
    if config.net == "random":
        return digest(config.net, config.width, config.seed, _core())
    if config.net in TRUNKS:
        return digest(config.key(), _core())
    if found := shipped.find("perceptual", config, cell):
        return digest("shipped", found.sha256)
    return digest(_seen(cell), config.key(), _core())


def parts_digest(cell: Cell) -> str:
    """Return 16 hex digits of all that determines f_part, a network of f's kind trained on the attributes."""
    from coinbench.part_judge import fit_parts_network

    spec = registry.CLASSIFIERS.load(cell.problem.classifier.net)
    code = _core(), _source(spec.build), _source(fit_parts_network)
    return digest("parts", _seen(cell), cell.problem.classifier.key(), code)


def generator_digest(cell: Cell) -> str:
    """Return 16 hex digits of all that determines the weights of G."""
    if found := shipped.find("generator", cell.problem.generator, cell):
        return digest("shipped", found.sha256)
    spec = registry.GENERATORS.load(cell.problem.generator.net)
    return digest(_seen(cell), cell.problem.generator.weights_key(), _core(), _source(spec.fit))


def fit_digest(cell: Cell) -> str:
    """Return 16 hex digits of all that determines the trained network of a cell."""
    spec = registry.METHODS.load(cell.method.name)
    networks = (classifier_digest(cell), generator_digest(cell), perceptual_digest(cell), cell.problem.tap)
    drawing = cell.problem.generator
    if drawing.key() != drawing.weights_key():
        # The same weights, from which a method is taught by other samples.
        networks = (*networks, drawing.key())
    # Of shipped networks the digests say nothing about the code that methods are trained with.
    return digest(networks, cell.method.key(), cell.seed, _core(), _source(spec.fit))


def evaluate_digest(cell: Cell) -> str:
    """Return 16 hex digits of all that determines numbers and images of a cell.

    A metric's code counts by its version, a plug-in's by its file too: its author changes it between two runs.
    """
    versions: dict[str, Any] = {}
    for name in cell.metrics:
        metric = registry.METRICS.load(name)
        versions |= {spec.name: spec.version for spec in metric.specs}
        if registry.METRICS.targets[name]:
            versions[f"source of {name}"] = _source(metric)
    return digest(fit_digest(cell), cell.evaluation.key(), versions, EXHIBITS, INTERVALS)


def cell_digest(cell: Cell) -> str:
    """Return the name of a cell's folder: its numbers, and as what they are listed."""
    return digest(evaluate_digest(cell), cell.dataset, cell.variant)


def _seen(cell: Cell) -> Any:
    return cell.data_fingerprint, cell.data.key()


@cache
def _core() -> str:
    """Return the digest of the version and the sources of training."""
    root = Path(__file__).parent
    files = sorted(path for pattern in _TRAINING for path in root.glob(pattern))
    return digest(version("coinbench"), [hashlib.sha256(path.read_bytes()).hexdigest() for path in files])


def _source(function: Callable[..., Any]) -> str:
    """Return the digest of the file that defines `function`: a changed method is trained anew.

    So is one that is built on another: what its module takes from another method's counts too.
    """
    file = source_file(function)
    module = sys.modules.get(getattr(function, "__module__", ""))
    # A module is taken whole, as `from coinbench.methods import viscoin` does.
    values = vars(module).values() if module else ()
    used = {value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) for value in values}
    others = sorted(name for name in used if isinstance(name, str) and name.startswith(_METHODS))
    files = [file, *(getattr(sys.modules.get(name), "__file__", None) for name in others)]
    unique = dict.fromkeys(Path(found) for found in files if found)
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in unique]) if unique else ""


def source_file(function: Callable[..., Any]) -> Path | None:
    """Return the file that defines `function`; plug-ins may give a partial or an object that can be called."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    if not inspect.isroutine(function) and not inspect.isclass(function):
        function = type(function).__call__
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        return None
    return Path(file) if file else None
