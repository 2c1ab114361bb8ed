"""Two runs held against each other number by number: paired differences, Holm's correction, verdicts.

Never imports torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coinbench import resampled
from coinbench.errors import CoinbenchError
from coinbench.inference import LEVEL, Difference, Measured, difference, holm
from coinbench.reports.comparison import Comparison, Matched, better_note
from coinbench.reports.folder import titles_of
from coinbench.reports.layout import Entry, pool, rounded, significant
from coinbench.reports.render import grid
from coinbench.reports.verdicts import paired_over
from coinbench.resampled import Place
from coinbench.results import Resamples

_SHOWN = {"better": "B better", "worse": "B worse", "differs": "differs", "tie": "tie"}


@dataclass(frozen=True, slots=True)
class Test:
    """One number of one method, measured in both runs, its seeds together."""

    rows: tuple[Matched, ...]
    found: Difference | str
    """B − A, or why the two cannot be compared."""
    p: float
    """After Holm's correction over all numbers compared; NaN where they cannot be."""

    @property
    def verdict(self) -> str:
        """Return better, worse or differs (no direction), tie, or not comparable: what B is against A."""
        if isinstance(self.found, str):
            return f"not comparable: {self.found}"
        if self.p >= LEVEL:
            return "tie"
        better = self.rows[0].a.higher_is_better
        if better is None:
            return "differs"
        return "better" if (self.found.value > 0) == better else "worse"


def pair(found: Comparison, a: Path, b: Path) -> list[Test]:
    """Test every number about the whole sample that both runs have of a method; controls are nobody's competitors.

    Raises:
        DataError: the resamples of a run are damaged.
        CoinbenchError: both hold controls alone.
    """
    drawn = resampled.read(a), resampled.read(b)
    groups: dict[tuple[str, ...], list[Matched]] = {}
    for row in found.matched:
        if row.key.arm == "method":
            groups.setdefault(tuple(row.key[:-1]), []).append(row)
    if not groups:
        raise CoinbenchError("no number of a method in common; compare runs of the same methods and metrics")
    differences = [_difference(rows, *drawn) for rows in groups.values()]
    tested = [one for one in differences if isinstance(one, Difference)]
    corrected = iter(holm([one.p for one in tested]))
    return [
        Test(tuple(rows), one, next(corrected) if isinstance(one, Difference) else math.nan)
        for rows, one in zip(groups.values(), differences, strict=True)
    ]


def _difference(
    rows: Sequence[Matched], a: Mapping[Place, Resamples], b: Mapping[Place, Resamples]
) -> Difference | str:
    obstacles = [row.obstacle for row in rows if row.obstacle]
    if obstacles:
        return obstacles[0]
    sides = []
    for drawn, records in ((a, [row.a for row in rows]), (b, [row.b for row in rows])):
        found = ((r, drawn.get(Place(r.cell, r.metric, r.params))) for r in records)
        sides.append([Measured(value=r.value, seed=r.seed, n=r.n, resamples=one) for r, one in found])
    return difference(*sides)


def counts(tests: Sequence[Test]) -> str:
    """Return how many numbers of B are better, worse, tied: the answer in one line."""
    verdicts = [test.verdict.partition(":")[0] for test in tests]
    names = ("better", "worse", "differs", "tie", "not comparable")
    told = [f"{verdicts.count(name)} {name}" for name in names if verdicts.count(name) or name in ("better", "worse")]
    return f"B against A: {', '.join(told)}"


