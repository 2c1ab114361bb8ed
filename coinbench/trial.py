"""A few real steps of a training, timed, and the memory that they took; nothing of them is kept.

What `coinbench plan` estimates with, and what benchmarks/calibrate.py calibrates the presets with.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from coinbench import plugins
from coinbench.config import TrainConfig
from coinbench.errors import CoinbenchError, Interrupted, refused
from coinbench.log import Log

WARM_UP = 1
"""Steps before the first that counts: kernels are chosen and memory is asked for in it."""
SECONDS = 60.0
"""A measurement that takes longer ends with the step it is in, if one step counted."""


class _Enough(BaseException):
    """Ends a training from within, also one that catches every Exception."""


class Clock(Log):
    """A log that notes when each step ended, and ends the training after a number of them."""

    def __init__(self, folder: Path, steps: int, outer: Log | None = None) -> None:
        """Begin without a step.

        Args:
            folder: for what a training writes on its way.
            steps: that count.
            outer: whose signal to stop is heeded.
        """
        super().__init__(folder)
        self.stop = outer.stop if outer else self.stop
        self.wanted, self.ends, self.began = steps, [], time.perf_counter()

    def progress(self, step: int, steps: int, seconds_left: float, text: str = "") -> None:
        """Note the moment."""
        self.ends.append(time.perf_counter())
        counted = len(self.ends) - WARM_UP
        if counted >= self.wanted or (counted > 0 and self.ends[-1] - self.began > SECONDS):
            raise _Enough

    def seconds(self) -> list[float]:
        """Return the time of each step that counts."""
        return [float(s) for s in np.diff(self.ends)]


@dataclass(slots=True)
class Peak:
    """The most memory of a block, in bytes: of the process on the CPU, of the device's tensors on CUDA."""

    memory: int = 0
    how: str = ""


@contextmanager
def peak_of(device: torch.device) -> Iterator[Peak]:
    """Measure the peak of what runs in the block."""
    found = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.memory, found.how = torch.cuda.max_memory_allocated(device), "torch.cuda.max_memory_allocated"
        return
    # Linux forgets the peak so far when asked to; elsewhere that of an earlier block may stand.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    yield found
    found.memory, found.how = _resident_peak(), "peak resident memory of the process"


def _resident_peak() -> int:
    with suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        if told := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
            return 1024 * int(told[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


@dataclass(frozen=True, slots=True)
class Measured:
    """What a trial of a training found."""

    seconds: list[float] = field(default_factory=list)
    """Of each step that counts; of a training without steps of its own, one: all of it."""
    memory: int = 0
    """Peak, in bytes."""
    whole: bool = False
    """The training told no steps: it was done to its end."""
    note: str = ""
    """Why there are fewer steps than asked for, or none."""


def quick(train: TrainConfig, steps: int) -> TrainConfig:
    """Return the settings for a trial of so many steps: the cell's own but for the end, every step told.

    One step more than are done: what a training does after its last step is no part of a step.
    """
    return train.model_copy(update={"steps": WARM_UP + steps + 1, "log_every": 1, "checkpoint_seconds": 1e9})


def measure(fit: Callable[[Clock], object], clock: Clock, device: torch.device) -> Measured:
    """Run a training until its clock has seen enough.

    Args:
        fit: trains with the clock as its log and `quick` settings.
        clock: unused so far.
        device: whose memory counts.

    Raises:
        Interrupted: asked to stop.
    """
    note, began = "", time.perf_counter()
    with peak_of(device) as peak:
        try:
            fit(clock)
        except _Enough:
            pass
        except Interrupted:
            raise
        # A network from scratch on noise may diverge at the rate of its recipe: the steps before took their time.
        except Exception as error:
            known = error if isinstance(error, CoinbenchError) else refused(error)
            note = f"ended early: {known or plugins.told(error)}"
    took = time.perf_counter() - began
    if steps := clock.seconds():
        return Measured(steps, peak.memory, note=note)
    if note:
        return Measured(memory=peak.memory, note=note)
    return Measured([took], peak.memory, whole=True)
