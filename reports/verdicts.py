"""Which methods of a table's row differ, after Holm's correction over the row, and what it could have shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from coinbench.inference import LEVEL, Difference, Measured, difference, holm


@dataclass(frozen=True, slots=True)
class Pair:
    """Two methods of a row."""

    found: Difference | str
    """Second minus first, or why they cannot be compared."""
    p: float
    """Two-sided, after Holm's correction over the row; 1 where they cannot be compared."""

    @property
    def differ(self) -> bool:
        """Tell whether the two differ."""
        return isinstance(self.found, Difference) and self.p < LEVEL


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All pairs of methods of a row."""

    pairs: Mapping[tuple[int, int], Pair]
    """By the places of both columns, the first one before the second."""

    def _pair(self, i: int, j: int) -> Pair | None:
        return self.pairs.get((min(i, j), max(i, j)))

    def differ(self, i: int, j: int) -> bool:
        """Tell whether the methods in two columns differ."""
        pair = self._pair(i, j)
        return pair is not None and pair.differ

    def tied(self, i: int, j: int) -> bool:
        """Tell whether the methods in two columns were compared, and no difference was found."""
        pair = self._pair(i, j)
        return pair is not None and isinstance(pair.found, Difference) and not pair.differ

    @property
    def detectable(self) -> float | None:
        """Return the least difference that every pair with a known error would have shown, four times in five.

        NaN where no pair's error is estimable, None where none was compared.
        """
        found = [pair.found for pair in self.pairs.values() if isinstance(pair.found, Difference)]
        sizes = [one.detectable(len(found)) for one in found]
        return max((size for size in sizes if not math.isnan(size)), default=math.nan) if sizes else None

    @property
    def obstacles(self) -> list[str]:
        """Return why pairs could not be compared, each reason once."""
        return list(dict.fromkeys(pair.found for pair in self.pairs.values() if isinstance(pair.found, str)))

    @property
    def over(self) -> str:
        """Return what the errors are over."""
        return next((pair.found.over for pair in self.pairs.values() if isinstance(pair.found, Difference)), "")


def judge(columns: Mapping[int, Sequence[Measured]]) -> Verdicts:
    """Test every pair of methods of a row, its family of comparisons.

    Args:
        columns: place of a method's column -> its number for each seed.
    """
    places = list(combinations(sorted(columns), 2))
    found = [difference(columns[i], columns[j]) for i, j in places]
    tested = [one for one in found if isinstance(one, Difference)]
    corrected = iter(holm([one.p for one in tested]))
    pairs = [Pair(one, next(corrected) if isinstance(one, Difference) else 1.0) for one in found]
    return Verdicts(dict(zip(places, pairs, strict=True)))


def paired_over(over: Sequence[str]) -> str:
    """Return what errors of differences are over, each kind once, and which of them are no pairs.

    >>> paired_over(["images and 5 seeds", "concepts"])
    'paired over images and 5 seeds; over concepts, which are no pairs'
    """
    concepts = [one for one in over if one.startswith("concepts")]
    pairs = " or ".join(one for one in over if one not in concepts)
    told = [f"paired over {pairs}"] if pairs else []
    return "; ".join(told + ([f"over {' or '.join(concepts)}, which are no pairs"] if concepts else []))
