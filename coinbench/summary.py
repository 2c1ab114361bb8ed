"""What commands print on stdout: tables as Markdown or everything as JSON. Never imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coinbench import results, shipped
from coinbench.digests import classifier_digest, evaluate_digest, fit_digest, generator_digest
from coinbench.plan import Planned
from coinbench.reports import tables

if TYPE_CHECKING:
    from coinbench.cache import Cache
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


def plan_rows(planned: list[Planned], cache: Cache) -> list[dict[str, Any]]:
    """Return a row per cell: what of f, G, fit and evaluation is there, and how many steps are left to train."""
    rows, counted = [], set()
    for cell in planned:
        config = cell.cell
        problem = config.problem
        stages = {
            "classifier": (classifier_digest(config), problem.classifier.train.steps),
            "generator": (generator_digest(config), problem.generator.train.steps),
            "fit": (fit_digest(config), config.method.train.steps),
        }
        states = {kind: _state(cache, kind, key) for kind, (key, _) in stages.items()}
        for kind in ("classifier", "generator"):
            if shipped.find(kind, getattr(problem, kind), config):
                states[kind] = "shipped"
        # Cells share f and G: the first that needs one trains it.
        missing = [(key, steps) for kind, (key, steps) in stages.items() if states[kind] not in ("cached", "shipped")]
        steps = sum(steps for key, steps in missing if key not in counted and not cell.done)
        counted |= {key for key, _ in missing}
        rows.append(
            {
                "cell": cell.digest,
                "label": cell.label,
                **states,
                "steps": steps,
                "evaluate": "done" if cell.done else _state(cache, "evaluate", evaluate_digest(config)),
                "metrics": list(config.metrics),
            }
        )
    return rows


def _state(cache: Cache, kind: str, key: str) -> str:
    if cache.has(kind, key):
        return "cached"
    return "begun" if cache.path(kind, f"{key}.partial").is_dir() else "to do"


def plan_text(rows: list[dict[str, Any]]) -> str:
    """Return the rows of a plan as a table."""
    width = max((len(row["label"]) for row in rows), default=4)
    lines = [f"{'cell':<{width}}  {'digest':<16}  {'f':<7}  {'G':<7}  {'fit':<6}  {'steps':>7}  evaluate"]
    lines += [
        f"{row['label']:<{width}}  {row['cell']}  {row['classifier']:<7}  {row['generator']:<7}  {row['fit']:<6}  "
        f"{row['steps']:>7}  {row['evaluate']}"
        for row in rows
    ]
    left = sum(row["evaluate"] != "done" for row in rows)
    return "\n".join([*lines, f"{len(rows)} cells, {left} to run, {sum(row['steps'] for row in rows)} steps to train"])
