"""What `ls` and `info` say."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

from coinbench.config import Config, EvaluationConfig, ProblemConfig, TrainConfig
from coinbench.errors import UsageError, unknown
from coinbench.registry import CLASSIFIERS, GENERATORS, METHODS, METRICS, PROBLEMS, Registry

if TYPE_CHECKING:
    from coinbench.metric import Metric

KINDS = {
    "methods": METHODS,
    "datasets": PROBLEMS,
    "metrics": METRICS,
    "classifiers": CLASSIFIERS,
    "generators": GENERATORS,
}
SETTINGS: dict[str, tuple[str, type[Config]]] = {
    "problem": ("f, G and p, which all methods share", ProblemConfig),
    "evaluation": ("how all methods are measured", EvaluationConfig),
    "train": ("a training, of f, of G or of a method", TrainConfig),
}
"""Groups of settings that no plug-in owns."""


def listing(kind: str | None) -> dict[str, dict[str, str]]:
    """Return name -> summary for each kind (or the one asked for).

    Raises:
        UsageError: an unknown kind.
    """
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, list(KINDS))
    chosen = KINDS if kind is None else {kind: KINDS[kind]}
    return {title: {name: _listed(registry, name) for name in registry.names()} for title, registry in chosen.items()}


def ignored() -> list[str]:
    """Return a line for each installed plug-in that cannot be named."""
    return [line for registry in KINDS.values() for line in registry.ignored()]


def _listed(registry: Registry, name: str) -> str:
    """Return one line, whatever is wrong with a plug-in: the others are listed too."""
    origin = registry.targets[name]
    try:
        return _summary(registry, name) + (f" [{origin}]" if origin else "")
    except UsageError as error:
        return f"cannot be used: {error}"


def _summary(registry: Registry, name: str) -> str:
    entry = registry.load(name)
    if registry is METHODS:
        return f"{entry.title} ({entry.source})"
    if registry is PROBLEMS:
        return entry.summary
    if registry is METRICS:
        return ", ".join(spec.name for spec in entry.specs)
    return entry.source


def describe(name: str) -> str:
    """Return all that is known of a method, data set, metric, generator or group of settings.

    Raises:
        UsageError: nothing has that name.
    """
    for registry in KINDS.values():
        if name in registry.targets:
            return _describe(registry, name)
    if name in SETTINGS:
        about, config = SETTINGS[name]
        return "\n".join([f"settings of {name}: {about}", "", *_fields(config)])
    known = [known for registry in KINDS.values() for known in registry.names()]
    raise unknown("name", name, [*known, *SETTINGS])


def _describe(registry: Registry, name: str) -> str:
    entry = registry.load(name)
    lines = [f"{registry.kind} {name}: {_summary(registry, name)}", ""]
    if registry.targets[name]:
        lines[1:1] = [f"from {registry.targets[name]}"]
    if registry is METRICS:
        return "\n".join([*lines, *_card(entry)])
    if registry is METHODS:
        # Each origin of settings on a line of its own.
        parts = re.sub(r"(?:^|[;.] )(?=(?:paper|public code|ours): )", "\n", entry.notes).strip().splitlines()
        lines += [*(textwrap.fill(part, 110, subsequent_indent="  ") for part in parts), ""]
    prefix = {CLASSIFIERS.kind: "problem.classifier.", GENERATORS.kind: "problem.generator."}.get(registry.kind, "")
    lines += ["settings:", *_fields(entry.config, prefix)]
    return "\n".join(lines)


def _with_truth() -> list[str]:
    return [name for name in PROBLEMS.names() if PROBLEMS.load(name).truth]


def _card(metric: type[Metric]) -> list[str]:
    """Return what a reader must know of each number of a metric; of plug-ins something may not be said."""
    direction = {True: "higher is better", False: "lower is better", None: "no direction"}
    lines = []
    for spec in metric.specs:
        low, high = spec.bounds
        lines.append(f"{spec.name} (version {spec.version}, unit {spec.unit})")
        told = {
            "formula": spec.formula,
            "source": spec.source,
            "protocol": spec.protocol,
            "bounds": f"{low:g} to {high:g}",
            "direction": direction[spec.higher_is_better],
            "oracle": spec.oracle,
            "null": spec.null,
            "cost": metric.cost,
        }
        lines += [f"  {name}: {text}" for name, text in told.items() if text]
    when = "measured by default"
    if metric.needs:
        when = f"measured where it is named, or a preset has it; coinbench weights fetch {' '.join(metric.needs)}"
    elif metric.on_request:
        when = "measured where it is named, or a preset has it"
    if metric.truth:
        when += f"; applies to data sets that can draw their images with other parts: {', '.join(_with_truth())}"
    return [*lines, when]


_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _fields(config: Any, path: str = "") -> list[str]:
    lines = []
    for name, field in config.model_fields.items():
        kind = field.annotation
        if kind is TrainConfig:
            lines.append(f"  {path}{name}: steps, batch, rate and more, as the preset sets them (coinbench info train)")
            continue
        if isinstance(kind, type) and issubclass(kind, Config):
            lines += _fields(kind, f"{path}{name}.")
            continue
        default = "(no default)" if field.is_required() else repr(field.get_default(call_default_factory=True))
        about = " ".join((field.description or "").split())
        bounds = ", ".join(
            f"{sign} {getattr(limit, bound):g}"
            for limit in field.metadata
            for bound, sign in _SIGNS.items()
            if hasattr(limit, bound)
        )
        lines.append(
            f"  {path}{name} = {default}" + (f" [{bounds}]" if bounds else "") + (f"  {about}" if about else "")
        )
    return lines
