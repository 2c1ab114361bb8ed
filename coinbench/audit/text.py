"""An audit as Markdown and as JSON values."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from coinbench.audit.run import Audit, Game, Number

_MOST = 6
"""Numbers named in a cell; the others are counted."""


def markdown(found: Audit, head: str) -> str:
    """Return both tables, and what is doubtful, under `head`."""
    kinds = list(dict.fromkeys(kind for number in found.numbers for kind in number.damage))
    columns = ["number", "better", "oracle", "shuffled", "constant", "its own controls", *kinds]
    rows = [_row(number, kinds) for number in found.numbers]
    parts = [head, "## Numbers", _table([*columns, "reseed sd", "batch", "order"], rows)]
    games = [[game.name, game.about, _named(game.first), _caught(game, found)] for game in found.games]
    titles = ["entrant", "what it does", "ranked with the oracle or above by", "caught by (its value, the oracle's)"]
    parts += ["## Entrants that game the numbers", _table(titles, games), _verdict(found)]
    if doubts := _doubts(found):
        parts += ["## Doubts", "\n".join(doubts)]
    if found.unavailable:
        lines = [f"* {name}: {why}" for name, why in found.unavailable.items()]
        parts += ["## Not measured", "\n".join(lines)]
    return "\n\n".join(parts)


def as_dict(found: Audit) -> dict[str, Any]:
    """Return all that was found as JSON values; a number that is not finite as None."""
    return _finite(
        {
            "numbers": [
                asdict(number) | {"under_damage": {kind: number.under(kind) for kind in number.damage}}
                for number in found.numbers
            ],
            "entrants": [asdict(game) for game in found.games],
            "uncaught": [game.name for game in found.uncaught],
            "unwarned": [asdict(one) for one in found.unwarned],
            "unavailable": dict(found.unavailable),
        }
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(number: Number, kinds: list[str]) -> list[str]:
    better = {True: "higher", False: "lower", None: ""}[number.better]
    nulls = [_number(number.nulls[name].value) if name in number.nulls else "" for name in ("shuffled", "constant")]
    arms = ", ".join(f"{arm} {_number(value)}" for arm, value in number.arms.items())
    damage = [
        f"{number.under(kind)} {' '.join(_number(found.value) for found in number.damage.get(kind, ()))}".strip()
        for kind in kinds
    ]
    same = ["same" if holds else "differs" for holds in (number.batch, number.order)]
    return [number.name, better, _number(number.oracle.value), *nulls, arms, *damage, _number(number.reseed), *same]


def _number(value: float) -> str:
    """Return three significant digits.

    >>> _number(0.12345), _number(float("nan")), _number(-0.0)
    ('0.123', '', '0')
    """
    return "" if math.isnan(value) else f"{value + 0.0:.3g}"


def _caught(game: Game, found: Audit) -> str:
    oracle = {number.name: number.oracle.value for number in found.numbers}
    told = [f"{name} ({_number(game.values[name])}, {_number(oracle[name])})" for name in game.caught]
    return _named(tuple(told)) or "**nothing**"


def _named(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _doubts(found: Audit) -> list[str]:
    """Return a line for each number that does not do what a number must, with what follows from it."""
    lines = []
    for number in found.numbers:
        kinds = {said: ", ".join(k for k in number.damage if number.under(k) == said) for said in ("rises", "uneven")}
        if kinds["rises"]:
            lines.append(
                f"* {number.name} gets better under {kinds['rises']}: a good value may come of concepts that mean less."
            )
        if kinds["uneven"]:
            lines.append(
                f"* {number.name} is uneven under {kinds['uneven']}: it does not tell little damage from much, nor two "
                "methods that differ by as much."
            )
        if number.better is not None and number.no_better_than and not number.tells:
            same = " and ".join(f"{name} {_number(number.nulls[name].value)}" for name in number.no_better_than)
            lines.append(
                f"* {number.name} of the oracle, {_number(number.oracle.value)}, is but for noise no better than that "
                f"of {same}: it does not tell concepts with a meaning from others, and catches nobody here."
            )
        for what, same in (("batches of another size", number.batch), ("another order", number.order)):
            if not same:
                lines.append(f"* {number.name} differs in {what}.")
    return lines


def _verdict(found: Audit) -> str:
    lines = [f"Not caught: {game.name}, ranked first by {_named(game.first) or 'none'}." for game in found.uncaught]
    lines = lines or [f"All {len(found.games)} are caught."]
    return "\n".join((*lines, *(f"No warning: {one}." for one in found.unwarned)))


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
