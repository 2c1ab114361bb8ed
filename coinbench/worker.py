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

import torch
import typer

from coinbench import plugins
from coinbench.cache import Cache
from coinbench.errors import CoinbenchError, refused
from coinbench.log import Event, Log
from coinbench.plan import read_cell
from coinbench.work import choose_device, planned_from, work


def serve(
    path: Path, folder: Path, cache: Cache, device: str, threads: int | None, events: bool, tensorboard: bool
) -> None:
    """Bring the cell at `path` to its end; with `events`, speak JSON lines on stdout and stop when stdin closes."""
    log = Log(folder, teller() if events else _say_plain, tensorboard=tensorboard)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: log.stop.set())
    if events:
        threading.Thread(target=watch_parent, args=(log.stop,), daemon=True).start()
    if threads:
        torch.set_num_threads(threads)
    try:
        work(planned_from(read_cell(path), folder), cache, choose_device(device), log)
    except CoinbenchError as error:
        _fail(log, events, str(error), error.exit_code)
    except Exception as error:
        if known := refused(error):
            _fail(log, events, str(known), known.exit_code)
        if not events:
            raise
        _fail(log, events, plugins.told(error), 1)


def _fail(log: Log, events: bool, message: str, code: int) -> None:
    message = " ".join(message.split())
    if not events:
        error = CoinbenchError(message)
        error.exit_code = code
        raise error
    log.emit({"error": message})
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
