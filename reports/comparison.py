"""Two run folders side by side: what is equal, what differs, what only one of them holds. Never imports torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coinbench.errors import CoinbenchError, unknown
from coinbench.reports.folder import CellFolder, Record, read_cells, read_records, titles_of
from coinbench.reports.layout import pool, significant
from coinbench.reports.render import grid


class Key(NamedTuple):
    """What two rows must share to be one number measured twice."""

    dataset: str
    metric: str
    params: str
    arm: str
    method: str
    variant: str
    seed: int

    @property
    def cell(self) -> str:
        """Return the cell that the row belongs to, as a reader calls it."""
        variant = "" if self.variant == "default" else f" [{self.variant}]"
        return f"{self.dataset}/{self.method}{variant} seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Matched:
    """A number of both runs."""

    key: Key
    a: Record
    b: Record
    obstacle: str
    """Why the two cannot be compared; empty where they can."""

    @property
    def equal(self) -> bool:
        """Tell whether the two numbers are the same to the last bit."""
        return self.a.value == self.b.value


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows of two runs, matched."""

    matched: tuple[Matched, ...]
    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]
    notes: tuple[str, ...]

    @property
    def comparable(self) -> list[Matched]:
        """Return the rows that can be compared."""
        return [row for row in self.matched if not row.obstacle]

    @property
    def summary(self) -> str:
        """Return the answer to: did anything change?"""
        equal = sum(row.equal for row in self.comparable)
        text = f"{equal} rows equal, {len(self.comparable) - equal} differ, {len(self.only_a)} only in A, "
        return f"{text}{len(self.only_b)} only in B, {len(self.matched) - len(self.comparable)} not comparable"


def compare(a: Path, b: Path, metrics: Sequence[str] = (), methods: Sequence[str] = ()) -> Comparison:
    """Match the rows about whole samples of two run folders.

    Args:
        a: a run folder.
        b: another.
        metrics: names of rows, as mse or fd_f; default: all.
        methods: default: all.

    Raises:
        DataError: one of them holds no results.
        UsageError: neither has such a metric or method.
        CoinbenchError: they have no row in common.
    """
    cells = {side: {cell.path.name: cell for cell in read_cells(side)} for side in (a, b)}
    every = [read_records(side) for side in (a, b)]
    for kind, chosen in (("metric", metrics), ("method", methods)):
        known = sorted({getattr(record, kind) for records in every for record in records})
        for name in chosen:
            if name not in known:
                raise unknown(f"{kind} of these runs", name, known)
    left, right = (_rows(records, metrics, methods) for records in every)
    common = [key for key in left if key in right]
    if not common:
        raise CoinbenchError(
            f"no row in common: A holds {_contents(left)}, B holds {_contents(right)}; "
            "compare runs of the same data sets, methods and seeds"
        )
    matched = [
        Matched(key, left[key], right[key], _obstacle(left[key], right[key], cells[a], cells[b])) for key in common
    ]
    return Comparison(
        tuple(matched),
        tuple(key for key in left if key not in right),
        tuple(key for key in right if key not in left),
        tuple(_notes(matched)),
    )


def _rows(records: Sequence[Record], metrics: Sequence[str], methods: Sequence[str]) -> dict[Key, Record]:
    """Return the rows asked for that hold a number, in order of their keys."""
    found = {
        Key(r.dataset, r.metric, r.params, r.arm, r.method, r.variant, r.seed): r
        for r in records
        if r.subject == "all" and r.measured and (not metrics or r.metric in metrics)
        if not methods or r.method in methods
    }
    return dict(sorted(found.items()))


def _contents(rows: Mapping[Key, Record]) -> str:
    cells = list(dict.fromkeys(key.cell for key in rows))
    more = f" and {len(cells) - 3} more cells" if len(cells) > 3 else ""
    return f"{', '.join(cells[:3])}{more}" if cells else "none of the rows asked for"


def _obstacle(a: Record, b: Record, cells_a: Mapping[str, CellFolder], cells_b: Mapping[str, CellFolder]) -> str:
    data = [cells[r.cell].fingerprint for r, cells in ((a, cells_a), (b, cells_b)) if r.cell in cells]
    if len(set(data) - {""}) > 1:
        return "images or labels differ"
    if a.version != b.version:
        return f"version differs: {a.version} in A, {b.version} in B"
    if a.unit != b.unit:
        return f"unit differs: {a.unit} in A, {b.unit} in B"
    if a.protocol != b.protocol:
        ours, theirs = a.protocol.split("; "), b.protocol.split("; ")
        parts = [
            "; ".join(p for p in one if p not in other) or "nothing" for one, other in ((ours, theirs), (theirs, ours))
        ]
        return f"protocol differs: {parts[0]} in A, {parts[1]} in B"
    return ""


