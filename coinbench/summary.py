"""What commands print on stdout: tables as Markdown or everything as JSON. Never imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coinbench import results
from coinbench.reports import tables

if TYPE_CHECKING:
    from coinbench.run import Finished


def folder_text(out: Path) -> str:
    """Return the tables of a run folder, and where the rest lies."""
    return f"{tables.print_tables(out)}\n\nreport: {out / 'report.html'}"


def folder_json(out: Path) -> str:
    """Return the rows of a run folder as JSON."""
    return json.dumps({"out": str(out), "results": _rows(out)}, indent=2)


def _rows(out: Path) -> list[dict[str, Any]]:
    if not (out / "results.parquet").is_file():
        return []
    return json.loads(results.read(out).to_json(orient="records") or "[]")


def as_text(finished: Finished) -> str:
    """Return the tables of a run and what it lacks."""
    lines = []
    if any(cell.done for cell in finished.planned):
        lines.append(folder_text(finished.out))
    for cell in finished.planned:
        outcome = finished.outcomes[cell.digest]
        if outcome.exit_code:
            lines.append(f"{cell.label}: {outcome.error}")
    lines += [f"{name}: not available, because {reason}" for name, reason in finished.unavailable.items()]
    return "\n".join(lines)


def as_json(finished: Finished) -> str:
    """Return cells and rows of a run as JSON."""
    cells = [
        {
            "cell": cell.digest,
            "label": cell.label,
            "exit": finished.outcomes[cell.digest].exit_code,
            "seconds": round(finished.outcomes[cell.digest].seconds, 1),
            "kept": finished.outcomes[cell.digest].kept,
            "error": finished.outcomes[cell.digest].error,
        }
        for cell in finished.planned
    ]
    whole = {
        "out": str(finished.out),
        "exit": finished.exit_code,
        "cells": cells,
        "unavailable": finished.unavailable,
        "results": _rows(finished.out),
    }
    return json.dumps(whole, indent=2)
