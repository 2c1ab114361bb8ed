"""Tables of published numbers as typed data: where each number stands, what it is of, and how it was measured.

A file in this folder holds one paper. Numbers are kept as printed: 77.20, 85.5 ± 13.9, <0.001, and – for none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from coinbench.errors import DataError, UsageError, unknown

MISSING = "–"
"""What stands where the paper has no number."""
_NUMBER = re.compile(r"(<?)(-?\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?")


@dataclass(frozen=True, slots=True)
class Value:
    """One number as printed."""

    text: str
    value: float
    """In the unit of the paper; where `below`, the bound."""
    spread: float | None
    """What stands after ±."""
    decimals: int
    below: bool
    """Printed as "<", so that only a bound is known."""

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit: how far the number may lie from what was measured."""
        return 0.0 if self.below else 0.5 * 10.0**-self.decimals


def parse_value(text: Any) -> Value | None:
    """Read a number as the paper prints it; None for none.

    >>> parse_value("85.5 ± 13.9")
    Value(text='85.5 ± 13.9', value=85.5, spread=13.9, decimals=1, below=False)
    >>> parse_value("<0.001").below, parse_value("–")
    (True, None)

    Raises:
        ValueError: it is no number.
    """
    text = str(text)
    if text == MISSING:
        return None
    found = _NUMBER.fullmatch(text)
    if not found:
        raise ValueError("expected a number as 0.161, 85 ± 8.4 or <0.001, or – for none")
    below, value, spread = found.groups()
    decimals = len(value.partition(".")[2])
    return Value(text, float(value), float(spread) if spread else None, decimals, bool(below))


def _settings(texts: Any) -> Any:
    """Read path=value, as after --set, into a mapping."""
    from coinbench.overrides import parse

    if not isinstance(texts, list):
        return texts
    try:
        pairs = [parse(str(text)) for text in texts]
    except UsageError as error:
        raise ValueError(str(error).removeprefix("--set ")) from error
    found = {".".join(keys): value for keys, value in pairs}
    if len(found) < len(pairs):
        raise ValueError("a path is given twice")
    return found


