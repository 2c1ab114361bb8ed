"""What keeps a loss or a gradient that is not finite from the weights, without waiting for the device in each step.

Terms and verdicts stay on the device until somebody looks. From the first bad step on no step changes the weights, so
that whenever that is, they are those of the last good step, and the terms are those of the bad one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Seen:
    """The latest step of a training, or the first bad one."""

    step: int
    terms: dict[str, float]
    sound: bool
    """All terms and the gradient are finite."""


def is_lazy(device: torch.device) -> bool:
    """Tell whether to look at a number means to wait for the device."""
    return device.type == "cuda"


class Guard:
    """Watches the steps of one training."""

    def __init__(self, device: torch.device) -> None:
        """Begin with no step seen."""
        self.lazy = is_lazy(device)
        """Looking waits for the device; elsewhere it costs nothing and is done after every step."""
        self.stopped = torch.zeros((), device=device)
        """1 from the first bad step on, float32: what torch's fused optimisers call found_inf."""
        self._names: tuple[str, ...] = ()
        self._kept = torch.zeros(2, dtype=torch.float64, device=device)

    def see(self, step: int, terms: dict[str, Tensor], norm: Tensor | None) -> None:
        """Judge a step before it changes the weights.

        Args:
            step: its number.
            terms: float64 scalars by name.
            norm: of the gradient; None where it may be infinite, as that of fp16's scaled losses.
        """
        norm = torch.zeros_like(self.stopped) if norm is None else norm.detach()
        # Filled on the device: a number that is copied to it would be waited for.
        number = self.stopped.new_full((), step, dtype=torch.float64)
        zero = torch.zeros_like(number)
        if new := [name for name in terms if name not in self._names]:
            # A term that begins late was 0 before, as is one that ends early from then on.
            *known, last, at = self._kept
            self._kept = torch.stack([*known, *[zero] * len(new), last, at])
            self._names += tuple(new)
        found = torch.stack([*(terms.get(name, zero) for name in self._names), norm.double(), number])
        self._kept = torch.where(self.stopped > 0, self._kept, found)
        self.stopped = self.stopped.maximum((~found.isfinite()).any().float())

    def look(self) -> Seen:
        """Wait for the device; where all terms are finite and the gradient is not, that is one more term."""
        stopped, *values, norm, step = torch.cat([self.stopped.double()[None], self._kept]).tolist()
        terms = dict(zip(self._names, values, strict=True))
        if math.isfinite(math.fsum(terms.values())) and not math.isfinite(norm):
            terms["gradient"] = norm
        return Seen(int(step), terms, not stopped)
