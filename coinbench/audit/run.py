"""The audit: what each number says of the oracle, of nothing, of damage, and of entrants that game it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from coinbench.audit.companions import Unwarned, unwarned
from coinbench.audit.entrants import Entrant, damaged, gaming, nulls
from coinbench.audit.measure import Bench, Measured, reordered
from coinbench.audit.oracle import Oracle

SEEDS = (1, 2)
"""Evaluation seeds besides that of the settings."""
SMALL_BATCH = 7
CAUGHT = 0.25
"""Share of a number's scale by which an entrant must fall behind the oracle to be caught by it."""
TIE = 0.02
"""Likewise, by which two are still equal."""
_ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class Number:
    """One number of one metric."""

    name: str
    better: bool | None
    bounds: tuple[float, float]
    oracle: float
    arms: Mapping[str, float]
    """Its own controls, measured on the oracle."""
    nulls: Mapping[str, float]
    """By entrant that knows nothing."""
    damage: Mapping[str, tuple[float, ...]]
    """By kind of damage, from little to much."""
    reseed: float
    """Standard deviation over evaluation seeds."""
    batch: bool
    """Whether it is the same with another size of batches."""
    order: bool
    """Whether it is the same with images in another order."""

    @property
    def scale(self) -> float:
        """Return how far a number can fall: from the oracle to shuffled concepts, else its bounds; NaN if unknown."""
        gap = abs(self.oracle - self.nulls["shuffled"]) if "shuffled" in self.nulls else 0.0
        width = self.bounds[1] - self.bounds[0]
        # Shuffled concepts leave a number alone that is not about them.
        far = max(4 * self.reseed, TIE * width if math.isfinite(width) else TIE * abs(self.oracle))
        return gap if gap > far else width if math.isfinite(width) else math.nan

    def behind(self, value: float) -> float:
        """Return by how much `value` is worse than the oracle's; NaN where no direction is better."""
        if self.better is None:
            return math.nan
        return self.oracle - value if self.better else value - self.oracle

    def catches(self, value: float) -> bool:
        """Tell whether an entrant falls behind the oracle by more than noise and a fourth of the scale."""
        return self.behind(value) > max(CAUGHT * self.scale, 4 * self.reseed)

    def ranks_first(self, value: float) -> bool:
        """Tell whether an entrant does as well as the oracle, or better."""
        return self.behind(value) <= self._tie

    @property
    def _tie(self) -> float:
        return max(TIE * self.scale, 2 * self.reseed)

    def under(self, kind: str) -> str:
        """Say what damage of a kind does: falls, unmoved, rises or uneven; "" where no direction is better.

        >>> one = Number("a", True, (0.0, 1.0), 1.0, {}, {}, {"blur": (0.8, 0.5), "noise": (1.0, 1.0)}, 0.0, True, True)
        >>> one.under("blur"), one.under("noise")
        ('falls', 'unmoved')
        """
        if self.better is None or kind not in self.damage:
            return ""
        behind = np.array([0.0, *(self.behind(value) for value in self.damage[kind])])
        if not (np.abs(behind) > self._tie).any():
            return "unmoved"
        if (np.diff(behind) >= -self._tie).all() and behind[-1] > self._tie:
            return "falls"
        return "rises" if behind[-1] < -self._tie else "uneven"


@dataclass(frozen=True, slots=True)
class Game:
    """How an entrant that games the numbers fared."""

    name: str
    about: str
    values: Mapping[str, float]
    first: tuple[str, ...]
    """Numbers that rank it with the oracle or above."""
    caught: tuple[str, ...]
    """Numbers that catch it, the clearest first."""


@dataclass(frozen=True, slots=True)
class Audit:
    """All that was found."""

    numbers: tuple[Number, ...]
    games: tuple[Game, ...]
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Metric -> why it has no numbers."""
    read_with: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    """Companions of each number."""

    @property
    def uncaught(self) -> list[Game]:
        """Return the entrants that some number ranks first and none catches."""
        return [game for game in self.games if not game.caught]

    @property
    def unwarned(self) -> list[Unwarned]:
        """Return the numbers that rank an entrant first and name no number that catches it."""
        return [one for game in self.games for one in unwarned(game.first, game.caught, game.name, self.read_with)]


def audit(bench: Bench, oracle: Oracle, say: Callable[[str], None] = lambda text: None) -> Audit:
    """Measure the oracle, damaged oracles, and entrants that know nothing or game the numbers.

    Args:
        bench: problem, metrics and settings.
        oracle: of that problem.
        say: is told what is measured next.
    """

    def measured(what: str, entrant: Entrant) -> dict[str, float]:
        say(f"{what}: {entrant.name}")
        return bench.scores(entrant.coin).values()

    say("the oracle")
    base = bench.scores(oracle)
    reseeded = []
    for seed in SEEDS:
        say(f"the oracle, evaluation seed {seed}")
        reseeded.append(bench.scores(oracle, seed=bench.config.seed + seed).values())
    say(f"the oracle in batches of {SMALL_BATCH}, and in another order")
    batched, ordered = (
        bench.scores(oracle, batch=SMALL_BATCH).values(),
        bench.scores(oracle, arrange=reordered).values(),
    )
    without = {entrant.name: measured("knows nothing", entrant) for entrant in nulls(oracle)}
    damage = {kind: [measured(kind, level) for level in levels] for kind, levels in damaged(oracle).items()}
    numbers = _numbers(base, reseeded, batched, ordered, without, damage)
    games = tuple(
        judged(numbers, entrant.name, entrant.about, measured("games the numbers", entrant))
        for entrant in gaming(oracle)
    )
    companions = {name: spec.companions for name, spec in base.specs.items()}
    return Audit(numbers, games, base.failures, companions)


def _numbers(
    base: Measured,
    reseeded: list[dict[str, float]],
    batched: dict[str, float],
    ordered: dict[str, float],
    without: dict[str, dict[str, float]],
    damage: dict[str, list[dict[str, float]]],
) -> tuple[Number, ...]:
    values, arms = base.values(), base.nulls()

    def same(other: dict[str, float], name: str) -> bool:
        return math.isclose(other.get(name, math.nan), values[name], rel_tol=_ROUNDING, abs_tol=_ROUNDING)

    def number(name: str) -> Number:
        seeds = [values[name], *(found[name] for found in reseeded if name in found)]
        return Number(
            name=name,
            better=base.specs[name].higher_is_better,
            bounds=base.specs[name].bounds,
            oracle=values[name],
            arms=arms.get(name, {}),
            nulls={who: found[name] for who, found in without.items() if name in found},
            damage={kind: tuple(f.get(name, math.nan) for f in levels) for kind, levels in damage.items()},
            reseed=float(np.std(seeds, ddof=1)) if len(seeds) > 1 else 0.0,
            batch=same(batched, name),
            order=same(ordered, name),
        )

    return tuple(number(name) for name in values)


def judged(numbers: tuple[Number, ...], name: str, about: str, values: Mapping[str, float]) -> Game:
    """Return which numbers rank an entrant first, and which catch it.

    Args:
        numbers: of the oracle.
        name: of the entrant.
        about: what it does.
        values: its numbers.
    """
    told = [number for number in numbers if number.name in values and number.better is not None]
    caught = [number for number in told if number.catches(values[number.name])]
    caught.sort(key=lambda number: -number.behind(values[number.name]) / number.scale)
    first = tuple(number.name for number in told if number.ranks_first(values[number.name]))
    return Game(name, about, values, first, tuple(number.name for number in caught))
