"""The laws of a data set: card, labels, splits, pixels, fingerprint. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from coinbench.config import DataConfig
from coinbench.conformance.report import Law, Report, Skipped, Steps, demand, examine
from coinbench.data.source import SPLITS, Card, Source
from coinbench.digests import source_file
from coinbench.specs import DatasetSpec

_SOME = 24
"""Images looked at."""


class DatasetBench:
    """An opened data set; what several laws need is read once."""

    def __init__(self, spec: DatasetSpec, config: DataConfig, cache: Path, name: str | None) -> None:
        """Open it.

        Raises:
            DataError: its data are missing here, which is no law.
        """
        self.spec, self.config, self.name = spec, config, name
        self.open: Callable[[], Source] = lambda: spec.open(config, cache)
        self.steps = Steps()

    @property
    def source(self) -> Source:
        """The opened data set."""

        def opened() -> Source:
            source = self.open()
            demand(isinstance(source, Source), f"open returned a {type(source).__name__}, expected a Source")
            return source

        return self.steps.once("opening it", opened)

    @property
    def labels(self) -> np.ndarray:
        """Its labels, if they are what they must be."""
        return self.steps.once("reading the labels", self._labels)

    def _labels(self) -> np.ndarray:
        labels, is_test = self.source.labels, self.source.is_test
        for what, value, kind in (("labels", labels, np.int64), ("is_test", is_test, np.bool_)):
            array = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == kind
            demand(array, f"{what} is {_shape(value)}, expected {kind.__name__} [N]")
        demand(len(labels) == len(is_test), f"{len(labels)} labels, but is_test has {len(is_test)} entries")
        demand(len(labels) > 0, "there is no image")
        return labels

    @property
    def some(self) -> np.ndarray:
        """Positions of images from all over the data set."""
        return np.unique(np.linspace(0, len(self.labels) - 1, _SOME).astype(np.int64))

    @property
    def pixels(self) -> np.ndarray:
        """Those images."""
        some = self.some
        return self.steps.once("reading images", lambda: self.source.images(some, self.config.size))


def check_dataset(spec: DatasetSpec, config: DataConfig, cache: Path, name: str | None = None) -> Report:
    """Try every law on a data set; looks at a few images only.

    Args:
        spec: the data set.
        config: which of its images, at what size.
        cache: cache folder.
        name: what it is registered as, where it is.

    Raises:
        DataError: its data are missing or damaged here: nothing to check.
    """
    bench = DatasetBench(spec, config, cache, name)
    files = [file for file in {source_file(spec.open), source_file(type(spec.open(config, cache)))} if file]
    return examine(f"data set {name or config.name}", LAWS, bench, files)


def _settings(bench: DatasetBench) -> None:
    config = bench.spec.config
    demand(isinstance(config, type) and issubclass(config, DataConfig), "config is no subclass of DataConfig")
    default = config.model_fields["name"].default
    demand(isinstance(default, str), "the field `name` has no default; write name: Literal[...] = ...")
    demand(bench.name in (None, default), f"registered as {bench.name!r}, but the default of `name` is {default!r}")
    read = config.model_validate(bench.config.model_dump(mode="json"))
    demand(read == bench.config, "settings read back from JSON are other ones")
    demand(bench.spec.summary.strip(), "summary is empty")


def _card(bench: DatasetBench) -> None:
    card = bench.source.card
    demand(isinstance(card, Card), f"card is a {type(card).__name__}, expected a Card")
    for field in ("name", "title", "source", "licence"):
        value = getattr(card, field)
        demand(isinstance(value, str) and value.strip(), f"Card.{field} is empty")
    names = card.class_names
    demand(isinstance(names, tuple) and len(names) >= 2, f"class_names is {names!r}, expected a tuple of two or more")
    demand(all(isinstance(n, str) and n for n in names) and len(set(names)) == len(names), "class names must differ")


def _labels(bench: DatasetBench) -> None:
    labels, classes = bench.labels, len(bench.source.card.class_names)
    low, high = int(labels.min()), int(labels.max())
    demand(low >= 0 and high < classes, f"labels go from {low} to {high}, expected 0 to {classes - 1} (class_names)")


def _classes(bench: DatasetBench) -> None:
    labels, names = bench.labels, bench.source.card.class_names
    for split in ("train", "test"):
        index = bench.source.split(split, bench.config.val_fraction)
        lacking = [name for y, name in enumerate(names) if not (labels[index] == y).any()]
        demand(not lacking, f"the {split} split has no image of {len(lacking)} classes, as {''.join(lacking[:1])!r}")


def _splits(bench: DatasetBench) -> None:
    parts = [bench.source.split(name, bench.config.val_fraction) for name in SPLITS]
    joined = np.concatenate(parts)
    for name, part in zip(SPLITS, parts, strict=True):
        demand(
            bool((np.diff(part) > 0).all()), f"the positions of {name} do not rise: an image occurs twice, or unsorted"
        )
    demand(len(np.unique(joined)) == len(joined), "the splits share images")
    demand(len(joined) == len(bench.labels), f"the splits hold {len(joined)} of {len(bench.labels)} images")


def _pixels(bench: DatasetBench) -> None:
    channels, size = bench.source.channels, bench.config.size
    demand(channels in (1, 3), f"channels is {channels!r}, expected 1 or 3")
    for side in (size, bench.config.resized):
        pixels = bench.pixels if side == size else bench.source.images(bench.some[:3], side)
        expected = [len(bench.some) if side == size else len(bench.some[:3]), side, side, channels]
        right = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and list(pixels.shape) == expected
        demand(right, f"images are {_shape(pixels)}, expected uint8 {expected}")
    demand(len(np.unique(bench.pixels)) > 1, f"all {len(bench.some)} images looked at are one flat colour")


def _order(bench: DatasetBench) -> None:
    size, some, pixels = bench.config.size, bench.some, bench.pixels
    backwards = bench.source.images(some[::-1].copy(), size)
    demand(np.array_equal(backwards[::-1], pixels), "an image depends on the order of the positions asked for")
    alone = bench.source.images(some[1:2], size)
    demand(np.array_equal(alone, pixels[1:2]), "an image asked for alone is another one than among others")
    alone[...] = 0
    again = bench.source.images(some[1:2], size)
    demand(np.array_equal(again, pixels[1:2]), "writing into the returned pixels changes the data set: return a copy")


def _same(bench: DatasetBench) -> None:
    first, pixels, labels = bench.source, bench.pixels, bench.labels
    again = bench.open()
    demand(again.fingerprint == first.fingerprint, "opened again, its fingerprint is another one")
    demand(np.array_equal(again.labels, labels), "opened again, its labels are other ones")
    demand(np.array_equal(again.is_test, first.is_test), "opened again, its test split is another one")
    demand(
        np.array_equal(again.images(bench.some, bench.config.size), pixels), "opened again, its images are other ones"
    )


def _fingerprint(bench: DatasetBench) -> None:
    value = bench.source.fingerprint
    hexadecimal = isinstance(value, str) and len(value) >= 16 and set(value.lower()) <= set("0123456789abcdef")
    demand(hexadecimal, f"fingerprint is {value!r}, expected 16 or more hex digits of a hash of the content")


def _contents(bench: DatasetBench) -> None:
    contents, notes = bench.source.contents(), bench.source.notes()
    demand(all(isinstance(note, str) for note in notes), "notes() must return lines of text")
    if not contents:
        raise Skipped("its images are drawn, or it does not list them")
    pairs = all(isinstance(pair, tuple) and len(pair) == 2 for pair in contents)
    demand(pairs, "contents() must return pairs (name, digest)")
    demand(len(contents) == len(bench.labels), f"contents() lists {len(contents)} of {len(bench.labels)} images")


def _shape(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


LAWS = (
    Law("settings have a name, and are the same again from JSON; there is a summary", _settings),
    Law("the card gives name, title, source, licence and different class names", _card),
    Law("labels are int64 [N] in 0..Y-1, is_test is bool [N]", _labels),
    Law("every class is in train and in test", _classes),
    Law("the splits are sorted, disjoint and together everything", _splits),
    Law("images are uint8 [n, size, size, C] at any size", _pixels),
    Law("an image depends on its position alone", _order),
    Law("opened again it is the same", _same),
    Law("the fingerprint is a hash", _fingerprint),
    Law("contents() lists every stored image", _contents),
)
