"""train.csv: what a training says of itself, a row at a time; on resume cut back to the checkpoint."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

from coinbench.errors import UsageError
from coinbench.files import cannot_write
from coinbench.log import Log


class Rows:
    """train.csv: step, seconds and named values; of several processes the first one writes it."""

    def __init__(self, log: Log, start: int) -> None:
        """Open the log of a training that goes on from step `start`."""
        self.path = log.folder / "train.csv"
        self.seconds, self.header, self.silent = 0.0, False, not log.group.first
        if self.silent:
            return
        self.board = _board(log, start)
        kept: list[list[str]] = []
        if start and self.path.is_file():
            kept, self.seconds = _kept(self.path, start)
        self.header = bool(kept)
        self._write("w", kept)

    def write(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Add a row; the names are those of the first row.

        Args:
            step: of the training.
            seconds: since this process began.
            values: by name.
        """
        if self.silent:
            return
        rows = [[str(step), f"{self.seconds + seconds:.2f}", *(f"{v:.6g}" for v in values.values())]]
        if not self.header:
            rows.insert(0, ["step", "seconds", *values])
            self.header = True
        self._write("a", rows)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
            # A thread of its own writes them, and nobody waits for it at the end.
            self.board.flush()

    def _write(self, mode: Literal["w", "a"], rows: list[list[str]]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _kept(path: Path, start: int) -> tuple[list[list[str]], float]:
    """Return header and rows of a log up to a step, and the seconds until then.

    Of a damaged log nothing is kept: the checkpoint alone decides how a training goes on.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        # A full disk may have left half a row.
        rows = [row for row in rows if len(row) == len(header) and int(row[0]) <= start]
        return [header, *rows], float(rows[-1][1]) if rows else 0.0
    except (OSError, ValueError, IndexError, csv.Error):
        return [], 0.0


def _board(log: Log, start: int):
    if not log.tensorboard:
        return None
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard needs the extra: pip install 'coinbench[track]'") from error
    return SummaryWriter(str(log.folder / "tensorboard"), purge_step=start)
