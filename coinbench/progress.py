"""What a run shows on stderr: bars on a terminal, plain lines elsewhere, nothing with --quiet."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from coinbench.log import Event

_PLAIN_SECONDS = 10.0


class _Console(Console):
    """A console that tells when its reader is gone; rich would end the thread that prints."""

    def on_broken_pipe(self) -> None:
        """Let the BrokenPipeError through that is being handled."""
        raise


class Display:
    """Shows the events of workers, one bar or line per cell."""

    def __init__(self, quiet: bool = False) -> None:
        """Decide by stderr whether bars can be drawn."""
        self.quiet = quiet
        self.console = _Console(stderr=True, highlight=False, soft_wrap=True)
        self.bars: Progress | None = None
        if not quiet and sys.stderr.isatty():
            self.bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=self.console,
            )
        self.tasks: dict[str, TaskID] = {}
        self.shown: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Display:
        """Start drawing."""
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if self.bars is not None:
            with suppress(OSError):
                self.bars.stop()

    def say(self, text: str) -> None:
        """Print one line."""
        if self.quiet:
            return
        try:
            self.console.print(text, markup=False)
        except OSError:
            # The terminal or the reader of a pipe is gone: the run goes on without a word.
            self.quiet = True

    def event(self, label: str, event: Event) -> None:
        """Show one event of the worker of the cell called `label`."""
        if self.quiet:
            return
        if "step" not in event:
            self.say(f"{label}: {event['stage']}: {event['text']}")
            return
        left = f"{_clock(event['seconds_left'])} left"
        note = f"{event['step']}/{event['steps']}, {event['text']}, {left}"
        if self.bars is not None:
            self._bar(label, event, note)
            return
        stage, last = self.shown.get(label, ("", -1e9))
        ended = event["step"] >= event["steps"]
        if stage != event["stage"] or ended or time.monotonic() - last >= _PLAIN_SECONDS:
            self.shown[label] = (event["stage"], time.monotonic())
            self.say(f"{label}: {event['stage']} {note}")

    def _bar(self, label: str, event: Event, note: str) -> None:
        assert self.bars is not None
        if label not in self.tasks:
            self.tasks[label] = self.bars.add_task(label, note="")
        self.bars.update(
            self.tasks[label],
            total=event["steps"],
            completed=event["step"],
            description=f"{label}: {event['stage']}",
            note=note,
        )

    def end(self, label: str, text: str) -> None:
        """Close the bar of a cell with a line."""
        if self.bars is not None and label in self.tasks:
            self.bars.remove_task(self.tasks.pop(label))
        self.say(f"{label}: {text}")


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