def _notes(matched: Sequence[Matched]) -> list[str]:
    """Say what the numbers do not show."""
    digests = {(m.key.dataset, m.a.classifier_digest, m.b.classifier_digest) for m in matched}
    notes = [
        f"f of {dataset} differs ({a[:8]} in A, {b[:8]} in B): numbers read through f are of two classifiers."
        for dataset, a, b in sorted(digests)
        if a != b
    ]
    same = [m for m in matched if not m.obstacle]
    sizes = sum(m.a.n != m.b.n for m in same)
    notes += [f"n differs in {sizes} of the rows compared: they are of other samples."] if sizes else []
    bounds = sum(m.equal and _bounds(m.a) != _bounds(m.b) for m in same)
    notes += [f"{bounds} rows with equal values have other intervals."] if bounds else []
    return notes


def _bounds(row: Record) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(end) else end for end in (row.low, row.high))


def as_text(found: Comparison, a: Path, b: Path, everything: bool = False) -> str:
    """Return summary, notes and the rows that differ (or all) as Markdown; seeds of one number are pooled."""
    titles = {**titles_of(a), **titles_of(b)}
    lines = [found.summary, "", f"A: {a}", f"B: {b}"]
    lines += [f"- {note}" for note in found.notes]
    groups: dict[tuple[str, ...], list[Matched]] = {}
    for row in found.comparable:
        groups.setdefault(row.key[:-1], []).append(row)
    shown = [rows for rows in groups.values() if everything or not all(row.equal for row in rows)]
    if shown:
        headers = ["data set", "metric", "setting", "arm", "method", "seeds", "differ", "A", "B", "B − A"]
        lines += ["", *grid(headers, [_line(rows, titles) for rows in shown], labels=6)]
        lines += [
            "",
            f"[low, high]: 95 % interval of one seed in its run; ±: standard deviation over seeds{better_note(shown)}.",
        ]
    obstacles: dict[tuple[str, str], int] = {}
    for row in (row for row in found.matched if row.obstacle):
        key = (f"{row.key.metric} on {row.key.dataset}", row.obstacle)
        obstacles[key] = obstacles.get(key, 0) + 1
    lines += [""] if obstacles else []
    lines += [f"- not comparable: {what} ({count} rows): {why}" for (what, why), count in obstacles.items()]
    for side, keys in (("A", found.only_a), ("B", found.only_b)):
        lines += [""] if keys else []
        lines += [f"- only in {side}: {text}" for text in _alone(keys, found)]
    return "\n".join(lines)


def better_note(shown: Sequence[Sequence[Matched]]) -> str:
    """Explain the arrows of a table, where it has some."""
    directed = any(rows[0].a.higher_is_better is not None for rows in shown)
    return "; ↑ higher, ↓ lower is better" if directed else ""


def _line(rows: Sequence[Matched], titles: Mapping[str, str]) -> list[str]:
    key, a, b = rows[0].key, pool([row.a for row in rows]), pool([row.b for row in rows])
    decimals = significant([a, b], digits=4)
    title = titles.get(key.method, key.method)
    arrow = {True: " ↑", False: " ↓", None: ""}[rows[0].a.higher_is_better if key.arm == "method" else None]
    return [
        *(key.dataset, f"{key.metric}{arrow}", key.params, key.arm),
        title if key.variant == "default" else f"{title} ({key.variant})",
        " ".join(str(row.key.seed) for row in rows),
        f"{sum(not row.equal for row in rows)} of {len(rows)}",
        a.text(1.0, decimals),
        b.text(1.0, decimals),
        _change(rows),
    ]


def _change(rows: Sequence[Matched]) -> str:
    """Print the mean of B − A over seeds, with its deviation, to three digits however small it is."""
    changes = np.array([row.b.value - row.a.value for row in rows])
    spread = f" ± {np.std(changes, ddof=1):.2g}" if len(changes) > 1 else ""
    return f"{changes.mean():+.3g}{spread}".replace("-", "−")


def _alone(keys: Sequence[Key], found: Comparison) -> list[str]:
    """Name what one run holds alone: whole cells as such, else the metrics."""
    matched = {row.key.cell for row in found.matched}
    cells: dict[str, list[Key]] = {}
    for key in keys:
        cells.setdefault(key.cell, []).append(key)
    return [
        f"{cell}, {', '.join(dict.fromkeys(key.metric for key in mine)) if cell in matched else 'the whole cell'} "
        f"({len(mine)} rows)"
        for cell, mine in cells.items()
    ]


def as_json(found: Comparison, a: Path, b: Path) -> str:
    """Return all rows, unpooled, as JSON."""
    rows = [{**row.key._asdict(), **_both(row)} for row in found.matched]
    alone = {"only_in_a": [key._asdict() for key in found.only_a], "only_in_b": [key._asdict() for key in found.only_b]}
    whole = {"a": str(a), "b": str(b), "summary": found.summary, "notes": found.notes, "rows": rows, **alone}
    return json.dumps(whole, indent=2, ensure_ascii=False)


def _both(row: Matched) -> dict[str, Any]:
    sides = {
        side: {name: value if value == value else None for name, value in asdict(record).items() if name in _SIDE}
        for side, record in (("a", row.a), ("b", row.b))
    }
    difference = None if row.obstacle else row.b.value - row.a.value
    return {**sides, "equal": None if row.obstacle else row.equal, "difference": difference, "obstacle": row.obstacle}


_SIDE = ("value", "low", "high", "n", "version", "protocol", "classifier_digest")
