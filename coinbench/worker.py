"""The process around one cell: signals, threads, what it says, and its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
import typer

from coinbench import plugins
from coinbench.cache import Cache
from coinbench.errors import CoinbenchError, Interrupted, Lost, refused
from coinbench.group import launched
from coinbench.log import Event, Log
from coinbench.plan import read_cell
from coinbench.work import choose_device, planned_from, work

_INTERRUPTED = "interrupted; the same command resumes"


def serve(
    path: Path,
    folder: Path,
    cache: Cache,
    device: str,
    devices: int,
    threads: int | None,
    events: bool,
    tensorboard: bool,
    auto_batch: bool = False,
) -> None:
    """Bring the cell at `path` to its end; with `events`, speak JSON lines on stdout and stop when stdin closes.

    With several `devices`, or under torchrun or srun, this is one process of a group. All of them do the same; the
    first one talks, and each tells why it failed.
    """
    tell = teller() if events else _say_plain
    log = Log(folder, tell, tensorboard=tensorboard, auto_batch=auto_batch)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: log.stop.set())
    if events:
        threading.Thread(target=watch_parent, args=(log.stop,), daemon=True).start()
    if threads:
        torch.set_num_threads(threads)
    try:
        place = enter(log, device, devices)
        if threads:
            torch.set_num_threads(threads)
        work(planned_from(read_cell(path), folder), cache, place, log)
    except CoinbenchError as error:
        ended = settled(error, log)
        _fail(tell, events, str(ended), ended.exit_code)
    except Exception as error:
        if known := refused(error):
            _fail(tell, events, str(known), known.exit_code)
        if not events:
            raise
        _fail(tell, events, plugins.told(error), 1)
    if log.group.size > 1:
        distributed().leave()


def distributed() -> ModuleType:
    """Return the module that joins processes, which one alone never imports."""
    from coinbench import distributed

    return distributed


def enter(log: Log, device: str, devices: int) -> torch.device:
    """Make this process one of a group, where there is one, and silence the log of all but the first.

    Raises:
        UsageError: no such device here, or processes cannot be joined.
    """
    if devices == 1 and launched() == 1:
        return choose_device(device)
    log.group, place = distributed().join(devices, device)
    if not log.group.first:
        log.emit = lambda event: None
    return place


def settled(error: CoinbenchError, log: Log) -> CoinbenchError:
    """Return what ended the cell: a stop, where the other processes are gone since all were asked to stop."""
    return Interrupted(_INTERRUPTED) if isinstance(error, Lost) and log.stop.is_set() else error


def _fail(tell: Callable[[Event], None], events: bool, message: str, code: int) -> None:
    message = " ".join(message.split())
    if not events:
        error = CoinbenchError(message)
        error.exit_code = code
        raise error
    tell({"error": message, "exit": code})
    raise typer.Exit(code)


def teller() -> Callable[[Event], None]:
    """Return what speaks JSON lines on stdout; what others print goes to stderr from now on."""
    stdout = sys.stdout.fileno()
    channel = os.dup(stdout)
    os.dup2(sys.stderr.fileno(), stdout)

    def tell(event: Event) -> None:
        # When the executor is gone, `watch_parent` stops the work; until then there is nobody to tell.
        with contextlib.suppress(BrokenPipeError), open(channel, "w", closefd=False) as file:
            file.write(json.dumps(event) + "\n")

    return tell


def _say_plain(event: Event) -> None:
    step = f" {event['step']}/{event['steps']}" if "step" in event else ""
    sys.stderr.write(f"{event['stage']}{step}: {event['text']}\n")


def watch_parent(stop: threading.Event) -> None:
    """Stop when the executor is gone: its end of stdin closes, however it died."""
    # Unbuffered: a daemon thread inside a buffered read would abort the interpreter at its end.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()
