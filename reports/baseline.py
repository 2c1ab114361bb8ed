"""The baseline of a gate: the numbers of a run with their tolerances, as JSON with a number a line.

Never imports torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from coinbench.errors import CoinbenchError, UsageError
from coinbench.files import write_atomically
from coinbench.inference import FEWEST_SEEDS
from coinbench.reports.folder import Record, RunFolder

_FORMAT = 1
_ROUNDING = 1e-3
"""Tolerance, relative to its size, of a number that has neither seeds nor an interval to say how it varies."""


class Name(NamedTuple):
    """What a gate calls one number."""

    dataset: str
    method: str
    variant: str
    metric: str
    params: str
    arm: str

    @property
    def cell(self) -> str:
        """Return whose number it is."""
        return f"{self.dataset}/{self.method}" + ("" if self.variant == "default" else f" [{self.variant}]")

    @property
    def number(self) -> str:
        """Return which of its numbers it is."""
        setting = f" at {self.params}" if self.params else ""
        return f"{self.metric}{setting}" + ("" if self.arm == "method" else f" ({self.arm})")


class Number(BaseModel):
    """One number of a baseline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    values: dict[int, float]
    """Seed -> value."""
    tolerance: float = Field(ge=0, allow_inf_nan=False)
    origin: str
    """Where the tolerance is from: given, seeds, sample or rounding."""
    n: int
    unit: str
    higher_is_better: bool | None
    version: int
    protocol: str
    """Key in the table of protocols."""

    @property
    def value(self) -> float:
        """Return the mean over seeds."""
        return float(np.mean(list(self.values.values())))


class Baseline(BaseModel):
    """What a run is held against."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = _FORMAT
    note: str = ""
    """How it was made; kept by an update."""
    two_sided: bool = False
    """Whether a number that is better than its tolerance allows fails too: a metric that changes unasked is broken."""
    tolerances: dict[str, float | str] = Field(default_factory=dict)
    """Metric, "metric params" or "*", of one method as "method/metric" -> tolerance in its unit, or a share of the
    value as "5%". Kept by an update."""
    data: dict[str, str] = Field(default_factory=dict)
    """Data set -> fingerprint of images and labels."""
    protocols: dict[str, str] = Field(default_factory=dict)
    numbers: tuple[Number, ...] = ()


@dataclass(frozen=True, slots=True)
class Gated:
    """A number of a run, its seeds together."""

    name: Name
    rows: tuple[Record, ...] = field(repr=False)

    @property
    def values(self) -> dict[int, float]:
        """Return seed -> value."""
        return {row.seed: row.value for row in self.rows}


def numbers_of(records: Iterable[Record]) -> dict[Name, Gated]:
    """Return the numbers about whole samples of a run."""
    found: dict[Name, list[Record]] = {}
    for r in records:
        if r.subject == "all" and r.measured:
            found.setdefault(Name(r.dataset, r.method, r.variant, r.metric, r.params, r.arm), []).append(r)
    order = sorted(found)
    return {name: Gated(name, tuple(sorted(found[name], key=lambda r: r.seed))) for name in order}


def tolerance(number: Gated, given: Mapping[str, float | str]) -> tuple[float, str]:
    """Return by how much the mean over seeds of another run may differ, and where that is from.

    Given in the file; else, from five seeds on, what 99 % of the differences of two such means stay below; else the
    half-width of its interval over the sample; else rounding. Never less than float32 rounds, as a share of 0 would be.

    Raises:
        UsageError: what is given is no tolerance.
    """
    from scipy.special import stdtrit

    name, values = number.name, list(number.values.values())
    size = abs(float(np.mean(values)))
    least = max(1e-6 * size, 1e-9)
    keys = (f"{name.metric} {name.params}", name.metric, "*")
    for key in (*(f"{name.method}/{key}" for key in keys), *keys):
        if key in given:
            return max(_given(given[key], size, key), least), "given"
    if len(values) >= FEWEST_SEEDS:
        spread = float(np.std(values, ddof=1)) * (2 / len(values)) ** 0.5
        return max(float(stdtrit(len(values) - 1, 0.995)) * spread, least), "seeds"
    halves = [(row.high - row.low) / 2 for row in number.rows if not math.isnan(row.high - row.low)]
    if halves:
        return max(float(np.mean(halves)), least), "sample"
    return max(_ROUNDING * size, least), "rounding"


def _given(value: float | str, size: float, key: str) -> float:
    try:
        share = isinstance(value, str) and value.endswith("%")
        number = float(value[:-1]) / 100 * size if isinstance(value, str) and share else float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise UsageError(f'tolerances: {key!r} is {value!r}; expected a number >= 0, or a share as "5%"')
    return number


def of_run(run: RunFolder, old: Baseline) -> Baseline:
    """Return the baseline of a run; note, sidedness and given tolerances are those of the old one.

    Raises:
        CoinbenchError: the run is not complete.
        UsageError: a given tolerance is none.
    """
    failed = [f"{cell.name} ({cell.status})" for cell in run.cells if cell.status != "complete"]
    if lacking := [*failed, *run.unmeasured]:
        raise CoinbenchError(
            f"{run.path}: not complete ({', '.join(lacking[:3])}); a baseline needs all of its numbers"
        )
    protocols: dict[str, str] = {}
    numbers = []
    for name, number in numbers_of(run.records).items():
        first = number.rows[0]
        key = hashlib.sha256(first.protocol.encode()).hexdigest()[:8]
        protocols[key] = first.protocol
        allowed, origin = tolerance(number, old.tolerances)
        numbers.append(
            Number(
                name=name,
                values=number.values,
                tolerance=allowed,
                origin=origin,
                n=first.n,
                unit=first.unit,
                higher_is_better=first.higher_is_better,
                version=first.version,
                protocol=key,
            )
        )
    fresh = {"data": fingerprints(run), "protocols": dict(sorted(protocols.items())), "numbers": tuple(numbers)}
    return old.model_copy(update=fresh)


def fingerprints(run: RunFolder) -> dict[str, str]:
    """Return data set -> fingerprint, as the cells of a run recorded it."""
    return dict(sorted({cell.dataset: cell.fingerprint for cell in run.cells if cell.fingerprint}.items()))


def read(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        UsageError: it is missing, or no baseline.
    """
    try:
        found = TypeAdapter(Baseline).validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such baseline; --update writes it") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a baseline") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path}: no baseline ({where or 'file'}: {first['msg']}); mend it or write another"
        ) from error
    if found.format != _FORMAT:
        raise UsageError(f"{path}: format {found.format}, expected {_FORMAT}; write it anew with --update")
    return found


def write(baseline: Baseline, path: Path) -> None:
    """Write a baseline atomically, one number a line, so that a version control shows which changed."""
    whole = baseline.model_dump(mode="json")
    numbers = [json.dumps(number, ensure_ascii=False) for number in whole.pop("numbers")]
    head = json.dumps(whole, indent=1, ensure_ascii=False)[:-2]
    lines = ",\n  ".join(numbers)
    with write_atomically(path) as temporary:
        temporary.write_text(f'{head},\n "numbers": [\n  {lines}\n ]\n}}\n', encoding="utf-8")
