"""Concepts of a whole split, kept on the CPU, and the global relevance r_{k,c} that is computed from them once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coinbench.coin import CoIN
from coinbench.concepts import Concepts
from coinbench.problem import Batch, Problem
from coinbench.trace import Trace


@dataclass(frozen=True, slots=True)
class ConceptBank:
    """What one CoIN says about each image of a split, in order of index."""

    index: Int[Tensor, "N"]
    concepts: Concepts
    relevance: Float[Tensor, "N K"]
    """r_k(x), for the predicted class."""
    predicted: Int[Tensor, "N"]
    """ĉ = argmax g(x)."""

    @staticmethod
    def of(traces: Iterable[Trace]) -> ConceptBank:
        """Collect from traces, sorted by index."""
        return ConceptBank.join(
            [
                ConceptBank(
                    trace.index.cpu(),
                    trace.concepts.to("cpu"),
                    trace.relevance.cpu(),
                    trace.predicted.cpu(),
                )
                for trace in traces
            ]
        )

    @staticmethod
    def join(parts: list[ConceptBank]) -> ConceptBank:
        """Join the banks of batches, sorted by index."""
        index = torch.cat([part.index for part in parts])
        order = index.argsort()
        return ConceptBank(
            index[order],
            Concepts.cat([part.concepts for part in parts]).rows(order),
            torch.cat([part.relevance for part in parts])[order],
            torch.cat([part.predicted for part in parts])[order],
        )

    def global_relevance(self, n_classes: int) -> Float[Tensor, "Y K"]:
        """Return r_{k,c}, the mean of r_k(x) over images with ĉ = c; 0 for a class never predicted."""
        return class_means(self.relevance, self.predicted, n_classes)


def class_means(values: Float[Tensor, "N K"], classes: Int[Tensor, "N"], n_classes: int) -> Float[Tensor, "Y K"]:
    """Return the mean row per class, in float64 sums; 0 where a class has no row.

    >>> class_means(torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1]), 3).flatten().tolist()
    [0.0, 2.0, 0.0]
    """
    sums = torch.zeros(n_classes, values.shape[1], dtype=torch.float64)
    sums.index_add_(0, classes, values.double())
    counts = torch.bincount(classes, minlength=n_classes).clamp_min(1)
    return (sums / counts[:, None]).to(values.dtype)


@torch.no_grad()
def build_bank(coin: CoIN, problem: Problem, batches: Iterable[Batch], *, turns: bool = False) -> ConceptBank:
    """Run a CoIN over the batches of a split and keep its concepts.

    Args:
        coin: the network.
        problem: gives f, on whose taps it may stand.
        batches: of a split.
        turns: they are those of this process's turns, and the bank is that of all processes.
    """
    own = (ConceptBank.of([Trace(coin, problem, batch)]) for batch in batches)
    return ConceptBank.join(problem.group.join(own) if turns else list(own))
