"""Which state of a training is kept: the best on validation images, never on test images; the last lies beside it.

A state is scored every so many steps and at the end. What was seen so far is part of the checkpoint, so that a training
that was cut chooses as an uninterrupted one does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from coinbench import weights
from coinbench.files import write_json

RECORD, LAST = "selection.json", "last.safetensors"
"""Beside the weights of a network that was selected: what was chosen among, and the state after the last step."""
_BEST = "best."


class Selection:
    """The best state of one training so far."""

    def __init__(self, every: int, score: Callable[[], float], of: str) -> None:
        """Begin without a state.

        Args:
            every: steps between two looks, > 0.
            score: of the network as it is now, in eval mode; higher is better, in [0, 1].
            of: what the score is, for the record.
        """
        self.every, self.score, self.of = every, score, of
        self.seen: list[tuple[int, float]] = []
        """Step (1-based) and score, rising by step."""
        self._best: dict[str, Tensor] = {}

    def due(self, done: int, steps: int) -> bool:
        """Tell whether the state after `done` of `steps` steps is one to choose among."""
        return done % self.every == 0 or done == steps

    @property
    def best(self) -> tuple[int, float]:
        """Step and score of the best state; of equal ones the earlier."""
        return max(self.seen, key=lambda row: row[1])

    def look(self, done: int, state: Mapping[str, Tensor]) -> float:
        """Score the network, whose own weights are `state`, and keep them if they are better than all before."""
        found = self.score()
        self.seen.append((done, found))
        if self.best[0] == done:
            # On the CPU: a GPU holds the network, its gradients and its optimiser already.
            self._best = {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
        return found

    def finish(self, state: Mapping[str, Tensor], folder: Path | None) -> None:
        """Write the last state and the record, then put the best state into the network.

        Args:
            state: the network's own weights after the last step; overwritten.
            folder: of the training's log, where its weights.safetensors will be the best state; None: write nothing.

        Raises:
            CoinbenchError: the folder cannot be written.
        """
        if folder is not None:
            last = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
            weights.write(last, folder / LAST, {"step": str(self.seen[-1][0])})
            named = {"best": (weights.FILE, self.best), "last": (LAST, self.seen[-1])}
            told = {kind: {"file": file, "step": step, self.of: value} for kind, (file, (step, value)) in named.items()}
            write_json(folder / RECORD, {"every": self.every, **told, "seen": [list(row) for row in self.seen]})
        for name, value in state.items():
            value.copy_(self._best[name])

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds of the best state."""
        return {f"{_BEST}{name}": value for name, value in self._best.items()}

    def told(self) -> str:
        """Return what a checkpoint says of the states seen."""
        return json.dumps({"every": self.every, "seen": self.seen})

    def load(self, tensors: Mapping[str, Tensor], told: str, step: int, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint after `step` steps.

        Args:
            tensors: of the checkpoint.
            told: what `told` returned.
            step: of the checkpoint.
            state: own weights of the network, which the best state must fit.

        Raises:
            ValueError: the checkpoint is of another selection, or damaged.
            KeyError: it lacks an entry.
        """
        found: Any = json.loads(told)
        seen = [(int(done), float(score)) for done, score in found["seen"]]
        due = [done for done in range(1, step + 1) if self.due(done, step + 1)]
        if found["every"] != self.every or [done for done, _ in seen] != due:
            raise ValueError(f"its states were chosen every {found['every']} steps, expected {self.every}")
        if not all(math.isfinite(score) for _, score in seen):
            raise ValueError("a score is not finite")
        best = {name: tensors[f"{_BEST}{name}"] for name in state} if seen else {}
        for name, value in best.items():
            if wrong := weights.unfit(value, state[name]):
                raise ValueError(f"{_BEST}{name} has {wrong}")
        self.seen, self._best = seen, best
