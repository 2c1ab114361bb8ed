"""What a long job says while it runs: progress with an estimate, rows of train.csv, and whether it must stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coinbench.errors import Interrupted
from coinbench.group import Group

Event = dict[str, Any]


@dataclass
class Log:
    """Given to everything that trains or evaluates."""

    folder: Path
    """Where checkpoints and train.csv of the job go."""
    emit: Callable[[Event], None] = lambda event: None
    """Receives events: {"stage", "step", "steps", "seconds_left", "text"}."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set by a signal handler; jobs look at it between steps."""
    stage: str = ""
    tensorboard: bool = False
    """Also write TensorBoard files beside train.csv."""
    judge: Callable[[Any], dict[str, float]] | None = None
    """Measures an unfinished generator now and then, where something to measure it with is at hand."""
    auto_batch: bool = False
    """Where memory is short, a training goes on with smaller parts of its batches."""
    group: Group = field(default_factory=Group)
    """The processes that do the job; the first one writes and talks."""
    _last: float = 0.0

    def at(self, stage: str, folder: Path) -> Log:
        """Return the log of one stage of the job, writing into `folder`."""
        return Log(folder, self.emit, self.stop, stage, self.tensorboard, self.judge, self.auto_batch, self.group)

    def say(self, text: str) -> None:
        """Report one line."""
        self.emit({"stage": self.stage, "text": text})

    def progress(self, step: int, steps: int, seconds_left: float, text: str = "") -> None:
        """Report progress, at most twice a second, and always the end."""
        now = time.monotonic()
        if step >= steps or now - self._last > 0.5:
            self._last = now
            self.emit(
                {
                    "stage": self.stage,
                    "step": step,
                    "steps": steps,
                    "seconds_left": round(seconds_left, 1),
                    "text": text,
                }
            )

    def check(self) -> None:
        """Raise if the job was asked to stop.

        Raises:
            Interrupted: a signal came; what was done is on disk.
        """
        if self.stop.is_set():
            raise Interrupted(f"{self.stage}: interrupted; the same command resumes")


@contextmanager
def stopping(log: Log) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM set `log.stop` while the job runs."""
    before = {n: signal.signal(n, lambda *_: log.stop.set()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
