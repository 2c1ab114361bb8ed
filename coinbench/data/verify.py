"""What `coinbench data verify` and `coinbench data card` say about a data set. No torch."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from coinbench import registry
from coinbench.config import DataConfig
from coinbench.data.source import SPLITS, Source, check
from coinbench.errors import DataError


def verify(config: DataConfig, cache: Path, expected: str | None = None) -> list[str]:
    """Open a data set, read all that is stored of it anew and report what is there.

    Args:
        config: the data set.
        cache: cache folder.
        expected: fingerprint that the data must have, as a run has recorded it.

    Returns:
        Lines for the user: fingerprint, counts, duplicates, notes.

    Raises:
        DataError: data are missing, corrupt, changed since they were checked, or not the expected ones.
    """
    source = check(registry.PROBLEMS.load(config.name).open(config, cache), config.name)
    contents = source.contents()
    if expected is not None and source.fingerprint != expected:
        raise DataError(
            f"{config.name}: fingerprint {source.fingerprint[:16]}, expected {expected[:16]}: other data "
            "than those of the run; restore them, or run anew in another --out folder"
        )
    lines = [f"{config.name}: fingerprint {source.fingerprint}"]
    lines.append(f"{len(contents)} stored images read anew, all as recorded" if contents else "drawn")
    return lines + _counts(source, config) + _duplicates(source, contents) + source.notes()


def card(source: Source, config: DataConfig) -> str:
    """Return the card of an opened data set as Markdown."""
    about = source.card
    per_split = ", ".join(f"{name} {n.sum()}" for name, n in _per_class(source, config).items())
    names = about.class_names
    facts = {
        "Name": about.name,
        "Source": about.source,
        "Licence": about.licence,
        "Classes": f"{len(names)}: {', '.join(names)}",
        "Images": f"{len(source.labels)} ({per_split})",
        "Pixels": f"{config.size} x {config.size}, {'grey' if source.channels == 1 else 'RGB'}; "
        f"training crops from {config.resized} x {config.resized}"
        f"{', mirrored at random' if config.flip else ''}",
        "Fingerprint": f"`{source.fingerprint}`",
    }
    rows = "\n".join(f"| {key} | {value.replace('|', chr(92) + '|')} |" for key, value in facts.items())
    text = f"# {about.title}\n\n| | |\n| --- | --- |\n{rows}\n"
    if about.notes:
        text += f"\n{about.notes}\n"
    if source.notes():
        text += "\n## Handling\n\n" + "".join(f"- {line}\n" for line in source.notes())
    return text


def _per_class(source: Source, config: DataConfig) -> dict[str, np.ndarray]:
    n = len(source.card.class_names)
    return {
        split: np.bincount(source.labels[source.split(split, config.val_fraction)], minlength=n) for split in SPLITS
    }


def _counts(source: Source, config: DataConfig) -> list[str]:
    counts, names = _per_class(source, config), source.card.class_names
    lines = [", ".join(f"{split} {n.sum()}" for split, n in counts.items()) + " images"]
    for split, n in counts.items():
        least, most = n.argmin(), n.argmax()
        lines.append(f"{split}: from {n[least]} ({names[least]}) to {n[most]} ({names[most]}) images a class")
    for i, name in enumerate(names):
        lines.append(f"class {name}: " + ", ".join(f"{split} {n[i]}" for split, n in counts.items()))
    return lines


def _duplicates(source: Source, contents: list[tuple[str, str]]) -> list[str]:
    """Report images of identical bytes: across train and test, with two labels, and in all."""
    if not contents:
        return []
    groups: dict[str, list[int]] = defaultdict(list)
    for position, (_, content) in enumerate(contents):
        groups[content].append(position)
    same = [group for group in groups.values() if len(group) > 1]
    if not same:
        return ["no two images are identical"]
    lines = [f"{sum(map(len, same)) - len(same)} images are copies of another one"]
    for what, values in (("in train and test", source.is_test), ("with two labels", source.labels)):
        mixed = [group for group in same if len(np.unique(values[group])) > 1]
        if mixed:
            a, b = (_first_of(mixed[0], values == v, contents) for v in np.unique(values[mixed[0]])[:2])
            lines.append(f"{len(mixed)} images occur {what} (first: {a} = {b})")
    return lines


def _first_of(group: list[int], chosen: np.ndarray, contents: list[tuple[str, str]]) -> str:
    return next(contents[position][0] for position in group if chosen[position])