def as_text(tests: Sequence[Test], found: Comparison, a: Path, b: Path) -> str:
    """Return the verdicts as Markdown."""
    titles = {**titles_of(a), **titles_of(b)}
    lines = [counts(tests), "", f"A: {a}", f"B: {b}", *(f"- {note}" for note in found.notes)]
    compared = [test for test in tests if isinstance(test.found, Difference)]
    if compared:
        headers = ["data set", "metric", "setting", "method", "seeds", "A", "B", "B − A", "p (Holm)", "verdict"]
        lines += ["", *grid(headers, [_line(test, titles) for test in compared], labels=5), ""]
        lines.append(_explained(compared))
    obstacles: dict[tuple[str, str], list[str]] = {}
    for test in tests:
        if isinstance(test.found, str):
            key = test.rows[0].key
            named = f"{key.metric}{f' at {key.params}' if key.params else ''}"
            obstacles.setdefault((f"{key.method} on {key.dataset}", test.found), []).append(named)
    lines += [""] if obstacles else []
    lines += [f"- not comparable: {', '.join(named)} of {who}: {why}" for (who, why), named in obstacles.items()]
    if any("no resamples" in why for _, why in obstacles):
        lines.append("- `coinbench score RUN` stores the resamples of a run that has none.")
    return "\n".join(lines)


def _explained(compared: Sequence[Test]) -> str:
    over = list(dict.fromkeys(test.found.over for test in compared if isinstance(test.found, Difference)))
    text = (
        f"B − A [95 % interval], {paired_over(over)}; p corrected by Holm over {len(compared)} numbers; "
        f"a difference counts at 5 %{better_note([test.rows for test in compared])}."
    )
    if not all(" seeds" in one for one in over):
        text += (
            " Below five common seeds it is a difference of these trainings: between-seed uncertainty not estimable."
        )
    return text


def _line(test: Test, titles: Mapping[str, str]) -> list[str]:
    found, key = test.found, test.rows[0].key
    assert isinstance(found, Difference)
    a, b = pool([row.a for row in test.rows]), pool([row.b for row in test.rows])
    decimals = significant([a, b], digits=4)
    # A difference is often far smaller than the numbers: two digits of its error.
    fine = significant([Entry(value=found.error or found.value, seeds=(), n=0)], digits=2)
    fine = min(max(fine, decimals), 12)
    arrow = {True: " ↑", False: " ↓", None: ""}[test.rows[0].a.higher_is_better]
    title = titles.get(key.method, key.method)
    ends = ", ".join(rounded(end, fine).replace("-", "−") for end in (found.low, found.high))
    known = ends if found.error > 0 else "not estimable"
    return [
        *(key.dataset, f"{key.metric}{arrow}", key.params),
        title if key.variant == "default" else f"{title} ({key.variant})",
        " ".join(map(str, found.seeds)),
        *(rounded(entry.value, decimals) for entry in (a, b)),
        f"{rounded(found.value, fine).replace('-', '−')} [{known}]",
        f"{test.p:.3f}" if test.p >= 0.001 else "< 0.001",
        _SHOWN[test.verdict],
    ]


def as_json(tests: Sequence[Test], found: Comparison, a: Path, b: Path) -> str:
    """Return all verdicts as JSON."""
    rows = [{**_names(test), **_numbers(test), "verdict": test.verdict} for test in tests]
    whole = {"a": str(a), "b": str(b), "summary": counts(tests), "notes": found.notes, "tests": rows}
    return json.dumps(whole, indent=2, ensure_ascii=False)


def _names(test: Test) -> dict[str, Any]:
    named = test.rows[0].key._asdict()
    del named["seed"], named["arm"]
    return named


def _numbers(test: Test) -> dict[str, Any]:
    found = test.found
    values = {"a": pool([row.a for row in test.rows]).value, "b": pool([row.b for row in test.rows]).value}
    if isinstance(found, str):
        return {**values, "difference": None, "reason": found}
    told = {"difference": found.value, "p": found.p, "p_holm": test.p, "degrees": found.degrees}
    # Null where nothing moved in any resample: no error is known.
    sizes = {"low": found.low, "high": found.high, "error": found.error, "detectable": found.detectable()}
    size = {name: value if found.error > 0 else None for name, value in sizes.items()}
    return {**values, **told, **size, "seeds": list(found.seeds), "over": found.over}
