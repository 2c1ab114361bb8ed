"""The executor under torchrun or srun: the processes that they started work on one cell after another, all together.

The first one plans, leads and reports, as `coinbench run` does; the others do what it says. A cell that fails ends the
command in all of them, since nobody can tell whether the others still wait for each other.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coinbench.cache import Cache
from coinbench.config import Cell
from coinbench.errors import CoinbenchError, UsageError, refused
from coinbench.executors.local import Outcome
from coinbench.group import launched
from coinbench.log import Log
from coinbench.plan import Planned
from coinbench.progress import Display
from coinbench.work import planned_from, work
from coinbench.worker import distributed, enter, settled


class GroupExecutor:
    """This process's place in the group, and what it does there."""

    def __init__(self, cache: Cache, device: str, devices: int, jobs: int, tensorboard: bool = False) -> None:
        """Join the group.

        Args:
            cache: shared by all processes.
            device: auto, cpu or cuda.
            devices: as given on the command line; 1, or the number of processes.
            jobs: as given on the command line; 1.
            tensorboard: also log to TensorBoard.

        Raises:
            UsageError: the numbers are others, or the processes cannot be joined.
        """
        if devices not in (1, launched()):
            raise UsageError(f"--devices {devices}: {launched()} processes were started; leave --devices out")
        if jobs > 1:
            raise UsageError(f"--jobs {jobs}: the {launched()} processes that were started work on one cell at a time")
        self.log = Log(Path(), tensorboard=tensorboard)
        self.cache, self.place = cache, enter(self.log, device, launched())
        self._within = False

    @property
    def processes(self) -> int:
        """Processes that share a cell."""
        return self.log.group.size

    @property
    def leads(self) -> bool:
        """Tell whether this is the process that plans and reports."""
        return self.log.group.first

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the cell in all processes, after a checkpoint; release the others at the end."""
        stop: threading.Event = self.log.stop
        before = {n: signal.signal(n, lambda *_: stop.set()) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if not self._within:
                if self.leads:
                    self.log.group.lead(_nothing)
                distributed().leave()

    def run(self, planned: list[Planned], display: Display) -> dict[str, Outcome]:
        """Bring the cells to their end, one after another; finished ones are kept."""
        outcomes = {}
        for cell in planned:
            if cell.done:
                outcomes[cell.digest] = Outcome(0, kept=True)
                display.end(cell.label, "kept")
                continue
            began = time.monotonic()
            self.log.emit = lambda event, label=cell.label: display.event(label, event)
            self.log.group.lead(lambda cell=cell: (cell.cell.model_dump_json(), str(cell.folder)))
            self._do(cell)
            outcomes[cell.digest] = Outcome(0, time.monotonic() - began)
            display.end(cell.label, f"done in {outcomes[cell.digest].seconds:.0f} s")
        return outcomes

    def follow(self) -> None:
        """Do what the first process says until there is nothing left.

        Raises:
            CoinbenchError: a cell failed here; says in which process.
        """
        while (task := self.log.group.lead(_nothing)) is not None:
            cell, folder = task
            self._do(planned_from(Cell.model_validate_json(cell), Path(folder)))

    def _do(self, cell: Planned) -> None:
        self._within = True
        try:
            work(cell, self.cache, self.place, self.log.at("", cell.folder))
        except Exception as error:
            known = settled(error, self.log) if isinstance(error, CoinbenchError) else refused(error)
            if known is None or self.leads:
                raise known or error from error
            failed = CoinbenchError(f"process {self.log.group.rank}: {known}")
            failed.exit_code = known.exit_code
            raise failed from error
        self._within = False


def _nothing() -> tuple[str, str] | None:
    """Return the cell that the others are to do: none."""
    return None
