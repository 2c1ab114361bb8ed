"""How far a long job on bytes is, for its log."""

from __future__ import annotations

import time

from coinbench.log import Log


class Pace:
    """Reports bytes of a job with an estimate of what is left."""

    def __init__(self, log: Log, total: int | None, what: str, done: int = 0) -> None:
        """Begin.

        Args:
            log: told of progress.
            total: bytes of the whole job, where that is known.
            what: the job, in a word or two.
            done: bytes that were done before, which say nothing of the pace.
        """
        self.log, self.total, self.what = log, total, what
        self.done, self.first, self.began = done, done, time.monotonic()

    def add(self, n: int) -> None:
        """Say that n bytes more are done."""
        self.at(self.done + n)

    def at(self, done: int) -> None:
        """Say how many bytes are done in all."""
        self.done = done
        seconds = max(time.monotonic() - self.began, 1e-3)
        pace = (self.done - self.first) / seconds
        total = max(self.total or self.done, self.done)
        text = f"{self.what}: {self.done / 1e6:,.0f}" + (f" of {total / 1e6:,.0f}" if self.total else "")
        # Steps in megabytes: a bar counts in whole numbers.
        steps = max(1, total // 10**6)
        whole = steps if self.done >= total and self.total else min(steps - 1, self.done // 10**6)
        self.log.progress(whole, steps, (total - self.done) / max(pace, 1.0), f"{text} MB, {pace / 1e6:.1f} MB/s")
