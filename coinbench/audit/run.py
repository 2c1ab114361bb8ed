"""The audit: what each number says of the oracle, of nothing, of damage, and of entrants that game it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from coinbench.audit.companions import Unwarned, unwarned
from coinbench.audit.entrants import Entrant, damaged, gaming, nulls
from coinbench.audit.measure import Bench, Measured, Reading, reordered
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
    oracle: Reading
    arms: Mapping[str, float]
    """Its own controls, measured on the oracle."""
    nulls: Mapping[str, Reading]
    """By entrant that knows nothing."""
    damage: Mapping[str, tuple[Reading, ...]]
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
        gap = abs(self.oracle.value - self.nulls["shuffled"].value) if "shuffled" in self.nulls else 0.0
        width = self.bounds[1] - self.bounds[0]
        # Shuffled concepts leave a number alone that is not about them.
        far = max(4 * self.reseed, TIE * width if math.isfinite(width) else TIE * abs(self.oracle.value))
        return gap if gap > far else width if math.isfinite(width) else math.nan

    @property
    def tells(self) -> bool:
        """Tell whether its judgement counts: the oracle has the best value there is, or does better than all that know
        nothing, but for noise."""
        if self.better is None:
            return False
        best = self.bounds[1] if self.better else self.bounds[0]
        at_best = abs(self.oracle.value - best) <= self.oracle.error + 2 * self.reseed
        return at_best or (bool(self.nulls) and not self.no_better_than)

    @property
    def no_better_than(self) -> tuple[str, ...]:
        """Return those that know nothing and do as well as the oracle, but for noise."""
        if self.better is None:
            return ()
        return tuple(name for name, found in self.nulls.items() if self.behind(found.value) <= self.noise(found))

    def behind(self, value: float) -> float:
        """Return by how much `value` is worse than the oracle's; NaN where no direction is better."""
        if self.better is None:
            return math.nan
        return self.oracle.value - value if self.better else value - self.oracle.value

    def noise(self, found: Reading) -> float:
        """Return the difference to the oracle that images, concepts and evaluation seeds explain."""
        return max(self.oracle.apart(found), 4 * self.reseed)

    def catches(self, found: Reading) -> bool:
        """Tell whether an entrant falls behind the oracle by more than noise and a fourth of the scale."""
        return self.tells and self.behind(found.value) > max(CAUGHT * self.scale, self.noise(found))

    def ranks_first(self, value: float) -> bool:
        """Tell whether an entrant does as well as the oracle, or better."""
        return self.behind(value) <= self._tie

    @property
    def _tie(self) -> float:
        return max(TIE * self.scale, 2 * self.reseed)

    def under(self, kind: str) -> str:
        """Say what damage of a kind does: falls, unmoved, rises or uneven; "" where no direction is better.

        A step the wrong way counts where it is more than noise, as does a rise above the oracle.

        >>> levels = {"blur": (Reading(0.8), Reading(0.5)), "noise": (Reading(1.0), Reading(1.0))}
        >>> one = Number("a", True, (0.0, 1.0), Reading(1.0), {}, {}, levels, 0.0, True, True)
        >>> one.under("blur"), one.under("noise")
        ('falls', 'unmoved')
        """
        if self.better is None or kind not in self.damage:
            return ""
        levels = (self.oracle, *self.damage[kind])
        behind = [self.behind(found.value) for found in levels]
        if not any(abs(gap) > self._tie for gap in behind):
            return "unmoved"
        back = any(
            behind[i] - behind[i + 1] > max(self._tie, levels[i].apart(levels[i + 1])) for i in range(len(levels) - 1)
        )
        if behind[-1] < -max(self._tie, self.noise(levels[-1])):
            return "rises"
        return "falls" if not back and behind[-1] > self._tie else "uneven"


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
    errors: Mapping[str, float] = field(default_factory=dict)
    """Half of the 95 % interval of each of its numbers."""


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

    def measured(what: str, entrant: Entrant) -> dict[str, Reading]:
        say(f"{what}: {entrant.name}")
        return bench.scores(entrant.coin).readings()

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
    without: dict[str, dict[str, Reading]],
    damage: dict[str, list[dict[str, Reading]]],
) -> tuple[Number, ...]:
    readings, values, arms = base.readings(), base.values(), base.nulls()

    def same(other: dict[str, float], name: str) -> bool:
        return math.isclose(other.get(name, math.nan), values[name], rel_tol=_ROUNDING, abs_tol=_ROUNDING)

    def number(name: str) -> Number:
        seeds = [values[name], *(found[name] for found in reseeded if name in found)]
        return Number(
            name=name,
            better=base.specs[name].higher_is_better,
            bounds=base.specs[name].bounds,
            oracle=readings[name],
            arms=arms.get(name, {}),
            nulls={who: found[name] for who, found in without.items() if name in found},
            damage={kind: tuple(f.get(name, Reading(math.nan)) for f in levels) for kind, levels in damage.items()},
            reseed=float(np.std(seeds, ddof=1)) if len(seeds) > 1 else 0.0,
            batch=same(batched, name),
            order=same(ordered, name),
        )

    return tuple(number(name) for name in values)


def judged(numbers: tuple[Number, ...], name: str, about: str, readings: Mapping[str, Reading]) -> Game:
    """Return which numbers rank an entrant first, and which catch it.

    Args:
        numbers: of the oracle.
        name: of the entrant.
        about: what it does.
        readings: its numbers.
    """
    values = {which: found.value for which, found in readings.items()}
    told = [number for number in numbers if number.name in values and number.better is not None]
    caught = [number for number in told if number.catches(readings[number.name])]
    caught.sort(key=lambda number: -number.behind(values[number.name]) / number.scale)
    first = tuple(number.name for number in told if number.ranks_first(values[number.name]))
    errors = {which: found.error for which, found in readings.items()}
    return Game(name, about, values, first, tuple(number.name for number in caught), errors)
