"""The default executor: a pool of worker processes on this machine.

Every executor runs exactly `python -m coinbench worker CELL.json --folder DIR`; it only places cells.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from coinbench.errors import CoinbenchError
from coinbench.files import write_json
from coinbench.plan import Planned
from coinbench.progress import Display

_PATIENCE_SECONDS = 60.0
"""A worker that was asked to stop finishes its step and saves; after this long it is killed."""
_COMPLAINT_LINES = 1000
"""So many last lines of a worker's stderr are kept."""
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""glibc gives the memory of large tensors back at once; paging it in anew took a tenth of a small network's step.

32 MiB is the most that every version takes for the first; settings of the user's own environment win."""
_TO_CHECK = "check Python's installation and the limits on processes and memory"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one cell ended."""

    exit_code: int
    seconds: float = 0.0
    error: str = ""
    kept: bool = False
    """The results of an earlier run were kept."""


@runtime_checkable
class Executor(Protocol):
    """What a run needs of whatever places its cells."""

    @property
    def processes(self) -> int:
        """Processes that share a cell."""
        ...

    def run(self, planned: list[Planned], display: Display) -> dict[str, Outcome]:
        """Bring the cells to their end; finished ones are kept."""
        ...


@dataclass(slots=True)
class LocalExecutor:
    """Runs at most `jobs` workers at a time."""

    jobs: int
    cache: Path
    device: str = "auto"
    devices: int = 1
    """Processes of a worker, each with a device of its own."""
    tensorboard: bool = False
    auto_batch: bool = False
    fail_fast: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[_Worker] = field(default_factory=list)

    @property
    def processes(self) -> int:
        """Processes that share a cell."""
        return self.devices

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Turn SIGINT, SIGTERM and SIGHUP into a call of `stop` while workers run, else into KeyboardInterrupt.

        A second signal does not wait for the workers: they are killed.
        """
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            # nohup ignores it, so that a run outlives its terminal.
            numbers.append(signal.SIGHUP)
        before = [signal.signal(number, self._asked) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _asked(self, *_: object) -> None:
        if self._stop.is_set() or not self._running:
            raise KeyboardInterrupt
        self.stop()

    def stop(self) -> None:
        """Ask for the end: running workers save a checkpoint, waiting cells are not begun."""
        self._stop.set()

    def run(self, planned: list[Planned], display: Display) -> dict[str, Outcome]:
        """Bring the cells to their end; finished ones are kept."""
        outcomes: dict[str, Outcome] = {}
        waiting: list[Planned] = []
        for cell in planned:
            if cell.done:
                outcomes[cell.digest] = Outcome(0, kept=True)
                display.end(cell.label, "kept")
            else:
                waiting.append(cell)
        running = self._running
        # Threads per worker are fixed by --jobs, not by what happens to run, so that numbers do not depend on it.
        threads = max(1, (os.cpu_count() or 1) // (self.jobs * self.devices))

        def end(cell: Planned, outcome: Outcome) -> None:
            outcomes[cell.digest] = outcome
            display.end(cell.label, outcome.error or f"done in {outcome.seconds:.0f} s")
            if outcome.exit_code and self.fail_fast:
                self.stop()

        try:
            while waiting or running:
                while waiting and len(running) < self.jobs and not self._stop.is_set():
                    cell = waiting.pop(0)
                    try:
                        running.append(_Worker(cell, self, threads, display))
                    except (CoinbenchError, OSError) as error:
                        end(cell, Outcome(1, error=f"failed: the worker cannot be started ({error}); {_TO_CHECK}"))
                for worker in [worker for worker in running if worker.ended()]:
                    running.remove(worker)
                    end(worker.cell, worker.outcome(interrupted=self._stop.is_set()))
                if self._stop.is_set():
                    for cell in waiting:
                        outcomes[cell.digest] = Outcome(130, error="not begun")
                    waiting.clear()
                    for worker in running:
                        worker.ask_to_stop()
                time.sleep(0.05)
        finally:
            for worker in running:
                worker.kill()
            running.clear()
        return outcomes


class _Worker:
    """One subprocess and the threads that read what it says."""

    def __init__(self, cell: Planned, executor: LocalExecutor, threads: int, display: Display) -> None:
        self.cell, self.display = cell, display
        self.began = time.monotonic()
        self.asked: float | None = None
        self.error, self.code, self.many = "", 0, executor.devices > 1
        self.complaint: deque[str] = deque(maxlen=_COMPLAINT_LINES)
        self.path = cell.folder.with_name(f"{cell.digest}.json")
        write_json(self.path, cell.cell.model_dump(mode="json"))
        command = [sys.executable, "-m", "coinbench", "worker", str(self.path)]
        command += ["--folder", str(cell.folder), "--cache", str(executor.cache)]
        command += ["--device", executor.device, "--devices", str(executor.devices)]
        command += ["--threads", str(threads), "--events"]
        command += ["--tensorboard"] * executor.tensorboard + ["--auto-batch"] * executor.auto_batch
        # A session of its own, so that Ctrl-C reaches this process alone and workers are stopped in order. They
        # also watch stdin: when this process is killed, it closes and they stop.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            env={**ALLOCATION, **os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self.readers = [threading.Thread(target=self._events), threading.Thread(target=self._complaints)]
        for reader in self.readers:
            reader.start()

    def _events(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if "error" in event:
                # Of several processes the first one to fail knows why; the others miss it.
                self.error, self.code = self.error or event["error"], self.code or event["exit"]
            else:
                self.display.event(self.cell.label, event)

    def _complaints(self) -> None:
        assert self.process.stderr is not None
        self.complaint += self.process.stderr

    def ended(self) -> bool:
        return self.process.poll() is not None

    def ask_to_stop(self) -> None:
        if self.asked is None:
            self.asked = time.monotonic()
            self.process.send_signal(signal.SIGTERM)
        elif time.monotonic() - self.asked > _PATIENCE_SECONDS:
            self.process.kill()

    def kill(self) -> None:
        """End it at once; what it did since its last checkpoint is lost."""
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        if self.many:
            # Processes that the worker started and that may wait for it forever; they are of its session.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        for reader in self.readers:
            reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.path.unlink(missing_ok=True)

    def outcome(self, interrupted: bool) -> Outcome:
        self._close()
        code, seconds = self.process.returncode, time.monotonic() - self.began
        if code and self.code:
            code = self.code
        if code == 0:
            return Outcome(0, seconds)
        if code == 130 or (interrupted and code < 0):
            return Outcome(130, seconds, "interrupted; the same command resumes")
        error = self.error
        if not error and code < 0:
            name = signal.Signals(-code).name
            hint = ", perhaps out of memory: lower train.batch, evaluation.batch or --jobs" if name == "SIGKILL" else ""
            error = f"the worker was killed by {name}{hint}; the same command resumes"
        error = error or (self.complaint[-1].strip() if self.complaint else f"the worker ended with code {code}")
        # A full disk must not cost the other cells because this one's failure cannot be written down.
        with suppress(CoinbenchError, OSError):
            write_json(self.cell.folder / "cell.json", self.cell.cell.model_dump(mode="json"))
            write_json(self.cell.folder / "error.json", {"error": error, "exit": code})
            if self.complaint:
                (self.cell.folder / "stderr.txt").write_text("".join(self.complaint), encoding="utf-8")
        return Outcome(code if code in (2, 4) else 1, seconds, f"failed: {error}")
