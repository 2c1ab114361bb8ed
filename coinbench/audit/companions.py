"""A number that ranks an entrant first must name a number that catches it: the warning beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coinbench.companions import parse


@dataclass(frozen=True, slots=True)
class Unwarned:
    """A number that ranks an entrant first, with no companion that catches it."""

    entrant: str
    number: str
    """As "faithfulness tau=0.2"."""
    companions: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in a line."""
        named = ", ".join(self.companions)
        return (
            f"{self.number} ranks {self.entrant} first; {f'of {named} none catches it' if named else 'it names none'}"
        )


def unwarned(
    first: Sequence[str], caught: Sequence[str], entrant: str, read_with: Mapping[str, tuple[str, ...] | None]
) -> list[Unwarned]:
    """Return the numbers that rank an entrant first and name no number that catches it.

    Args:
        first: numbers that rank it with the oracle or above.
        caught: numbers that catch it.
        entrant: its name.
        read_with: companions of each number: () for one that says nothing of a method, as the accuracy of f; None for
            one of which nobody said.

    >>> [str(one) for one in unwarned(["mse"], ["leakage_share"], "copies x", {"mse": ("leakage_share",)})]
    []
    >>> [str(one) for one in unwarned(["mse"], ["leakage_share"], "copies x", {"mse": ("concept_flags",)})]
    ['mse ranks copies x first; of concept_flags none catches it']
    """
    catching = {name.partition(" ")[0] for name in caught}
    return [
        Unwarned(entrant, name, named or ())
        for name in first
        if (named := read_with.get(name, ())) != () and not {parse(text)[0] for text in named or ()} & catching
    ]
