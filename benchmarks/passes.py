"""Counts how many images go through f, p, `encode` and `decode`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from coinbench.coin import CoIN
from coinbench.problem import Problem

KINDS = ("f", "encode", "decode", "p")


@contextmanager
def counted(coin: CoIN, problem: Problem) -> Iterator[Counter[str]]:
    """Count, within the block, the images that f (shared or the method's own), p, `encode` and `decode` work on."""
    count: Counter[str] = Counter()
    inside: set[str] = set()

    def counting(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(network: Any, given: Any) -> Any:
            if kind in inside:
                # f's forward asks for its own taps: one pass.
                return function(network, given)
            count[kind] += len(given)
            inside.add(kind)
            try:
                return function(network, given)
            finally:
                inside.remove(kind)

        return call

    # On the classes: what a Trace remembers of f never reaches them.
    networks = (problem.classifier, coin.classifier)
    places = {("f", type(f), name) for f in networks for name in ("forward", "taps")}
    places |= {("p", type(problem.perceptual), "forward")}
    places |= {(kind, type(coin), kind) for kind in ("encode", "decode")}
    with ExitStack() as stack:
        for kind, owner, name in places:
            stack.enter_context(patch.object(owner, name, counting(kind, getattr(owner, name))))
        yield count


def as_text(count: Counter[str], images: int) -> str:
    """Return the passes per image.

    >>> as_text(Counter(f=8, encode=4, decode=4), 4)
    'f 2.0, encode 1.0, decode 1.0, p 0.0'
    """
    return ", ".join(f"{kind} {count[kind] / images:.1f}" for kind in KINDS)