Settings = Annotated[dict[str, Any], BeforeValidator(_settings)]
"""Paths and values, written as a list of path=value."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)


class Where(_Data):
    """What a number is of, as far as one part of a table says it."""

    dataset: str | None = None
    """Name of the data set."""
    method: str | None = None
    """Name of the method; empty where the number belongs to none, as the accuracy of f."""
    metric: str | None = None
    """Name of the rows of results that hold it."""
    params: str | None = None
    """Its setting in results, as tau=0.1."""
    arm: str | None = None
    """method, or a control."""
    percent: bool | None = None
    """Printed in per cent, where results hold a fraction."""


class Column(Where):
    """A column of numbers."""

    title: str = Field(min_length=1)


class Line(Where):
    """A line of numbers."""

    label: str = ""
    """What stands in the last label column; the data set's title where there is one column only."""
    setting: Settings = {}
    """What is changed against the paper's main experiments."""
    values: tuple[Annotated[Value | None, BeforeValidator(parse_value)], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What one number is of, in full."""

    dataset: str
    method: str
    metric: str
    params: str = ""
    arm: str = "method"
    percent: bool = False


class PublishedTable(_Data):
    """One table of a paper."""

    id: str = Field(min_length=1)
    """Its number there."""
    v1: str = ""
    """Its number in the first version, where that is another."""
    title: str = Field(min_length=1)
    page: int | None = Field(default=None, gt=0)
    """None: not known, and tables say nothing of it."""
    protocol: str = Field(min_length=1)
    n: str = Field(min_length=1)
    """Of how many images or classes the numbers are."""
    notes: tuple[str, ...] = ()
    headers: tuple[str, ...] = Field(min_length=1, max_length=2)
    """Of the label columns; where there are two, the first is the data set."""
    where: Where = Where()
    """What all numbers share."""
    axis: tuple[str, ...] = ()
    """Paths that an ablation varies."""
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[Line, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _whole(self) -> PublishedTable:
        for number, row in enumerate(self.rows):
            if len(row.values) != len(self.columns):
                raise ValueError(f"row {number} has {len(row.values)} numbers, the table {len(self.columns)} columns")
            if self.axis and set(row.setting) != set(self.axis):
                raise ValueError(f"row {number}: setting must name {', '.join(self.axis)}")
            for column in self.columns:
                self.address(row, column)
        return self

    @property
    def datasets(self) -> tuple[str, ...]:
        """Return its data sets, in order."""
        return tuple(dict.fromkeys(self.address(row, self.columns[0]).dataset for row in self.rows))

    def address(self, row: Line, column: Column) -> Address:
        """Return what the number of a row and a column is of.

        Raises:
            ValueError: neither says it.
        """
        found: dict[str, Any] = {}
        for part in (self.where, column, row):
            said = {name: value for name in Where.model_fields if (value := getattr(part, name)) is not None}
            # A column of f's own accuracy stays one of no method, whatever its row says.
            found |= {name: value for name, value in said.items() if found.get(name) != ""}
        for name in ("dataset", "method", "metric"):
            if name not in found:
                raise ValueError(f"row {row.label!r}, column {column.title!r}: no {name} given")
        return Address(**found)

    def cells(self) -> Iterator[tuple[Line, Column, Address, Value | None]]:
        """Yield every number with what it is of, row by row."""
        for row in self.rows:
            for column, value in zip(self.columns, row.values, strict=True):
                yield row, column, self.address(row, column), value


class PublishedData(_Data):
    """A data set of a paper."""

    title: str = Field(min_length=1)
    conditions: Settings = {}


class Open(_Data):
    """A setting that a paper leaves open: a number under another one is comparable, and a note says so."""

    setting: Settings = Field(min_length=1)
    """Its plainest reading."""
    note: str = Field(min_length=1)
    """What the other one changes."""


class Measuring(_Data):
    """How a paper measured one metric, in whichever table the number stands."""

    conditions: Settings = {}
    """Settings under which a number is comparable, besides those of the data set."""
    least: Settings = {}
    """Numbers that must be as large, as of images where the paper has the whole split."""
    open: tuple[Open, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Return all settings as the paper has them."""
        found = {**self.conditions, **self.least}
        for one in self.open:
            found |= one.setting
        return found


class Paper(_Data):
    """One paper with its tables."""

    key: str = Field(pattern="^[a-z][a-z0-9]*$")
    title: str
    authors: str
    year: int
    venue: str
    source: str
    """Which version the numbers are of."""
    notes: tuple[str, ...] = ()
    conditions: Settings = {}
    """Settings of the main experiments, whatever the data set."""
    metrics: dict[str, Measuring] = {}
    """By name of the rows of results."""
    datasets: dict[str, PublishedData]
    tables: tuple[PublishedTable, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> Paper:
        names = [table.id for table in self.tables]
        if len(set(names)) < len(names):
            raise ValueError("two tables have one id")
        used = {address.metric for table in self.tables for _, _, address, _ in table.cells()}
        if strange := set(self.metrics) - used:
            raise ValueError(f"metrics: no table has a number of {sorted(strange)[0]!r}")
        for table in self.tables:
            if strange := set(table.datasets) - set(self.datasets):
                raise ValueError(f"table {table.id}: data set {sorted(strange)[0]!r} is not among datasets")
        return self

    def table(self, name: str) -> PublishedTable:
        """Return a table by its number.

        Raises:
            UsageError: there is none; lists them.
        """
        known = {table.id: table for table in self.tables}
        if name not in known:
            raise unknown("table", name, list(known))
        return known[name]

    def main(self, dataset: str) -> dict[str, Any]:
        """Return the settings of the main experiments on a data set."""
        return {**self.conditions, **self.datasets[dataset].conditions}

    def measuring(self, metric: str) -> Measuring:
        """Return how a metric was measured; nothing where the file says nothing of it."""
        return self.metrics.get(metric, Measuring())

    def metrics_of(self, table: PublishedTable) -> tuple[str, ...]:
        """Return the metrics of a table, in order."""
        return tuple(dict.fromkeys(address.metric for _, _, address, _ in table.cells()))

    def evaluation(self, table: PublishedTable) -> dict[str, Any]:
        """Return the settings with which the numbers of a table were measured."""
        found: dict[str, Any] = {}
        for metric in self.metrics_of(table):
            found |= self.measuring(metric).settings
        return found


def read(path: Path) -> Paper:
    """Read a file of published numbers.

    Raises:
        DataError: it is missing, no YAML, or not a paper; names the first wrong value.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error})") from error


def parse(text: str, name: str) -> Paper:
    """Read the text of a file of published numbers, which messages call `name`.

    Raises:
        DataError: it is no YAML, or not a paper; names the first wrong value.
    """
    try:
        # Every scalar stays text: a float would lose the zeros that the paper prints.
        tree = yaml.load(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise DataError(f"{name}: not readable as YAML ({str(error).splitlines()[0]})") from error
    try:
        return Paper.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{name}: {where or 'the file'}: {message}, got {repr(first['input'])[:80]}") from error


@cache
def papers() -> dict[str, Paper]:
    """Return the papers that come with coinbench, by key.

    Raises:
        DataError: a file is damaged.
    """
    folder = files("coinbench.published")
    found = [
        parse(entry.read_text(encoding="utf-8"), f"published/{entry.name}")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".yaml")
    ]
    return {paper.key: paper for paper in found}


def find(name: str) -> tuple[Paper, PublishedTable]:
    """Return a table by its name, as viscoin-table5; its number alone, as 5, means the VisCoIN paper.

    >>> find("5")[1].title
    'FashionMNIST, K = 25'
    >>> find("viscoin-table1a")[1] is find("1a")[1]
    True

    Raises:
        UsageError: no paper has it.
    """
    known = {f"{key}-{label_of(table.id)}": (paper, table) for key, paper in papers().items() for table in paper.tables}
    if name in known:
        return known[name]
    paper = papers()["viscoin"]
    if "-" in name:
        raise unknown("published table", name, list(known))
    return paper, paper.table(name.removeprefix("table"))


def label_of(number: str) -> str:
    """Return how commands call a table.

    >>> label_of("5"), label_of("figure8")
    ('table5', 'figure8')
    """
    return number if number.startswith("figure") else f"table{number}"
